"""From a picture to what the network sees: decides where the work is done, and what it costs."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.errors import ApiError, ErrorCode
from app.inference.decoding import INLINE_BYTES, Image, decode, decode_inline
from app.inference.memory import picture_memory, return_memory
from app.settings import Settings
from model.digits.preprocessing import Preprocessed, find_digits, take_as_it_is
from model.errors import ImageError, InvalidPixelsError, NoInkError
from model.literals import Preprocess

T = TypeVar("T")

# Bytes of an image file that take as long to decode as one pass: 2 MB of JPEG take 30 ms.
_BYTES_PER_PASS = 150


_FROM_MODEL: Mapping[type[ImageError], ErrorCode] = {
    InvalidPixelsError: ErrorCode.INVALID_PIXELS,
    NoInkError: ErrorCode.NO_INK,
}


def from_image_error(error: ImageError) -> ApiError:
    """What the API answers when `model` refuses an image; the message stays."""
    return ApiError(_FROM_MODEL[type(error)], str(error))


def read_picture(
    picture: Image, mode: Preprocess, *, max_pixels: int, max_memory: float = math.inf
) -> Preprocessed:
    """The pixels that the network sees, however long it takes.

    Args:
        picture: an image file, or pixels.
        mode: how pixels become the network's input.
        max_pixels: see `decoding.decode`.
        max_memory: the same.

    Raises:
        ApiError: the image cannot be decoded, or shows nothing.
    """
    factor = 1
    if isinstance(picture, bytes):
        picture, factor = decode(picture, max_pixels=max_pixels, max_memory=max_memory)
    try:
        return find_digits(picture, mode).magnified(factor)
    except ImageError as error:
        refusal = from_image_error(error)
    # Not from `error`, whose traceback would keep the picture until the answer is sent.
    del picture
    raise refusal


class PictureReader:
    """Reads small pictures on the event loop and large ones in a thread.

    One thread: more decoding at a time would only take the engine's core from it.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_pixels = settings.max_pixels
        self._max_memory = picture_memory(settings.max_image_memory, settings.workers)
        return_memory()
        # One photo is decoded while the engine works: it alone must not turn everybody away.
        self._most_cost = settings.max_queued_passes // 2
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")

    def cost(self, image: Image | ApiError) -> int:
        """What decoding in the thread costs, in passes; small files cost nothing extra."""
        if isinstance(image, bytes) and len(image) > INLINE_BYTES:
            return min(len(image) // _BYTES_PER_PASS, self._most_cost)
        return 0

    def read_inline(self, image: Image, mode: Preprocess) -> Preprocessed | None:
        """As `read`, on the event loop; None: it takes long enough to be worth the thread."""
        if isinstance(image, bytes):
            grey = decode_inline(image, max_pixels=self._max_pixels)
            if grey is None:
                return None
            image = grey
        try:
            return take_as_it_is(image, mode)
        except ImageError as error:
            raise from_image_error(error) from error

    async def read(self, image: Image, mode: Preprocess, deadline: float) -> Preprocessed:
        """The pixels that the network sees.

        Args:
            image: an image file, or pixels.
            mode: how pixels become the network's input.
            deadline: on the monotonic clock.

        Raises:
            ApiError: the image cannot be decoded, or shows nothing; deadline_exceeded.
        """
        read = self.read_inline(image, mode)
        if read is None:
            read = await self.in_thread(
                lambda: read_picture(
                    image, mode, max_pixels=self._max_pixels, max_memory=self._max_memory
                ),
                deadline,
            )
        return read

    async def in_thread(self, function: Callable[[], T], deadline: float) -> T:
        """Calls a function in the decoding thread.

        Raises:
            ApiError: deadline_exceeded; or what the function raises.
        """
        result = asyncio.get_running_loop().run_in_executor(self._thread, function)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await result
        except TimeoutError as error:
            raise ErrorCode.DEADLINE_EXCEEDED() from error

    def close(self) -> None:
        """Takes nothing more; pictures in the thread are answered, if only with an error."""
        self._thread.shutdown(wait=False)
