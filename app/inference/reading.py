"""From a picture to what the network sees: decides where the work is done, and when."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar, cast

from app.errors import ApiError, ErrorCode
from app.inference.backlog import Backlog, Charge, size_of
from app.inference.cohort import Cohort
from app.inference.decoding import Image, decode, decode_as_shown, decode_inline
from app.inference.decoding_cost import LARGE, decoding_cost
from app.inference.encoding import encode_small
from app.inference.memory import picture_memory, return_memory
from app.inference.plain_inputs import fit_plain, require_pictures
from app.settings import Settings
from model.arrays import Pixels
from model.digits.preprocessing import Preprocessed, find_digits
from model.errors import NoInkError
from model.layered import InputSpec
from model.literals import SIDE, Preprocess

T = TypeVar("T")
Steps = dict[str, str]  # pictures in base64, by name

# Costs are microseconds of a core.
_COSTS_PER_SECOND = 1_000_000.0
# Of large pictures one is decoded at a time, in one of two threads, so that a small picture never
# waits for a large one. More would take memory, and the engine's core from it.
_THREADS = 2
# Of small pictures given to the threads at a time, so that these need not wait for the event loop.
_AHEAD = 20_000
# Of anything else that is done in a thread.
_OTHER_COST = 2000


def read_picture(
    picture: Image,
    mode: Preprocess,
    spec: InputSpec | None = None,
    *,
    max_pixels: int,
    max_memory: float = math.inf,
    steps: Steps | None = None,
) -> Preprocessed:
    """The pixels that the network sees, however long it takes.

    Args:
        picture: an image file, or pixels.
        mode: how pixels become the network's input.
        spec: of the input; None: pictures of digits.
        max_pixels: see `decoding.decode`.
        max_memory: the same.
        steps: takes small pictures of the steps.

    Raises:
        ApiError: the image cannot be decoded, or shows nothing.
    """
    if spec is not None and spec.preparation == "none":
        if isinstance(picture, bytes):
            height, width, channels = require_pictures(spec)
            picture = decode_as_shown(
                picture,
                max_pixels=max_pixels,
                max_memory=max_memory,
                mode="RGB" if channels == 3 else "L",
                side=max(height, width),
            )
        # An engine takes float32 as well; only digits are always pixels.
        return Preprocessed(cast(Pixels, fit_plain(picture, mode, spec)))
    factor = 1
    shown: dict[str, Pixels] = {}
    if isinstance(picture, bytes):
        picture, factor = decode(picture, max_pixels=max_pixels, max_memory=max_memory)
    pixels = cast(Pixels, picture)
    try:
        if mode != "none":
            return find_digits(pixels, shown, factor)
        height, width = pixels.shape
        if height == width == SIDE:
            return Preprocessed(pixels)
        refusal = ErrorCode.INVALID_PIXELS(
            f"preprocess=none needs a {SIDE}x{SIDE} image, and this one is {width}x{height}; "
            "send it with preprocess=auto"
        )
    except NoInkError as error:
        refusal = ErrorCode.NO_INK(str(error))
        refusal.steps = steps
    finally:
        if steps is not None:
            steps.update((name, encode_small(pixels)) for name, pixels in shown.items())
    # Not from `error`, whose traceback would keep the picture until the answer is sent.
    del picture, pixels, shown
    raise refusal


def picture_cost(image: Image | ApiError, size: int | None = None) -> int:
    """What reading a picture in a thread costs; 0: it is read on the event loop.

    Of the beginning of a file of this size, bytes: what the file costs at least.
    """
    return decoding_cost(image, size) if isinstance(image, bytes) else 0


class _Task(NamedTuple):
    cost: int
    function: Callable[[], Any]
    result: "asyncio.Future[Any]"


class PictureReader:
    """Reads small pictures on the event loop and larger ones in a thread.

    Attributes:
        cohort: of the requests with small pictures, or with none.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_pixels = settings.max_pixels
        self._max_memory = picture_memory(settings.max_image_memory, settings.workers)
        return_memory()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="decode")
        self._waiting: list[_Task] = []  # the oldest first
        self._running: list[_Task] = []
        self._since = 0.0  # when the latest of them ended, or the first began
        self._is_closed = False
        self.cohort = Cohort()
        # What is admitted and not decoded yet.
        self.backlog = Backlog(_COSTS_PER_SECOND)

    cost = staticmethod(picture_cost)

    def charge(self, images: Sequence[Image | ApiError]) -> Charge:
        """What decoding a request's images in threads costs; 0 if all are small."""
        return Charge(self.backlog, sum(map(picture_cost, images)))

    def wait(self, cost: int) -> float:
        """Seconds that pictures of this cost would wait for a thread; see `charge`."""
        return self.backlog.wait(cost) if cost else 0.0

    async def read_inline(
        self,
        image: Image,
        mode: Preprocess,
        spec: InputSpec | None = None,
        steps: Steps | None = None,
        *,
        cost: int | None = None,
        in_stages: bool = True,
    ) -> Preprocessed | None:
        """As `read`, on the event loop; None: it takes long enough to be worth the thread."""
        cohort = self.cohort if in_stages else Cohort()
        await cohort.begin()
        if picture_cost(image) if cost is None else cost:
            return None
        if isinstance(image, bytes) and (spec is None or spec.preparation != "none"):
            grey = decode_inline(image, max_pixels=self._max_pixels)
            if grey is None:
                return None
            image = grey
        await cohort.begin_stage()
        read = read_picture(image, mode, spec, max_pixels=self._max_pixels, steps=steps)
        await cohort.begin_stage()
        return read

    async def read(
        self,
        image: Image,
        mode: Preprocess,
        deadline: float,
        spec: InputSpec | None = None,
        steps: Steps | None = None,
        *,
        cost: int | None = None,
        in_stages: bool = True,
    ) -> Preprocessed:
        """The pixels that the network sees.

        Args:
            image: an image file, or pixels.
            mode: how pixels become the network's input.
            deadline: on the monotonic clock.
            spec: of the input; None: pictures of digits.
            steps: see `read_picture`.
            cost: see `picture_cost`, where it is known.
            in_stages: with the pictures of other requests, see `Cohort`.

        Raises:
            ApiError: the image cannot be decoded, or shows nothing; deadline_exceeded.
        """
        read = await self.read_inline(image, mode, spec, steps, cost=cost, in_stages=in_stages)
        if read is None:
            read = await self.in_thread(
                lambda: read_picture(
                    image,
                    mode,
                    spec,
                    max_pixels=self._max_pixels,
                    max_memory=self._max_memory,
                    steps=steps,
                ),
                deadline,
                picture_cost(image),
            )
        return read

    async def in_thread(
        self, function: Callable[[], T], deadline: float, cost: int = _OTHER_COST
    ) -> T:
        """Calls a function in a thread, unless the caller is gone or the deadline over before.

        Raises:
            ApiError: deadline_exceeded, not_ready; or what the function raises.
        """
        if self._is_closed:
            raise ErrorCode.NOT_READY()
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Task(cost, function, result))
        self._start_next()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await result
        except TimeoutError as error:
            raise ErrorCode.DEADLINE_EXCEEDED() from error
        finally:
            del result  # whose exception would keep this frame, and with it the picture

    def _start_next(self) -> None:
        self._waiting = [task for task in self._waiting if not task.result.done()]
        while True:
            small = [task.cost for task in self._running if task.cost < LARGE]
            is_large_running = len(small) < len(self._running)
            ready = [
                task for task in self._waiting if not (is_large_running and task.cost >= LARGE)
            ]
            if not ready or sum(small) >= _AHEAD:
                return
            smallest, oldest = min(ready, key=lambda task: size_of(task.cost)), ready[0]
            is_larger = size_of(oldest.cost) > size_of(smallest.cost)
            task = oldest if is_larger and self.backlog.takes_oldest else smallest
            if is_larger:
                self.backlog.take(task.cost, of_oldest=task is oldest)
            self._waiting.remove(task)
            self._start(task)

    def _start(self, task: _Task) -> None:
        if not self._running:
            self._since = time.monotonic()
        self._running.append(task)
        running = self._threads.submit(task.function)

        # Not asyncio's `wrap_future`, which would keep the picture until garbage is collected.
        def note_end(ended: "Future[Any]") -> None:
            with suppress(RuntimeError):  # the loop is closed
                task.result.get_loop().call_soon_threadsafe(self._end, task, ended)

        running.add_done_callback(note_end)
        task.result.add_done_callback(lambda _: running.cancel())  # unless it has begun

    def _end(self, task: _Task, ended: "Future[Any]") -> None:
        self._running.remove(task)
        if not ended.cancelled():
            now = time.monotonic()
            self.backlog.measure(task.cost, now - self._since)
            self._since = now
        if not task.result.done():
            if (error := ended.exception()) is not None:
                task.result.set_exception(error)
            else:
                task.result.set_result(ended.result())
        self._start_next()

    def close(self) -> None:
        """Takes nothing more; what is in the threads is answered, and what waits gets an error."""
        self._is_closed = True
        for task in self._waiting:
            if not task.result.done():
                task.result.set_exception(ErrorCode.NOT_READY())
        self._threads.shutdown(wait=False)
