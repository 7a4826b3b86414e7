"""What becomes of an answer besides being sent: it is counted, and perhaps kept for review."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.errors import ApiError
from app.schemas import McPrediction, Prediction, PredictParameters

if TYPE_CHECKING:
    from app.inference.decoding import Image
    from app.inference.jobs import Job
    from app.inference.review import ReviewFolder
    from app.telemetry.metrics import Metrics
    from model.layered import InputSpec


class AnswerRecorder:
    """Records the answers of a predictor.

    Args:
        model: its name.
        spec: what it takes.
        metrics: count the answers; None: they are not counted.
        review: keeps pictures for a person; None: none are kept.
    """

    def __init__(
        self,
        model: str,
        spec: "InputSpec",
        metrics: "Metrics | None",
        review: "ReviewFolder | None" = None,
    ) -> None:
        self._model, self._spec = model, spec
        self._metrics, self._review = metrics, review

    def note(
        self,
        image: "Image | ApiError",
        parameters: PredictParameters,
        answer: Prediction | ApiError,
    ) -> None:
        """Records an image's answer, or what was wrong with it in a batch."""
        if self._review is not None and not isinstance(answer, ApiError):
            assert not isinstance(image, ApiError)
            self._review.offer(image, parameters, answer, self._spec)
        if self._metrics is None:
            return
        if isinstance(answer, ApiError):
            self._metrics.count_image_error(answer.code)
            return
        information = rate = None
        if isinstance(answer, McPrediction):
            information, rate = float(answer.mutual_information), answer.dropout
        decision = answer.decision
        self._metrics.count_answer(
            self._model,
            "predict" if information is None else "mc",
            answer.digit,
            # NumPy's own scalars are slow to compare.
            float(answer.confidence),
            float(answer.predictive_entropy),
            information,
            reason=None if decision is None else decision.reason,
            is_accepted=decision is not None and decision.reason is None,
            is_calibrated=rate is None,
        )

    def note_passes(self, jobs: "Sequence[Job]", most_queued: int) -> None:
        """Counts the passes of an ended request, computed or not.

        Args:
            jobs: of the request.
            most_queued: passes that are computed in the longest wait, at the pace that the request
                showed.
        """
        if self._metrics is None:
            return
        computed = spared = cancelled = 0
        for job in jobs:
            computed += job.done
            if job.is_finished:
                spared += job.remaining
            else:
                cancelled += job.remaining
        self._metrics.limit_queue(most_queued)
        self._metrics.models.count_passes(self._model, computed)
        self._metrics.count_passes(computed=computed, spared=spared, cancelled=cancelled)
