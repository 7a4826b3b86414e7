"""From class probabilities to answers: statistics, calibration, decision."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from app.schemas import Decision, McPrediction, ModelIdentity, Prediction, PredictParameters
from model.arrays import Pixels
from model.checkpoint import Checkpoint
from model.digits.finding import Box
from model.digits.preprocessing import Preprocessed
from model.uncertainty.calibration import Calibration, prediction_set, read_calibration
from model.uncertainty.decisions import decide
from model.uncertainty.distribution import Distribution, shannon_entropy, soften
from model.uncertainty.statistics import summarise_together

if TYPE_CHECKING:
    from app.inference.jobs import Job


class AnswerBuilder:
    """Makes the answers of one checkpoint's network.

    Numbers are float32: their shortest decimal form is half as long as float64's, and the network
    knows no more digits.

    Attributes:
        levels: of coverage that the checkpoint has prediction sets for, ascending.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._labels = checkpoint.network.config.labels
        self._calibration = read_calibration(checkpoint.calibration, "predict")
        self._mc_calibration = read_calibration(checkpoint.calibration, "mc")
        self._identity = ModelIdentity(name=checkpoint.name, version=checkpoint.version)
        self.levels = sorted(self._calibration.conformal_quantiles)

    def deterministic(
        self, image: Preprocessed, parameters: PredictParameters, probs: Distribution
    ) -> Prediction:
        """The answer with dropout off, from C probabilities."""
        score: Any = np.float32(shannon_entropy(probs))
        return Prediction.of(
            self._shared(probs, score, self._calibration, image.pixels, image.boxes, parameters)
        )

    def sampled(self, jobs: "Sequence[Job]") -> list[McPrediction]:
        """The answer to each job from the passes that it has so far.

        Jobs with equally many passes share the calls into NumPy, which take longer than the
        arithmetic.
        """
        places: dict[int, list[int]] = {}
        for place, job in enumerate(jobs):
            assert job.probs is not None
            places.setdefault(len(job.probs), []).append(place)
        answers: dict[int, McPrediction] = {}
        for group in places.values():
            made = self._sampled_alike([jobs[place] for place in group])
            answers.update(zip(group, made, strict=True))
        return [answers[place] for place in range(len(jobs))]

    def _sampled_alike(self, jobs: "Sequence[Job]") -> list[McPrediction]:
        found = summarise_together([job.probs for job in jobs if job.probs is not None])
        means, mean_lists = found.mean.astype(np.float32), found.mean.tolist()
        spreads = None if found.variance is None else found.variance.astype(np.float32)
        errors = None if found.standard_error is None else found.standard_error.astype(np.float32)
        scores = found.predictive_entropy.astype(np.float32)
        expected = found.expected_entropy.astype(np.float32)
        information = found.mutual_information.astype(np.float32)
        answers = []
        for i, job in enumerate(jobs):
            assert job.probs is not None
            calibration = self._mc_calibration
            fields = self._shared(
                mean_lists[i], scores[i], calibration, job.pixels, job.boxes, job.parameters
            )
            fields["mean"] = means[i]
            fields["variance"] = None if spreads is None else spreads[i]
            fields["standard_error"] = None if errors is None else errors[i]
            fields["expected_entropy"] = expected[i]
            fields["mutual_information"] = information[i]
            fields["votes"] = found.votes[i]
            fields["passes"] = len(job.probs)
            fields["stop_reason"] = job.stop_reason
            fields["seed"] = job.passes.seed
            fields["estimator"] = job.passes.estimator
            if job.dropped is not None:
                fields["pass_probabilities"] = np.ascontiguousarray(job.probs)
                fields["dropped"] = job.dropped[: len(job.probs)]
            answers.append(McPrediction.of(fields))
        return answers

    def _shared(
        self,
        probs: Distribution,
        score: Any,
        calibration: Calibration,
        pixels: Pixels,
        boxes: Sequence[Box],
        parameters: PredictParameters,
    ) -> dict[str, Any]:
        """The fields of both kinds of answer; `score` is the predictive entropy, float32."""
        probabilities = soften(probs, calibration.temperature)
        confidence = max(probabilities)
        digit = probabilities.index(confidence)
        fields: dict[str, Any] = {
            "digit": digit,
            "label": self._labels[digit],
            "confidence": np.float32(confidence),
            "probabilities": np.array(probabilities, np.float32),
            "predictive_entropy": score,
            "decision": _decide(probs, score, calibration, boxes),
            "model": self._identity,
        }
        if parameters.coverage is not None:
            least = calibration.conformal_quantiles[parameters.coverage]
            fields["prediction_set"] = prediction_set(probabilities, least)
        if parameters.return_input:
            fields["input"] = np.ascontiguousarray(pixels)
        return fields


def _decide(
    probs: Distribution, score: Any, calibration: Calibration, boxes: Sequence[Box]
) -> Decision | None:
    # Judged by the score that is returned, so that the answer never contradicts itself.
    threshold = calibration.threshold
    decided = decide(probs, float(score), threshold, several_digits=bool(boxes))
    if decided is None or threshold is None:
        return None
    fields: dict[str, Any] = {
        "outcome": decided.outcome,
        "reason": decided.reason,
        "score": score,
        "threshold": threshold,
    }
    if boxes:
        fields["boxes"] = boxes
    return Decision.of(fields)
