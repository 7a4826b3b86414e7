"""From requests to answers: admission, decoding, preprocessing, and the engine's batcher."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TypeVar

import numpy as np

from app.api.bodies import BatchRequest, Image, ImageRequest
from app.errors import ApiError, ErrorCode, from_image_error
from app.inference.decoding import INLINE_BYTES, decode_if_small, decode_scaled
from app.inference.jobs import DETERMINISTIC_COST, Answer, Found, McWork, PredictWork, Worker
from app.inference.scheduler import Admission, Batcher, Outcome
from app.schemas import McParameters, PredictParameters
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.request_record import Timings
from model.checkpoint import Checkpoint
from model.digits.preprocessing import Preprocessed, find_digits, take_as_it_is
from model.engines.relu_mlp import Engine, build_engine
from model.errors import ImageError

T = TypeVar("T")

# What preparing an image and summing it up costs, in passes.
_IMAGE_COST = 32
# A round of so many takes about a millisecond, and can run on the event loop: five images of 50,
# which fill a block of the engine.
_ROUND_PASSES = 5 * (50 + _IMAGE_COST)
# After so many passes a request lets others go first: one image with the most passes is no longer.
_SHARE_PASSES = 1024
# Bytes of an image file that take as long to decode as one pass: 2 MB of JPEG take 30 ms.
_DECODED_BYTES_PER_PASS = 150
# Drawing balanced masks of more passes than this, or telling what they drop, would hold up the
# event loop.
_INLINE_MASKS = 64
# Images of a batch that are decoded, or whose first layer is computed, before others get their turn
# on the event loop.
_AT_A_TIME = 32


class Inference:
    """Answers requests with one network; belongs to one event loop.

    Args:
        checkpoint: the network.
        settings: how it is served.
        metrics: counts what is answered and computed; None: nobody does.
    """

    def __init__(
        self, checkpoint: Checkpoint, settings: Settings, metrics: Metrics | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.engine: Engine = build_engine(checkpoint.network, settings.device, settings.precision)
        self.worker = Worker(checkpoint, self.engine)
        self.batcher: Batcher[PredictWork | McWork, Found, Answer] = Batcher(
            self.worker.step if metrics is None else self._counted_step,
            self.worker.answer,
            round_passes=_ROUND_PASSES,
            share_passes=_SHARE_PASSES,
            work_overhead=_IMAGE_COST,
            max_queued=settings.max_queued_passes,
            note_queued=None if metrics is None else metrics.change_queue,
        )
        self._settings = settings
        self._metrics = metrics
        # One photo is decoded beside the engine's work: it alone must not turn everybody away.
        self._most_decoding_cost = settings.max_queued_passes // 2
        # One thread: more decoding at a time would only take the engine's core from it.
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")

    def warm_up(self) -> None:
        """Computes one answer of each kind, so that no caller pays for first times."""
        pixels = np.zeros(self.checkpoint.network.config.input_shape, dtype=np.uint8)
        pixels[4:24, 12:16] = 255
        predicted = PredictWork(pixels, PredictParameters())
        sampled = McWork(pixels, McParameters(seed=0), is_streamed=False)
        for work in (predicted, sampled):
            (outcome,) = self.worker.step([(work, work.remaining)])
            if isinstance(outcome, Outcome) and outcome.found is not None:
                self.worker.answer([(work, outcome.found)])

    async def close(self, seconds: float) -> None:
        """Finishes what is queued, for at most `seconds`; answers the rest with an error."""
        await self.batcher.close(seconds)
        # What is being decoded is answered, if only with an error.
        self._decoding.shutdown(wait=False)

    def refuse_if_full(self, parameters_type: type[PredictParameters]) -> None:
        """Raises what admission would for the smallest request: before its body is read.

        Under overload the server must spend next to nothing on what it refuses.

        Raises:
            OverloadedError, NotReadyError: see `Batcher.admit`.
        """
        is_sampled = issubclass(parameters_type, McParameters)
        self.batcher.check(_IMAGE_COST + 1 if is_sampled else DETERMINISTIC_COST)

    async def predict(self, asked: ImageRequest[PredictParameters], times: Timings) -> Answer:
        """The deterministic answer, computed at once: it takes less than queueing it would.

        Args:
            asked: the image and how to take it.
            times: filled in.
        """
        image, parameters = asked
        self._require_level(parameters)
        self.batcher.check(DETERMINISTIC_COST)
        started = time.monotonic()
        read = self._read_small(image, parameters)
        if read is None:
            with self.batcher.admit(DETERMINISTIC_COST, beside=self._decoding_cost(image)):
                read = await self._read_large(image, parameters, self._deadline(parameters))
        decoded = time.monotonic()
        answer = self.worker.predict(PredictWork(read.pixels, parameters, boxes=read.boxes))
        times.decode = decoded - started
        times.compute = time.monotonic() - decoded
        if self._metrics is not None:
            self._count_answer(answer)
        return answer

    async def predict_mc(self, asked: ImageRequest[McParameters], times: Timings) -> Answer:
        """The MC-dropout answer; see `predict`. The caller has been admitted."""
        deadline = self._deadline(asked.parameters)
        work = await self._mc_work(asked, deadline, times, is_streamed=False)
        (answer,) = await self._run([work], deadline, times)
        if isinstance(answer, Exception):
            raise answer
        if self._metrics is not None:
            self._count_answer(answer)
        return answer

    def admit_mc(self, asked: ImageRequest[McParameters]) -> Admission:
        """Counts a request for one image's passes as queued work; see `Batcher.admit`."""
        self._require_level(asked.parameters)
        cost = asked.parameters.passes + _IMAGE_COST
        return self.batcher.admit(cost, beside=self._decoding_cost(asked.image))

    async def stream_mc(
        self, asked: ImageRequest[McParameters], times: Timings
    ) -> AsyncGenerator[Answer, None]:
        """The MC-dropout answer, after the estimates on the way; the caller has been admitted.

        The first step of the iterator decodes the image: what is wrong with the request shows then.
        """
        deadline = self._deadline(asked.parameters)
        work = await self._mc_work(asked, deadline, times, is_streamed=True)
        started = time.monotonic()
        try:
            async with aclosing(self.batcher.stream(work, deadline, times)) as answers:
                async for answer in answers:
                    if self._metrics is not None and answer["stop_reason"]:
                        self._count_answer(answer)
                    yield answer
        finally:
            times.queue = max(0.0, time.monotonic() - started - times.compute)
            if self._metrics is not None:
                self._count_uncomputed([work])

    async def predict_batch(
        self, asked: BatchRequest[PredictParameters], times: Timings
    ) -> list[Answer | ApiError]:
        """An answer, or what is wrong with the image, for each image in order."""
        parameters = asked.parameters
        self._require_level(parameters)
        passes = DETERMINISTIC_COST
        if isinstance(parameters, McParameters):
            passes = parameters.passes + _IMAGE_COST
        decoding = sum(map(self._decoding_cost, asked.images))
        with self.batcher.admit(passes * len(asked.images), beside=decoding):
            deadline = self._deadline(asked.parameters)
            started = time.monotonic()
            works: list[PredictWork | McWork | ApiError] = []
            for number, image in enumerate(asked.images):
                works.append(await self._batch_work(image, parameters, deadline))
                if number % _AT_A_TIME == 0:
                    await asyncio.sleep(0)
            good = [work for work in works if not isinstance(work, ApiError)]
            times.decode = time.monotonic() - started
            answers = iter(await self._run(good, deadline, times))
        told = [work if isinstance(work, ApiError) else _checked(next(answers)) for work in works]
        if self._metrics is not None:
            for answer in told:
                if isinstance(answer, ApiError):
                    self._metrics.count_image_error(answer.code)
                else:
                    self._count_answer(answer)
        return told

    async def _run(
        self, works: Sequence[PredictWork | McWork], deadline: float, times: Timings
    ) -> list[Answer | Exception]:
        """As the batcher does; what is not computed in the end is counted."""
        started = time.monotonic()
        try:
            if len(works) > 1:
                await self._prepare_ahead(works, times)
            return await self.batcher.run(works, deadline, times)
        finally:
            times.queue = max(0.0, time.monotonic() - started - times.compute)
            if self._metrics is not None:
                self._count_uncomputed(works)

    def _counted_step(
        self, batch: Sequence[tuple[PredictWork | McWork, int]]
    ) -> list[Outcome[Found] | Exception]:
        outcomes = self.worker.step(batch)
        assert self._metrics is not None
        passes = sum(passes for work, passes in batch if isinstance(work, McWork))
        self._metrics.count_round(len(batch), passes)
        return outcomes

    def _count_uncomputed(self, works: Sequence[PredictWork | McWork]) -> None:
        sampled = [work for work in works if isinstance(work, McWork)]
        spared = sum(work.remaining for work in sampled if work.stopped_early)
        cancelled = sum(work.remaining for work in sampled if not work.stopped_early)
        assert self._metrics is not None
        self._metrics.count_uncomputed(spared=spared, cancelled=cancelled)

    def _count_answer(self, answer: Answer) -> None:
        assert self._metrics is not None
        decision = answer["decision"]
        self._metrics.count_answer(
            "mc" if "mutual_information" in answer else "predict",
            digit=answer["digit"],
            confidence=answer["confidence"],
            predictive_entropy=answer["predictive_entropy"],
            reason=None if decision is None else decision["reason"],
            mutual_information=answer.get("mutual_information"),
        )

    async def _batch_work(
        self, image: Image | ApiError, parameters: PredictParameters, deadline: float
    ) -> PredictWork | McWork | ApiError:
        if isinstance(image, ApiError):
            return image
        try:
            read = self._read_small(image, parameters)
            if read is None:
                read = await self._read_large(image, parameters, deadline)
        except ApiError as error:
            if error.kind is ErrorCode.DEADLINE_EXCEEDED:
                raise
            return error
        if isinstance(parameters, McParameters):
            work = McWork(read.pixels, parameters, is_streamed=False, boxes=read.boxes)
            if _is_heavy_to_prepare(work):
                await self._prepare_in_thread(work, deadline)
            return work
        return PredictWork(read.pixels, parameters, boxes=read.boxes)

    async def _mc_work(
        self,
        asked: ImageRequest[McParameters],
        deadline: float,
        times: Timings,
        *,
        is_streamed: bool,
    ) -> McWork:
        started = time.monotonic()
        image = self._read_small(asked.image, asked.parameters)
        if image is None:
            image = await self._read_large(asked.image, asked.parameters, deadline)
        work = McWork(image.pixels, asked.parameters, is_streamed=is_streamed, boxes=image.boxes)
        if _is_heavy_to_prepare(work):
            await self._prepare_in_thread(work, deadline)
        times.decode = time.monotonic() - started
        return work

    async def _prepare_in_thread(self, work: McWork, deadline: float) -> None:
        """Does there what would take too long on the event loop.

        Raises:
            ApiError: deadline_exceeded, it takes too long there, too.
        """
        loop = asyncio.get_running_loop()
        prepared = loop.run_in_executor(self._decoding, self.worker.prepare, [work])
        await _in_time(prepared, deadline)

    async def _prepare_ahead(self, works: Sequence[PredictWork | McWork], times: Timings) -> None:
        """Computes the first layer of all images of a batch, before any of their passes.

        Its weights fill the cache: image by image they would drive out those of the later layers.
        """
        light = [work for work in works if isinstance(work, McWork) and not _are_masks_needed(work)]
        for start in range(0, len(light), _AT_A_TIME):
            started = time.monotonic()
            self.worker.prepare(light[start : start + _AT_A_TIME])
            times.compute += time.monotonic() - started
            await asyncio.sleep(0)

    def _read_small(self, image: Image, parameters: PredictParameters) -> Preprocessed | None:
        """The 28x28 pixels that the network sees, and where several digits are.

        Returns:
            None: it takes long enough to be worth a thread.

        Raises:
            ApiError: the image cannot be decoded, or shows nothing.
        """
        if isinstance(image, bytes):
            grey = decode_if_small(image, max_pixels=self._settings.max_pixels)
            if grey is None:
                return None
            image = grey
        try:
            return take_as_it_is(image, parameters.preprocess)
        except ImageError as error:
            raise from_image_error(error) from error

    async def _read_large(
        self, image: Image, parameters: PredictParameters, deadline: float
    ) -> Preprocessed:
        """As `_read_small`, in the thread, and in time."""
        loop = asyncio.get_running_loop()
        max_pixels = self._settings.max_pixels
        read = loop.run_in_executor(self._decoding, _find_digits, image, max_pixels, parameters)
        return await _in_time(read, deadline)

    def _decoding_cost(self, image: Image | ApiError) -> int:
        """What decoding in the thread costs, in passes; small images are decoded on the way."""
        if isinstance(image, bytes) and len(image) > INLINE_BYTES:
            return min(len(image) // _DECODED_BYTES_PER_PASS, self._most_decoding_cost)
        return 0

    def _require_level(self, parameters: PredictParameters) -> None:
        """Refuses a coverage that the checkpoint has no prediction sets for."""
        levels = self.worker.levels
        if parameters.coverage is None or parameters.coverage in levels:
            return
        cure = f"one of this checkpoint's levels: {', '.join(map(str, levels))}"
        if not levels:
            cure = "left out: dropserve-train calibrate has not fitted this checkpoint"
        raise ApiError(ErrorCode.INVALID_PARAMETER, f"coverage must be {cure}", param="coverage")

    def _deadline(self, parameters: PredictParameters) -> float:
        timeout_ms = parameters.timeout_ms or self._settings.max_timeout_ms
        return time.monotonic() + timeout_ms / 1000


def _are_masks_needed(work: McWork) -> bool:
    """Whether preparing the work takes masks, which takes as long as computing its passes."""
    return work.passes.estimator == "balanced" or work.parameters.return_passes


def _is_heavy_to_prepare(work: McWork) -> bool:
    return work.passes.count > _INLINE_MASKS and _are_masks_needed(work)


async def _in_time(result: Awaitable[T], deadline: float) -> T:
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await result
    except TimeoutError as error:
        raise ApiError(ErrorCode.DEADLINE_EXCEEDED) from error


def _checked(answer: Answer | Exception) -> Answer | ApiError:
    """An image's answer or its own error; what concerns the whole batch is raised."""
    if isinstance(answer, ApiError) and answer.kind is not ErrorCode.DEADLINE_EXCEEDED:
        return answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _find_digits(image: Image, max_pixels: int, parameters: PredictParameters) -> Preprocessed:
    factor = 1
    if isinstance(image, bytes):
        image, factor = decode_scaled(image, max_pixels=max_pixels)
    try:
        return find_digits(image, parameters.preprocess).magnified(factor)
    except ImageError as error:
        raise from_image_error(error) from error
