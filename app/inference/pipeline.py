"""From a decoded request to an answer: admission, decoding, preparing the picture, computing."""

import asyncio
import base64
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from app.errors import ApiError, ErrorCode
from app.inference.admission import INLINE_COST, Admission
from app.inference.answers import AnswerBuilder
from app.inference.backlog import Charge
from app.inference.costs import IMAGE_COST, NetworkCost
from app.inference.decoding import Image
from app.inference.jobs import Job
from app.inference.reading import PictureReader, Steps
from app.inference.recording import AnswerRecorder
from app.inference.resources import ROUND_SECONDS, Resources
from app.schemas import McParameters, McPrediction, Prediction, PredictParameters
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.request_record import Timings
from model.checkpoint import AnyCheckpoint
from model.digits.preprocessing import Preprocessed
from model.engines import build_engine
from model.engines.protocol import predict_probs
from model.engines.relu_mlp import ReluMlpEngine
from model.layered import spec_of
from model.literals import SIDE
from model.sampling.masks import dropped_units

if TYPE_CHECKING:
    from app.inference.review import ReviewFolder

T = TypeVar("T")

logger = logging.getLogger("dropserve")

# Balanced masks of more passes, or what they drop, would hold up the event loop.
_INLINE_MASKS = 64


class Predictor(Admission):
    """Answers requests with one network; belongs to one event loop.

    Args:
        checkpoint: the network.
        settings: how it is served.
        metrics: counts answers and passes, if not None.
        name: of the model; the checkpoint's own, if None.
        resources: what it shares with other predictors; without them it has its own.
        review: keeps pictures for a person, if not None.

    Attributes:
        name: of the model.
        spec: what requests send for one input.
        reproducible: where a seed gives the same bytes again; None: on every processor.
    """

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        settings: Settings,
        metrics: Metrics | None = None,
        *,
        name: str | None = None,
        resources: Resources | None = None,
        review: "ReviewFolder | None" = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.name = checkpoint.name if name is None else name
        self.spec = spec_of(checkpoint.network)
        self.engine = build_engine(checkpoint.network, settings.device, settings.precision)
        is_compiled = isinstance(self.engine, ReluMlpEngine)
        self.reproducible = None if is_compiled else "on one kind of processor"
        answers = AnswerBuilder(checkpoint, self.name, self.reproducible)
        self._own = None if resources else Resources(settings, PictureReader(settings), metrics)
        shared = resources or self._own
        assert shared is not None
        cost = NetworkCost(checkpoint.network, self.engine, shared.unit)
        super().__init__(shared, cost, answers, settings)
        self._recorder = AnswerRecorder(self.name, self.spec, metrics, review)

    def warm_up(self) -> list[Prediction]:
        """Computes one answer of each kind, so that no caller pays for first times."""
        inputs, parameters = np.zeros(self.spec.shape, self.spec.dtype), McParameters(seed=0)
        if self.spec.preparation == "digit":
            inputs = np.zeros((SIDE, SIDE), np.uint8)
            inputs[4:24, 12:16] = 255
        image = Preprocessed(inputs)
        for _ in range(2):  # of which the first may take much longer
            job = Job(image, parameters, owner=self)
            self.step(job, job.remaining * self._network_cost.per_pass)
        return [self._predict(image, parameters), self._answers.sampled(job)]

    async def close(self, seconds: float) -> None:
        """Admits nothing more; see also `Resources.close`, for what is its own."""
        self._is_closed = True
        if self._own is not None:
            await self._own.close(seconds)

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
        read = await self._reader.read_inline(image, parameters.preprocess, self.spec, steps)
        if read is None:
            decoding = self._reader.charge([image])
            with self._admit([image], parameters, decoding), decoding:
                deadline = self._deadline(parameters)
                read = await self._read(image, parameters, deadline, steps)
        decoded = time.monotonic()
        if self._network_cost.deterministic > INLINE_COST:
            answer = await self._predict_in_thread(
                read, parameters, self._deadline(parameters), steps
            )
        else:
            answer = self._predict(read, parameters, steps)
        timings = Timings(decoded - started, 0.0, time.monotonic() - decoded)
        await self._reader.cohort.begin_stage()
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
                read = await self._read(image, parameters, deadline, steps, cost=decoding.cost)
            job = Job(read, parameters, owner=self, steps=steps)
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
                read = await self._read(image, parameters, deadline, steps, cost=decoding.cost)
            job = Job(read, parameters, owner=self, steps=steps, is_streamed=True)
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
                jobs = [Job(one, parameters, owner=self) for one in good]
                for job in jobs:
                    await self._prepare_masks(job, deadline)
                decoded = time.monotonic()
                answers, computing = await self._run(jobs, deadline, charge)
            else:
                decoded = time.monotonic()
                answers = [
                    await self._predict_of_batch(one, parameters, deadline)
                    async for one in _in_turns(good)
                ]
                computing = time.monotonic() - decoded
        following = iter(answers)
        found = [one if isinstance(one, ApiError) else _own(next(following)) for one in read]
        for image, answer in zip(images, found, strict=True):
            self._recorder.note(image, parameters, answer)
        return found, _timings(started, decoded, computing)

    async def _read(
        self,
        image: Image,
        parameters: PredictParameters,
        deadline: float,
        steps: Steps | None = None,
        **options: Any,
    ) -> Preprocessed:
        """What the network sees; see `PictureReader.read`."""
        mode = parameters.preprocess
        return await self._reader.read(image, mode, deadline, self.spec, steps, **options)

    async def _read_of_batch(
        self, image: Image | ApiError, parameters: PredictParameters, deadline: float
    ) -> Preprocessed | ApiError:
        if isinstance(image, ApiError):
            return image
        try:
            return await self._read(image, parameters, deadline, in_stages=False)
        except ApiError as error:
            if error.kind is ErrorCode.DEADLINE_EXCEEDED:
                raise
            return error

    async def _predict_of_batch(
        self, image: Preprocessed, parameters: PredictParameters, deadline: float
    ) -> Prediction | ApiError:
        if time.monotonic() >= deadline:
            raise ErrorCode.DEADLINE_EXCEEDED()
        try:
            if self._network_cost.deterministic > INLINE_COST:
                return await self._predict_in_thread(image, parameters, deadline)
            return self._predict(image, parameters)
        except ApiError:
            raise
        except Exception:
            logger.exception("an image could not be computed")
            return ErrorCode.INTERNAL()

    async def _predict_in_thread(
        self,
        image: Preprocessed,
        parameters: PredictParameters,
        deadline: float,
        steps: Steps | None = None,
    ) -> Prediction:
        """The same, of a network that takes long enough to be worth the thread."""
        return await self._reader.in_thread(
            lambda: self._predict(image, parameters, steps), deadline
        )

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
        """Prepares a job that would take too long on the event loop, in the thread."""
        takes_long = job.needs_masks and job.passes.count > _INLINE_MASKS
        if takes_long or self._network_cost.per_image > INLINE_COST:
            await self._reader.in_thread(lambda: self._prepare(job), deadline)

    def _prepare(self, job: Job) -> None:
        """Computes what the passes of an image share; may run in another thread than a step."""
        job.prepared = self.engine.prepare(job.pixels, job.passes)
        if job.parameters.return_passes:
            bits = dropped_units(self.engine.dropout_sites, job.passes)
            job.dropped = [base64.b64encode(row).decode() for row in bits]

    def step(self, job: Job, cost: int) -> int:
        """Computes passes of about a cost, in whole blocks; returns what they cost."""
        per_pass = self._network_cost.per_pass
        if job.prepared is None:
            self._prepare(job)
        start, block = job.done, self.engine.block_passes
        passes = max(1, cost // per_pass)
        stop = min(-(-(start + passes) // block) * block, job.next_stop)
        started = time.perf_counter()
        probs = self.engine.sample(job.prepared, start, stop)
        self._network_cost.measure(stop - start, time.perf_counter() - started)
        job.advance(probs)
        # What the passes share is done with the first of them; the scheduler knows its least cost.
        shared = 0 if start else self._network_cost.per_image - IMAGE_COST
        return (stop - start) * per_pass + shared

    def answer(self, job: Job) -> McPrediction:
        """The answer from the passes so far."""
        return self._answers.sampled(job)

    def has_settled(self, job: Job) -> bool:
        """Whether further passes would hardly change the decision."""
        return self._answers.has_settled(job)


async def _in_turns(items: Sequence[T]) -> AsyncGenerator[T, None]:
    """The items; others get their turn on the event loop after each round of them."""
    until = 0.0
    for item in items:
        if time.monotonic() >= until:
            await asyncio.sleep(0)
            until = time.monotonic() + ROUND_SECONDS
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
