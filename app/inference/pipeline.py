"""From a decoded request to an answer: admission, decoding, preparing the picture, computing."""

import asyncio
import base64
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from app.errors import ApiError, ErrorCode
from app.inference.answers import AnswerBuilder
from app.inference.backlog import Charge
from app.inference.decoding import Image
from app.inference.jobs import Job
from app.inference.reading import PictureReader, Steps, picture_cost
from app.inference.recording import AnswerRecorder
from app.inference.scheduler import Scheduler
from app.schemas import McParameters, McPrediction, Prediction, PredictParameters
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.request_record import Timings
from model.checkpoint import Checkpoint
from model.digits.preprocessing import Preprocessed
from model.engines import build_engine
from model.engines.protocol import predict_probs
from model.sampling.masks import dropped_units

if TYPE_CHECKING:
    from app.inference.review import ReviewFolder

T = TypeVar("T")

logger = logging.getLogger("dropserve")

# Costs are in passes. A deterministic answer takes as long as this many.
_DETERMINISTIC_COST = 20
# Preparing an image and summarising its passes.
_IMAGE_COST = 32
# A smaller request, or one that waits less, is answered before its caller can be seen to be gone.
_WATCHED_PASSES, _WATCHED_SECONDS = 256, 0.01
# The event loop gets its turn after each round.
_ROUND_SECONDS = 0.001
# After this time a request lets others of its size go first. Those that take less finish in the
# order in which they came, since taking turns would make nearly all of them late.
_SHARE_SECONDS = 0.05
# Under overload one wait in a hundred of requests of 1000 passes was this multiple of the predicted
# one, in `python -m tests.load.overload`; of batches more.
_LONGEST_TO_PREDICTED = 1.6
# Balanced masks of more passes, or what they drop, would hold up the event loop.
_INLINE_MASKS = 64


