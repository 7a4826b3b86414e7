"""What the engine is asked for, in pieces that the batcher can run step by step."""

import base64
import logging
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import ApiError, ErrorCode
from app.inference.scheduler import Outcome
from app.schemas import McParameters, PredictParameters
from model.checkpoint import Checkpoint
from model.digits.finding import Box
from model.digits.preprocessing import Pixels
from model.engines.relu_mlp import Engine, PassRange, PreparedImage
from model.literals import StopReason
from model.sampling.adaptive import LOOK_PASSES, sufficient_passes
from model.sampling.masks import Passes, dropped_units
from model.uncertainty.calibration import Calibration, prediction_set, read_calibration
from model.uncertainty.decisions import decide
from model.uncertainty.distribution import Distribution, entropy, soften, softmax
from model.uncertainty.statistics import Summaries, summarise_together

Answer = dict[str, Any]

logger = logging.getLogger("dropserve")

# Drawn seeds stay below this: short enough to read out, and repeated exactly by every JSON parser.
DRAWN_SEED_BITS = 32
# A stream tells its estimate about so many times.
_ESTIMATES = 10
_LEAST_ESTIMATE_PASSES = 4
# A deterministic answer costs about as much as so many passes.
DETERMINISTIC_COST = 20


class Telling(NamedTuple):
    """What is told of an image's passes.

    Attributes:
        probs: of the passes so far, (passes, C).
        stop_reason: why they are all; None where more come, and this is an estimate.
    """

    probs: NDArray[np.float32]
    stop_reason: StopReason | None


# What a step brings: class probabilities with dropout off, or with dropout what is told of passes.
Found = Distribution | Telling
_UNFINISHED: Outcome[Found] = Outcome(False, None)


class _Told(NamedTuple):
    """What is told of an image's passes: their `Summary`, in float32.

    Its shortest decimal form is half as long as float64's: the network knows no more digits.

    Attributes:
        probs: the mean over the passes, for what follows from it.
    """

    probs: Distribution
    mean: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    standard_error: NDArray[np.float32] | None
    predictive_entropy: np.float32
    expected_entropy: np.float32
    mutual_information: np.float32
    votes: NDArray[np.int64]


class PredictWork:
    """A deterministic prediction of one image: a single step."""

    remaining = DETERMINISTIC_COST
    largest_step = DETERMINISTIC_COST

    def __init__(
        self, pixels: Pixels, parameters: PredictParameters, *, boxes: Sequence[Box] = ()
    ) -> None:
        self.pixels = pixels
        self.parameters = parameters
        self.boxes = boxes  # of the digits in the picture, if there are several


