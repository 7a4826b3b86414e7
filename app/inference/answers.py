"""From class probabilities to answers: statistics, calibration, decision."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from app.errors import ErrorCode
from app.schemas import (
    Decision,
    McParameters,
    McPrediction,
    ModelIdentity,
    Prediction,
    PredictParameters,
    index_name,
)
from model.arrays import Floats, Pixels, Probs
from model.checkpoint import AnyCheckpoint
from model.digits.preprocessing import Preprocessed
from model.pixels import Box
from model.sampling.settling import has_settled
from model.uncertainty.calibration import (
    Calibration,
    apply_temperature,
    prediction_set,
    read_calibration,
    read_settling,
)
from model.uncertainty.decisions import decide
from model.uncertainty.statistics import entropy, summarise

if TYPE_CHECKING:
    from app.inference.jobs import Job


# Where the answer of a network without thresholds would have its decision.
NO_DECISION = (
    "this network is not calibrated; dropserve-train calibrate --images FILE.npz fits its "
    "thresholds on labelled data of yours"
)
# Of a request with a dropout rate of its own.
_UNCALIBRATED = Calibration()


class AnswerBuilder:
    """Makes the answers of one checkpoint's network.

    Args:
        checkpoint: which has the labels and the calibration.
        name: of the model; the checkpoint's own, if None.
        reproducible: see `ModelIdentity`.

    Numbers are float32: their shortest decimal form is half as long as float64's, and the network
    knows no more digits.
    """

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        name: str | None = None,
        reproducible: str | None = None,
    ) -> None:
        self._labels = checkpoint.network.config.labels
        self._calibration = read_calibration(checkpoint.calibration, "predict")
        self._mc_calibrations = lru_cache(maxsize=1024)(
            partial(read_calibration, checkpoint.calibration, "mc")
        )
        self._identity = ModelIdentity(
            name=name or checkpoint.name, version=checkpoint.version, reproducible=reproducible
        )
        self._index_name = index_name(self._labels)
        self._scales = read_settling(checkpoint.calibration)

    def check(self, parameters: PredictParameters) -> None:
        """Refuses what the checkpoint is not calibrated for.

        Raises:
            ApiError: invalid_parameter.
        """
        if parameters.coverage is not None:
            _require("coverage", parameters.coverage, self._calibration.conformal_quantiles)
        if parameters.target_error is not None:
            targets = self._calibration_of(parameters).targets
            _require("target_error", parameters.target_error, targets)
        is_ended_early = isinstance(parameters, McParameters) and parameters.until is not None
        if is_ended_early and parameters.target_error not in self._scales:
            raise ErrorCode.INVALID_PARAMETER(
                "until must be left out: dropserve-train calibrate has fitted no rule for it to "
                "this checkpoint, or none for this target_error",
                param="until",
            )

    def has_settled(self, job: "Job") -> bool:
        """Whether further passes would hardly change the decision of the passes so far."""
        assert job.probs is not None
        target = job.parameters.target_error
        calibration = self._calibration_of(job.parameters, len(job.probs))
        if target is not None:
            calibration = calibration.at(target)
        if calibration.threshold is None:
            return False
        found = summarise(job.probs)
        return bool(job.boxes) or bool(
            has_settled(
                found.predictive_entropy,
                found.mutual_information,
                calibration,
                len(job.probs),
                self._scales[target],
            )
        )

    def _calibration_of(
        self, parameters: PredictParameters, passes: int | None = None
    ) -> Calibration:
        """For a number of passes: those that are asked for if it is None."""
        if not isinstance(parameters, McParameters):
            return self._calibration
        if parameters.dropout is not None:
            return _UNCALIBRATED  # it was fitted with the checkpoint's own rates
        return self._mc_calibrations(passes or parameters.passes)

    def deterministic(
        self,
        image: Preprocessed,
        parameters: PredictParameters,
        probs: Floats,
        steps: Mapping[str, str] | None = None,
    ) -> Prediction:
        """The answer with dropout off, from C probabilities."""
        score: Any = np.float32(entropy(probs))
        decision = _decide(probs, score, np.float32(0), self._calibration, image.boxes, parameters)
        return Prediction.of(
            self._shared(probs, score, decision, self._calibration, image.pixels, steps, parameters)
        )

    def sampled(self, job: "Job") -> McPrediction:
        """The answer from the passes that the job has so far."""
        assert job.probs is not None
        found = summarise(job.probs)
        score = np.float32(found.predictive_entropy)
        calibration = self._calibration_of(job.parameters, len(job.probs))
        information = np.float32(found.mutual_information)
        decision = _decide(found.mean, score, information, calibration, job.boxes, job.parameters)
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
        index = probabilities.index(confidence)
        fields: dict[str, Any] = {
            self._index_name: index,
            "label": self._labels[index],
            "confidence": np.float32(confidence),
            "probabilities": np.array(probabilities, np.float32),
            "predictive_entropy": score,
            "decision": decision,
            "model": self._identity,
        }
        if decision is None and calibration is not _UNCALIBRATED:
            fields["no_decision"] = NO_DECISION
        if parameters.coverage is not None:
            least = calibration.conformal_quantiles[parameters.coverage]
            fields["prediction_set"] = prediction_set(probabilities, least)
        if parameters.return_input:
            fields["input"] = np.ascontiguousarray(pixels)
        if steps is not None:
            fields["steps"] = steps
        return fields


def _decide(
    probs: Probs,
    entropy: Any,
    information: Any,
    calibration: Calibration,
    boxes: Sequence[Box],
    parameters: PredictParameters,
) -> Decision | None:
    """Decides by the float32 scores that are returned, so that the answer agrees with itself."""
    scores = {"predictive_entropy": entropy, "mutual_information": information}
    target = parameters.target_error
    if target is not None:
        calibration = calibration.at(target)
    decided = decide(
        probs,
        float(entropy),
        calibration,
        mutual_information=float(information),
        several_digits=bool(boxes),
    )
    if decided is None:
        return None
    fields: dict[str, Any] = dict(zip(decided._fields, decided, strict=True))
    fields["score"] = scores[decided.measure]
    if target is not None:
        fields["coverage"] = round(calibration.targets[target].coverage, 4)
    if boxes:
        fields["boxes"] = boxes
    return Decision.of(fields)


def _require(name: str, level: float, known: Iterable[float]) -> None:
    """Refuses a level that the checkpoint does not have."""
    levels = sorted(known)
    if level in levels:
        return
    cure = f"one of this checkpoint's levels: {', '.join(map(str, levels))}"
    if not levels:
        cure = "left out: dropserve-train calibrate has not fitted this checkpoint"
    elif name == "target_error":
        cure += f"; the least that its validation images support is {levels[0]}"
    raise ErrorCode.INVALID_PARAMETER(f"{name} must be {cure}", param=name)
