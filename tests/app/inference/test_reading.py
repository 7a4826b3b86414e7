"""From a picture to what the network sees: where it is decoded, and in which order."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.errors import ApiError, ErrorCode
from app.inference.decoding_cost import LARGE
from app.inference.reading import PictureReader, read_picture
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.literals import Preprocess
from tests.api_errors import raises_error
from tests.app.api.conversation import PATIENCE_SECONDS, serving
from tests.app.api.request_bodies import encode, small, threaded
from tests.app.process.waiting import until
from tests.conftest import assert_error, connect
from tests.samples.draw import draw_digit


async def test_large_and_small_files_get_the_same_treatment(client: httpx.AsyncClient) -> None:
    picture = threaded("5.png")

    for path in ("/predict", "/predict/mc?seed=1"):
        large_answer = await client.post(path, content=picture)
        small_answer = await client.post(path, content=small("5.png"))
        assert large_answer.content == small_answer.content


def noise(side: int = 1000, quality: int = 90) -> bytes:
    """A JPEG of noise, which has no ink; of 300 kB, if nothing else is given."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    return encode(Image.fromarray(pixels), "JPEG", quality=quality)


@pytest.mark.parametrize("path", ["/predict", "/predict/mc"])
async def test_photos_wait_for_each_other(default_checkpoint: Checkpoint, path: str) -> None:
    async with serving(default_checkpoint) as app, connect(app) as client:
        answers = await asyncio.gather(*(client.post(path, content=noise()) for _ in range(4)))
        reader = app.state.models.predictor._reader
        assert reader.backlog.total == 0
    for answer in answers:  # none was refused before it was seen that there is no ink
        assert_error(answer, 422, "no_ink")


async def test_beyond_the_longest_wait_photos_are_refused_and_nothing_else_is(
    default_checkpoint: Checkpoint,
) -> None:
    photos = [noise()] * 30
    async with serving(default_checkpoint, max_wait_ms=20) as app, connect(app) as client:
        asked = asyncio.gather(*(client.post("/predict", content=photo) for photo in photos))
        others = []
        while not asked.done():
            for path in ("/predict", "/predict/mc"):
                others.append((await client.post(path, content=small("7.png"))).status_code)
        statuses = [answer.status_code for answer in await asked]
        waits = {answer.headers.get("retry-after-ms") for answer in await asked} - {None}

    assert set(others) == {200}
    assert set(statuses) == {422, 429}
    assert all(20 < int(wait) < 1000 for wait in waits)


# The reader alone


@pytest.fixture
def reader() -> Iterator[PictureReader]:
    made = PictureReader(Settings())
    yield made
    made.close()


def soon() -> float:
    return time.monotonic() + PATIENCE_SECONDS


