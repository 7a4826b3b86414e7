"""From class probabilities to answers: statistics, calibration, decision."""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from app.schemas import Decision, McPrediction, ModelIdentity, Prediction, PredictParameters
from model.arrays import Floats, Pixels, Probs
from model.checkpoint import Checkpoint
from model.digits.parts import Box
from model.digits.preprocessing import Preprocessed
from model.uncertainty.calibration import (
    Calibration,
    apply_temperature,
    prediction_set,
    read_calibration,
)
from model.uncertainty.decisions import decide
from model.uncertainty.statistics import entropy, summarise

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
        self._mc_calibrations = lru_cache(maxsize=1024)(
            partial(read_calibration, checkpoint.calibration, "mc")
        )
        self._identity = ModelIdentity(name=checkpoint.name, version=checkpoint.version)
        self.levels = sorted(self._calibration.conformal_quantiles)

    def deterministic(
        self,
        image: Preprocessed,
        parameters: PredictParameters,
        probs: Floats,
        steps: Mapping[str, str] | None = None,
    ) -> Prediction:
        """The answer with dropout off, from C probabilities."""
        score: Any = np.float32(entropy(probs))
        decision = _decide(probs, score, np.float32(0), self._calibration, image.boxes)
        return Prediction.of(
            self._shared(probs, score, decision, self._calibration, image.pixels, steps, parameters)
        )

    def sampled(self, job: "Job") -> McPrediction:
        """The answer from the passes that the job has so far."""
        assert job.probs is not None
        found = summarise(job.probs)
        score = np.float32(found.predictive_entropy)
        # The calibration was fitted with the checkpoint's own rates.
        calibration = Calibration()
        if job.passes.dropout is None:
            calibration = self._mc_calibrations(len(job.probs))
        information = np.float32(found.mutual_information)
        decision = _decide(found.mean, score, information, calibration, job.boxes)
        fields = self._shared(
            found.mean, score, decision, calibration, job.pixels, job.steps, job.parameters
        )
        fields["mean"] = found.mean.astype(np.float32)
        fields["variance"] = fields["standard_error"] = None
        if found.variance is not None and found.standard_error is not None:
            fields["variance"] = found.variance.astype(np.float32)
            fields["standard_error"] = found.standard_error.astype(np.float32)
        fields["expected_entropy"] = np.float32(found.expected_entropy)
        fields["mutual_information"] = information
        fields["votes"] = found.votes
        fields["passes"] = len(job.probs)
        fields["stop_reason"] = job.stop_reason
        fields["seed"] = job.passes.seed
        fields["estimator"] = job.passes.estimator
        if job.passes.dropout is not None:
            fields["dropout"] = job.passes.dropout
        if job.dropped is not None:
            fields["pass_probabilities"] = np.ascontiguousarray(job.probs)
            fields["dropped"] = job.dropped[: len(job.probs)]
        return McPrediction.of(fields)

    def _shared(
        self,
        probs: Probs,
        score: Any,
        decision: Decision | None,
        calibration: Calibration,
        pixels: Pixels,
        steps: Mapping[str, str] | None,
        parameters: PredictParameters,
    ) -> dict[str, Any]:
        """The fields of both kinds of answer; `score` is the predictive entropy, float32."""
        probabilities = apply_temperature(probs, calibration.temperature).tolist()
        confidence = max(probabilities)
        digit = probabilities.index(confidence)
        fields: dict[str, Any] = {
            "digit": digit,
            "label": self._labels[digit],
            "confidence": np.float32(confidence),
            "probabilities": np.array(probabilities, np.float32),
            "predictive_entropy": score,
            "decision": decision,
            "model": self._identity,
        }
        if parameters.coverage is not None:
            least = calibration.conformal_quantiles[parameters.coverage]
            fields["prediction_set"] = prediction_set(probabilities, least)
        if parameters.return_input:
            fields["input"] = np.ascontiguousarray(pixels)
        if steps is not None:
            fields["steps"] = steps
        return fields


def _decide(
    probs: Probs, entropy: Any, information: Any, calibration: Calibration, boxes: Sequence[Box]
) -> Decision | None:
    """Decides by the float32 scores that are returned, so that the answer agrees with itself."""
    scores = {"predictive_entropy": entropy, "mutual_information": information}
    decided = decide(
        probs,
        float(entropy),
        calibration,
        mutual_information=float(information),
        several_digits=bool(boxes),
    )
    if decided is None:
        return None
    fields: dict[str, Any] = decided._asdict() | {"score": scores[decided.measure]}
    if boxes:
        fields["boxes"] = boxes
    return Decision.of(fields)
