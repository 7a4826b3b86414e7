"""From a picture to what the network sees: where it is decoded, and what that costs."""

import asyncio
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.errors import ErrorCode
from app.inference.decoding import INLINE_BYTES
from app.inference.reading import PictureReader, read_picture
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.literals import Preprocess
from tests.api_errors import raises_error
from tests.app.api.conversation import PATIENCE_SECONDS, serving
from tests.app.api.request_bodies import encode, small
from tests.conftest import assert_error, connect, sample
from tests.samples.draw import draw_digit


async def test_large_and_small_files_get_the_same_treatment(client: httpx.AsyncClient) -> None:
    # 140x140 is decoded in a thread and its 28x28 on the event loop.
    picture = sample("5.png")

    for path in ("/predict", "/predict/mc?seed=1"):
        large_answer = await client.post(path, content=picture)
        small_answer = await client.post(path, content=small("5.png"))
        assert large_answer.content == small_answer.content


def large_photo() -> bytes:
    """300 kB of JPEG: decoded in a thread, and counted as 2000 passes."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


async def test_one_photo_leaves_half_of_the_queue_to_others(
    default_checkpoint: Checkpoint,
) -> None:
    async with (
        serving(default_checkpoint, max_queued_passes=4000) as app,
        connect(app) as client,
    ):
        scheduler = app.state.models.predictor.scheduler
        photo = asyncio.create_task(client.post("/predict", content=large_photo()))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while scheduler.queued == 0:  # noqa: ASYNC110 - it is counted within the request
                await asyncio.sleep(0)
        assert 1600 < scheduler.queued < 2400
        assert (await client.post("/predict/mc", content=small("7.png"))).status_code == 200
        await photo
        assert scheduler.queued == 0


@pytest.mark.parametrize("path", ["/predict", "/predict/mc"])
async def test_a_second_photo_waits_for_the_first(
    default_checkpoint: Checkpoint, path: str
) -> None:
    async with (
        serving(default_checkpoint, max_queued_passes=4000) as app,
        connect(app) as client,
    ):
        answers = await asyncio.gather(
            *(client.post(path, content=large_photo()) for _ in range(2))
        )
    for answer in answers:  # noise has no ink: neither was refused before that was seen
        assert_error(answer, 422, "no_ink")


# The reader alone


@pytest.fixture
def reader() -> Iterator[PictureReader]:
    made = PictureReader(Settings(max_queued_passes=4000))
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
    threaded = await reader.read(sample(name), "auto", soon())
    assert in_thread == 1
    assert inline.pixels.tobytes() == threaded.pixels.tobytes()


def test_decoding_costs_by_the_size_of_the_file_and_at_most_half_of_the_queue(
    reader: PictureReader,
) -> None:
    assert reader.cost(bytes(INLINE_BYTES)) == 0
    assert reader.cost(bytes(30_000)) == 200
    assert reader.cost(bytes(10**7)) == 2000
    assert reader.cost(np.zeros((28, 28), dtype=np.uint8)) == 0
    assert reader.cost(ErrorCode.NOT_AN_IMAGE()) == 0


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


def test_boxes_are_in_pixels_of_the_picture_before_it_was_scaled_down() -> None:
    two = np.concatenate([np.array(draw_digit(digit)) for digit in (4, 2)], axis=1)
    plain = read_picture(two, "auto", max_pixels=10**8)
    large = Image.fromarray(two).resize((8 * two.shape[1], 8 * two.shape[0]))
    jpeg = read_picture(encode(large, "JPEG", quality=95), "auto", max_pixels=10**8)

    assert len(plain.boxes) == len(jpeg.boxes) == 2
    np.testing.assert_allclose(jpeg.boxes, np.array(plain.boxes) * 8, atol=16)