class McWork:
    """An MC-dropout prediction of one image."""

    def __init__(
        self,
        pixels: Pixels,
        parameters: McParameters,
        *,
        is_streamed: bool,
        boxes: Sequence[Box] = (),
    ) -> None:
        seed = parameters.seed
        if seed is None:
            seed = secrets.randbits(DRAWN_SEED_BITS)
        self.pixels = pixels
        self.parameters = parameters
        self.boxes = boxes  # of the digits in the picture, if there are several
        self.passes = Passes(parameters.passes, seed, parameters.estimator)
        self.image: PreparedImage | None = None
        self.dropped: list[str] | None = None  # per pass, if asked for
        self.probs: NDArray[np.float32] | None = None  # (passes so far, C)
        self.done = 0
        self.is_streamed = is_streamed
        self.stopped_early = False  # since what was asked for is known well enough
        self.largest_step = self.passes.count
        if is_streamed:
            self.largest_step = max(-(-self.passes.count // _ESTIMATES), _LEAST_ESTIMATE_PASSES)
        if parameters.max_standard_error is not None:
            self.largest_step = min(self.largest_step, LOOK_PASSES)

    @property
    def remaining(self) -> int:
        """Passes still to compute."""
        return self.passes.count - self.done

    def advance(self, probs: NDArray[np.float32]) -> Telling | None:
        """Takes the next passes, (passes, C); what is then to be told, if anything is."""
        looked_at = self.done
        self.probs = probs if self.probs is None else np.concatenate([self.probs, probs])
        self.done = len(self.probs)
        target = self.parameters.max_standard_error
        if target is not None:
            enough = sufficient_passes(self.probs, looked_at, target)
            if enough is not None:
                self.stopped_early = True
                return Telling(self.probs[:enough], "standard_error")
        if self.remaining == 0:
            return Telling(self.probs, "passes")
        return Telling(self.probs, None) if self.is_streamed else None


class Worker:
    """Takes steps of works with one engine, and turns what is finished into answers."""

    def __init__(self, checkpoint: Checkpoint, engine: Engine) -> None:
        self._engine = engine
        self._labels = checkpoint.network.config.labels
        self._calibration = read_calibration(checkpoint.calibration, "predict")
        self._mc_calibration = read_calibration(checkpoint.calibration, "mc")
        self.levels = sorted(self._calibration.least_probabilities)
        self._identity = {"name": checkpoint.name, "version": checkpoint.version}

    def step(
        self, batch: Sequence[tuple[PredictWork | McWork, int]]
    ) -> list[Outcome[Found] | Exception]:
        """One step of each work: of a sampled one at most the given number of passes."""
        sampled = [(work, passes) for work, passes in batch if isinstance(work, McWork)]
        self.prepare([work for work, _ in sampled])
        ranges = [
            PassRange(work.image, work.done, work.done + passes)
            for work, passes in sampled
            if work.image is not None
        ]
        told = iter(
            [
                work.advance(probs)
                for (work, _), probs in zip(sampled, self._engine.sample(ranges), strict=True)
            ]
        )
        return [
            self._advance(work) if isinstance(work, PredictWork) else _outcome(next(told))
            for work, _ in batch
        ]

    def _advance(self, work: PredictWork) -> Outcome[Found] | Exception:
        try:
            return Outcome(True, softmax(self._engine.predict_logits(work.pixels)))
        except Exception:  # this work's alone: the others have taken their passes
            logger.exception("an image could not be computed")
            return ApiError(ErrorCode.INTERNAL)

    def answer(
        self, results: Sequence[tuple[PredictWork | McWork, Found]]
    ) -> list[Answer | Exception]:
        """The answers, or what hinders one."""
        tellings = [found for _, found in results if isinstance(found, Telling)]
        summaries = iter(_summaries([telling.probs for telling in tellings]))
        answers: list[Answer | Exception] = []
        for work, found in results:
            try:
                if isinstance(found, Telling):
                    summary = next(summaries)
                    if isinstance(summary, Exception):
                        raise summary
                    assert isinstance(work, McWork)
                    answers.append(self._mc_answer(work, summary, found))
                else:
                    answers.append(self._plain_answer(work, found))
            except Exception:
                logger.exception("an answer could not be made")
                answers.append(ApiError(ErrorCode.INTERNAL))
        return answers

    def prepare(self, works: Sequence[McWork]) -> None:
        """What the passes of each image share, once; may run in another thread than `step`."""
        works = [work for work in works if work.image is None]
        if works:
            images = self._engine.prepare(
                [work.pixels for work in works], [work.passes for work in works]
            )
            for work, image in zip(works, images, strict=True):
                work.image = image
                if work.parameters.return_passes:
                    bits = dropped_units(self._engine.config, work.passes)
                    work.dropped = [base64.b64encode(row).decode() for row in bits]

    def predict(self, work: PredictWork) -> Answer:
        """The deterministic answer."""
        return self._plain_answer(work, softmax(self._engine.predict_logits(work.pixels)))

    def _plain_answer(self, work: PredictWork | McWork, probs: Distribution) -> Answer:
        return self._answer(probs, np.float32(entropy(probs)), self._calibration, work)

    def _mc_answer(self, work: McWork, summary: _Told, telling: Telling) -> Answer:
        doubt = summary.predictive_entropy
        answer = self._answer(summary.probs, doubt, self._mc_calibration, work)
        answer["mean"] = summary.mean
        answer["variance"] = summary.variance
        answer["standard_error"] = summary.standard_error
        answer["expected_entropy"] = summary.expected_entropy
        answer["mutual_information"] = summary.mutual_information
        answer["votes"] = summary.votes
        answer["passes"] = len(telling.probs)
        answer["stop_reason"] = telling.stop_reason
        answer["seed"] = work.passes.seed
        answer["estimator"] = work.passes.estimator
        if work.dropped is not None:
            answer["pass_probabilities"] = np.ascontiguousarray(telling.probs)
            answer["dropped"] = work.dropped[: len(telling.probs)]
        return answer

    def _decide(
        self,
        probs: Distribution,
        score: np.float32,
        calibration: Calibration,
        boxes: Sequence[Box],
    ) -> Answer | None:
        threshold, several = calibration.threshold, bool(boxes)
        decision = decide(probs, float(score), threshold, several_digits=several)
        if decision is None:
            return None
        decided: Answer = {
            "outcome": decision.outcome,
            "reason": decision.reason,
            "score": score,
            "threshold": threshold,
        }
        if boxes:
            decided["boxes"] = boxes
        return decided

    def _answer(
        self,
        probs: Distribution,
        score: np.float32,
        calibration: Calibration,
        work: PredictWork | McWork,
    ) -> Answer:
        probabilities = soften(probs, calibration.temperature)
        confidence = max(probabilities)
        digit = probabilities.index(confidence)
        # Judged by what is told, so that the answer never contradicts itself.
        decided = self._decide(probs, score, calibration, work.boxes)
        answer: Answer = {
            "digit": digit,
            "label": self._labels[digit],
            "confidence": np.float32(confidence),
            "probabilities": np.array(probabilities, np.float32),
            "predictive_entropy": score,
            "decision": decided,
            "model": self._identity,
        }
        if work.parameters.coverage is not None:
            least = calibration.least_probabilities[work.parameters.coverage]
            answer["prediction_set"] = prediction_set(probabilities, least)
        if work.parameters.return_input:
            answer["input"] = np.ascontiguousarray(work.pixels)
        return answer


def _outcome(telling: Telling | None) -> Outcome[Found]:
    return _UNFINISHED if telling is None else Outcome(telling.stop_reason is not None, telling)


def _summaries(told: Sequence[NDArray[np.float32]]) -> list[_Told | Exception]:
    """Of each image's passes, (passes, C); those of images with as many passes share the work."""
    places: dict[int, list[int]] = {}
    for place, probs in enumerate(told):
        places.setdefault(len(probs), []).append(place)
    summaries: list[_Told | Exception] = [ApiError(ErrorCode.INTERNAL)] * len(told)
    for group in places.values():
        found: Iterable[_Told | Exception]
        try:
            found = _as_told(summarise_together([told[place] for place in group]))
        except Exception as error:
            found = [error] * len(group)
        for place, summary in zip(group, found, strict=True):
            summaries[place] = summary
    return summaries


def _as_told(found: Summaries) -> Iterable[_Told]:
    """The summary of each image, all made float32 together."""
    nothing = [None] * len(found.mean)
    return map(
        _Told,
        found.mean.tolist(),
        found.mean.astype(np.float32),
        nothing if found.variance is None else found.variance.astype(np.float32),
        nothing if found.standard_error is None else found.standard_error.astype(np.float32),
        found.predictive_entropy.astype(np.float32),
        found.expected_entropy.astype(np.float32),
        found.mutual_information.astype(np.float32),
        found.votes,
    )