@pytest.mark.parametrize("name", ["7.png", "doubtful.png"])
async def test_a_small_picture_is_decoded_on_the_loop_and_a_larger_one_in_the_thread(
    reader: PictureReader, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    in_thread = 0
    run = reader.in_thread

    async def count(*arguments: Any) -> Any:
        nonlocal in_thread
        in_thread += 1
        return await run(*arguments)

    monkeypatch.setattr(reader, "in_thread", count)
    inline = await reader.read(small(name), "auto", soon())
    assert in_thread == 0
    in_a_thread = await reader.read(threaded(name), "auto", soon())
    assert in_thread == 1
    assert inline.pixels.tobytes() == in_a_thread.pixels.tobytes()


async def test_what_is_large_comes_after_what_is_small_and_waits_for_no_thread_of_its_own(
    reader: PictureReader,
) -> None:
    ended: list[str] = []
    may_end = threading.Event()

    async def run(name: str, cost: int) -> None:
        def work() -> None:
            if name == "first":
                assert may_end.wait(PATIENCE_SECONDS)

        await reader.in_thread(work, soon(), cost)
        ended.append(name)

    large = [asyncio.create_task(run(name, 2 * LARGE)) for name in ("first", "second")]
    await asyncio.sleep(0)
    less_large = asyncio.create_task(run("less large", LARGE))
    await asyncio.gather(*(run("small", 1000) for _ in range(3)))
    assert ended == ["small"] * 3
    may_end.set()
    await asyncio.gather(*large, less_large)

    assert set(ended[3:]) == {"first", "second", "less large"}


async def test_the_oldest_has_its_share_of_the_threads(reader: PictureReader) -> None:
    ended = 0

    async def small_ones() -> None:
        nonlocal ended
        while not oldest.done():
            await reader.in_thread(lambda: None, soon(), 4 * LARGE)
            ended += 1

    may_end = threading.Event()
    first = asyncio.create_task(
        reader.in_thread(lambda: may_end.wait(PATIENCE_SECONDS), soon(), LARGE)
    )
    await asyncio.sleep(0)
    oldest = asyncio.create_task(reader.in_thread(lambda: None, soon(), 64 * LARGE))
    await asyncio.sleep(0)
    others = [asyncio.create_task(small_ones()) for _ in range(3)]
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(first, oldest, *others)

    assert ended <= 3 * 3


def ask_in_thread(reader: PictureReader, function: Callable[[], Any]) -> "asyncio.Task[Any]":
    """As for a large picture, of which one is decoded at a time."""
    return asyncio.create_task(reader.in_thread(function, soon(), LARGE))


async def test_what_nobody_waits_for_any_more_is_not_begun(reader: PictureReader) -> None:
    begun: list[str] = []
    may_end = threading.Event()
    running = ask_in_thread(reader, lambda: may_end.wait(PATIENCE_SECONDS))
    leaving = ask_in_thread(reader, lambda: begun.append("left"))
    await asyncio.sleep(0)
    leaving.cancel()
    with raises_error(ErrorCode.DEADLINE_EXCEEDED):
        await reader.in_thread(lambda: begun.append("late"), time.monotonic() + 0.01, LARGE)
    may_end.set()
    await running
    await ask_in_thread(reader, lambda: begun.append("next"))

    assert begun == ["next"]


async def test_what_waits_when_the_reader_is_closed_gets_an_error(reader: PictureReader) -> None:
    may_end = threading.Event()
    running = ask_in_thread(reader, lambda: may_end.wait(PATIENCE_SECONDS))
    waiting = ask_in_thread(reader, lambda: None)
    await asyncio.sleep(0)
    reader.close()
    may_end.set()

    assert await running
    with raises_error(ErrorCode.NOT_READY):
        await waiting
    with raises_error(ErrorCode.NOT_READY):
        await reader.in_thread(lambda: None, soon())


async def test_what_takes_longer_than_the_deadline_in_the_thread_is_given_up(
    reader: PictureReader,
) -> None:
    may_end = threading.Event()
    with raises_error(ErrorCode.DEADLINE_EXCEEDED):
        await reader.in_thread(lambda: may_end.wait(PATIENCE_SECONDS), time.monotonic() + 0.01)
    may_end.set()

    assert await reader.in_thread(lambda: "the next", soon()) == "the next"


@pytest.mark.parametrize(
    ("picture", "mode", "kind"),
    [
        (b"text", "auto", ErrorCode.NOT_AN_IMAGE),
        (np.zeros((28, 28), dtype=np.uint8), "auto", ErrorCode.NO_INK),
        (np.zeros((28, 27), dtype=np.uint8), "none", ErrorCode.INVALID_PIXELS),
    ],
)
async def test_what_cannot_be_read_is_refused_the_same_on_the_loop_and_in_the_thread(
    reader: PictureReader, picture: Any, mode: Preprocess, kind: ErrorCode
) -> None:
    with raises_error(kind):
        await reader.read(picture, mode, soon())
    with raises_error(kind):
        read_picture(picture, mode, max_pixels=784)


def test_none_takes_a_28x28_image_as_it_is() -> None:
    generator = np.random.default_rng(0)
    for image in (
        np.zeros((28, 28), dtype=np.uint8),
        np.full((28, 28), 255, dtype=np.uint8),
        generator.integers(0, 256, (28, 28), dtype=np.uint8),
    ):
        assert read_picture(image, "none", max_pixels=784).pixels.tobytes() == image.tobytes()


@pytest.mark.parametrize("shape", [(27, 28), (28, 27), (29, 29), (1, 784), (56, 14)])
def test_none_refuses_another_size_and_names_it(shape: tuple[int, int]) -> None:
    height, width = shape
    words = f"28x28 image, and this one is {width}x{height};"
    with raises_error(ErrorCode.INVALID_PIXELS, match=words):
        read_picture(np.zeros(shape, dtype=np.uint8), "none", max_pixels=784)


def test_the_words_of_a_refusal_are_those_of_the_preparation() -> None:
    with raises_error(ErrorCode.NO_INK, match="the image is uniform"):
        read_picture(np.zeros((28, 28), dtype=np.uint8), "auto", max_pixels=784)


def test_boxes_are_in_pixels_of_the_picture_before_it_was_scaled_down() -> None:
    two = np.concatenate([np.array(draw_digit(digit)) for digit in (4, 2)], axis=1)
    plain = read_picture(two, "auto", max_pixels=10**8)
    large = Image.fromarray(two).resize((8 * two.shape[1], 8 * two.shape[0]))
    jpeg = read_picture(encode(large, "JPEG", quality=95), "auto", max_pixels=10**8)

    assert len(plain.boxes) == len(jpeg.boxes) == 2
    np.testing.assert_allclose(jpeg.boxes, np.array(plain.boxes) * 8, atol=18)  # a square of both


@pytest.mark.parametrize("fails", [False, True])
async def test_a_picture_is_forgotten_with_its_request_and_not_with_other_garbage(
    reader: PictureReader, fails: bool
) -> None:
    may_end = threading.Event()

    class Picture:
        def read(self) -> "Picture":
            may_end.wait(PATIENCE_SECONDS)
            if fails:
                raise ErrorCode.TRUNCATED_IMAGE()
            return self

    picture = Picture()
    found = weakref.ref(picture)
    gc.disable()
    try:
        asyncio.get_running_loop().call_soon(may_end.set)
        with suppress(ApiError):
            await reader.in_thread(picture.read, soon())
        del picture
        await until(lambda: found() is None)
    finally:
        gc.enable()