class Predictor:
    """Answers requests with one network; belongs to one event loop.

    Args:
        checkpoint: the network.
        settings: how it is served.
        metrics: counts answers and passes, if not None.
        review: keeps pictures for a person, if not None.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Settings,
        metrics: Metrics | None = None,
        review: "ReviewFolder | None" = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.engine = build_engine(checkpoint.network, settings.device, settings.precision)
        self._answers = AnswerBuilder(checkpoint)
        self.scheduler: Scheduler[Job, McPrediction] = Scheduler(
            self._step,
            self._answers.sampled,
            round_seconds=_ROUND_SECONDS,
            share_seconds=_SHARE_SECONDS,
            max_wait_seconds=settings.max_wait_ms / 1000 / _LONGEST_TO_PREDICTED,
            job_cost=_IMAGE_COST,
            note_queued=None if metrics is None else metrics.change_queue,
        )
        self._settings = settings
        self._recorder = AnswerRecorder(metrics, review)
        self._reader = PictureReader(settings)

    def warm_up(self) -> list[Prediction]:
        """Computes one answer of each kind, so that no caller pays for first times."""
        pixels = np.zeros(self.checkpoint.network.config.input_shape, dtype=np.uint8)
        pixels[4:24, 12:16] = 255
        image, parameters = Preprocessed(pixels), McParameters(seed=0)
        job = Job(image, parameters)
        self._step(job, job.remaining)
        return [self._predict(image, parameters), self._answers.sampled(job)]

    async def close(self, seconds: float) -> None:
        """Finishes what is queued, for at most `seconds`; answers the rest with an error."""
        await self.scheduler.close(seconds)
        self._reader.close()

    def may_take_long(self, image: Image, parameters: PredictParameters) -> bool:
        """Whether a request takes or waits long enough for its caller to go away meanwhile."""
        if picture_cost(image) > 0:
            return True
        if not isinstance(parameters, McParameters):
            return False
        if parameters.passes > _WATCHED_PASSES:
            return True
        return self.scheduler.backlog.wait(parameters.passes + _IMAGE_COST) > _WATCHED_SECONDS

    def check(self, parameters_type: type[PredictParameters]) -> None:
        """Refuses what admission would refuse of the smallest request: before its body is read.

        Under overload the server must spend next to nothing on what it refuses.

        Raises:
            ApiError: see `Scheduler.check`.
        """
        is_sampled = issubclass(parameters_type, McParameters)
        self.scheduler.check(_IMAGE_COST + 1 if is_sampled else _DETERMINISTIC_COST)

    def check_request(
        self, images: int, parameters: PredictParameters, *, decoding_cost: int = 0
    ) -> None:
        """Refuses what admission would refuse, before anything is made of the request.

        Args:
            images: their number.
            parameters: validated.
            decoding_cost: of the images, see `picture_cost`.

        Raises:
            ApiError: see `Scheduler.check`.
        """
        cost = self._cost(parameters) * images
        before, timeout = self._reader.wait(decoding_cost), self._timeout(parameters)
        self.scheduler.check(cost, before=before, timeout=timeout)

    async def predict(
        self, image: Image, parameters: PredictParameters
    ) -> tuple[Prediction, Timings]:
        """The deterministic answer, computed at once: it takes less than queueing it would.

        Args:
            image: an image file, or pixels.
            parameters: validated.

        Raises:
            ApiError: the request is refused, or the image has no answer.
        """
        self._answers.check(parameters)
        steps: Steps | None = {} if parameters.return_steps else None
        started = time.monotonic()
        read = self._reader.read_inline(image, parameters.preprocess, steps)
        if read is None:
            decoding = self._reader.charge([image])
            with self._admit([image], parameters, decoding), decoding:
                deadline = self._deadline(parameters)
                read = await self._reader.read(image, parameters.preprocess, deadline, steps)
        decoded = time.monotonic()
        answer = self._predict(read, parameters, steps)
        timings = Timings(decoded - started, 0.0, time.monotonic() - decoded)
        self._recorder.note(image, parameters, answer)
        return answer, timings

    async def predict_mc(
        self, image: Image, parameters: McParameters
    ) -> tuple[McPrediction, Timings]:
        """The MC-dropout answer; see `predict`."""
        steps: Steps | None = {} if parameters.return_steps else None
        decoding = self._reader.charge([image])
        with self._admit([image], parameters, decoding) as charge:
            deadline, started = self._deadline(parameters), time.monotonic()
            with decoding:
                read = await self._reader.read(image, parameters.preprocess, deadline, steps)
            job = Job(read, parameters, has_settled=self._answers.has_settled, steps=steps)
            await self._prepare_masks(job, deadline)
            decoded = time.monotonic()
            (answer,), computing = await self._run([job], deadline, charge)
        if isinstance(answer, Exception):
            raise answer
        self._recorder.note(image, parameters, answer)
        return answer, _timings(started, decoded, computing)

    async def stream_mc(
        self, image: Image, parameters: McParameters
    ) -> AsyncGenerator[tuple[McPrediction, Timings], None]:
        """Partial results while the passes are computed, then the answer of `predict_mc`.

        The first step of the iterator admits the request and decodes the image: what is wrong with
        either is raised there.
        """
        steps: Steps | None = {} if parameters.return_steps else None
        decoding = self._reader.charge([image])
        with self._admit([image], parameters, decoding) as charge:
            deadline, started = self._deadline(parameters), time.monotonic()
            with decoding:
                read = await self._reader.read(image, parameters.preprocess, deadline, steps)
            job = Job(
                read,
                parameters,
                has_settled=self._answers.has_settled,
                steps=steps,
                is_streamed=True,
            )
            await self._prepare_masks(job, deadline)
            decoded = time.monotonic()
            try:
                async with aclosing(self.scheduler.stream(job, deadline, charge)) as answers:
                    async for answer, computing in answers:
                        if answer.is_final:
                            self._recorder.note(image, parameters, answer)
                        yield answer, _timings(started, decoded, computing)
            finally:
                self._recorder.note_passes([job], self.scheduler.most_queued)

    async def predict_batch(
        self, images: Sequence[Image | ApiError], parameters: PredictParameters
    ) -> tuple[list[Prediction | ApiError], Timings]:
        """An answer for each image in order, or what is wrong with it.

        Args:
            images: or what was found wrong with one before.
            parameters: of every image; McParameters for MC dropout.

        Raises:
            ApiError: the request is refused, or its deadline is over.
        """
        decoding = self._reader.charge(images)
        with self._admit(images, parameters, decoding) as charge:
            deadline, started = self._deadline(parameters), time.monotonic()
            with decoding:
                read = [
                    await self._read_of_batch(image, parameters, deadline)
                    async for image in _in_turns(images)
                ]
            good = [one for one in read if not isinstance(one, ApiError)]
            answers: Sequence[Prediction | Exception]
            if isinstance(parameters, McParameters):
                settled = self._answers.has_settled
                jobs = [Job(one, parameters, has_settled=settled) for one in good]
                for job in jobs:
                    await self._prepare_masks(job, deadline)
                decoded = time.monotonic()
                answers, computing = await self._run(jobs, deadline, charge)
            else:
                decoded = time.monotonic()
                answers = [
                    self._predict_of_batch(one, parameters, deadline)
                    async for one in _in_turns(good)
                ]
                computing = time.monotonic() - decoded
        following = iter(answers)
        found = [one if isinstance(one, ApiError) else _own(next(following)) for one in read]
        for image, answer in zip(images, found, strict=True):
            self._recorder.note(image, parameters, answer)
        return found, _timings(started, decoded, computing)

    def _admit(
        self,
        images: Sequence[Image | ApiError],
        parameters: PredictParameters,
        decoding: Charge,
    ) -> AbstractContextManager[Charge]:
        """Counts a request as queued while the block lasts; refuses what cannot be answered.

        Raises:
            ApiError: see `AnswerBuilder.check` and `Scheduler.check`.
        """
        self._answers.check(parameters)
        cost = self._cost(parameters) * len(images)
        before, timeout = self._reader.wait(decoding.cost), self._timeout(parameters)
        return self.scheduler.admit(cost, before=before, timeout=timeout)

    def _cost(self, parameters: PredictParameters) -> int:
        """Of an image, besides decoding it."""
        if isinstance(parameters, McParameters):
            return parameters.passes + _IMAGE_COST
        return _DETERMINISTIC_COST

    async def _read_of_batch(
        self, image: Image | ApiError, parameters: PredictParameters, deadline: float
    ) -> Preprocessed | ApiError:
        if isinstance(image, ApiError):
            return image
        try:
            return await self._reader.read(image, parameters.preprocess, deadline)
        except ApiError as error:
            if error.kind is ErrorCode.DEADLINE_EXCEEDED:
                raise
            return error

    def _predict_of_batch(
        self, image: Preprocessed, parameters: PredictParameters, deadline: float
    ) -> Prediction | ApiError:
        if time.monotonic() >= deadline:
            raise ErrorCode.DEADLINE_EXCEEDED()
        try:
            return self._predict(image, parameters)
        except Exception:
            logger.exception("an image could not be computed")
            return ErrorCode.INTERNAL()

    def _predict(
        self, image: Preprocessed, parameters: PredictParameters, steps: Steps | None = None
    ) -> Prediction:
        """The one way to a deterministic answer."""
        probs = predict_probs(self.engine, image.pixels)
        return self._answers.deterministic(image, parameters, probs, steps)

    async def _run(
        self, jobs: Sequence[Job], deadline: float, charge: Charge
    ) -> tuple[list[McPrediction | Exception], float]:
        """As `Scheduler.run`; the passes are counted."""
        try:
            return await self.scheduler.run(jobs, deadline, charge)
        finally:
            self._recorder.note_passes(jobs, self.scheduler.most_queued)

    async def _prepare_masks(self, job: Job, deadline: float) -> None:
        """Prepares a job whose masks would take too long on the event loop, in the thread."""
        if job.needs_masks and job.passes.count > _INLINE_MASKS:
            await self._reader.in_thread(lambda: self._prepare(job), deadline)

    def _prepare(self, job: Job) -> None:
        """Computes what the passes of an image share; may run in another thread than a step."""
        job.prepared = self.engine.prepare(job.pixels, job.passes)
        if job.parameters.return_passes:
            bits = dropped_units(self.engine.dropout_sites, job.passes)
            job.dropped = [base64.b64encode(row).decode() for row in bits]

    def _step(self, job: Job, passes: int) -> int:
        """Computes about as many passes as given, in whole blocks; returns their number."""
        if job.prepared is None:
            self._prepare(job)
        start, block = job.done, self.engine.block_passes
        stop = min(-(-(start + passes) // block) * block, job.next_stop)
        job.advance(self.engine.sample(job.prepared, start, stop))
        return stop - start

    def _timeout(self, parameters: PredictParameters) -> float:
        return (parameters.timeout_ms or self._settings.max_timeout_ms) / 1000

    def _deadline(self, parameters: PredictParameters) -> float:
        return time.monotonic() + self._timeout(parameters)


async def _in_turns(items: Sequence[T]) -> AsyncGenerator[T, None]:
    """The items; others get their turn on the event loop after each round of them."""
    until = 0.0
    for item in items:
        if time.monotonic() >= until:
            await asyncio.sleep(0)
            until = time.monotonic() + _ROUND_SECONDS
        yield item


def _own(answer: Prediction | Exception) -> Prediction | ApiError:
    """An image's answer or its own error; what concerns the whole batch is raised."""
    if isinstance(answer, ApiError) and answer.kind is not ErrorCode.DEADLINE_EXCEEDED:
        return answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _timings(started: float, decoded: float, computing: float) -> Timings:
    queueing = time.monotonic() - decoded - computing
    return Timings(decoded - started, max(0.0, queueing), computing)
