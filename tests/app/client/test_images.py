"""Images of every kind, encoded as they are sent."""

import re
from collections.abc import Callable
from io import BufferedWriter, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.client import (
    AsyncDropserveClient,
    ImageError,
)
from tests.app.client.conftest import PICTURE
from tests.conftest import SAMPLES

SMALL = Image.open(BytesIO(PICTURE)).convert("L").resize((28, 28))
PIXELS = np.array(SMALL)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


SMALL_PICTURE = encoded(SMALL)
IMAGES: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: bytearray(SMALL_PICTURE),
    "memoryview": lambda: memoryview(SMALL_PICTURE),
    "file": lambda: BytesIO(SMALL_PICTURE),
    "PIL": lambda: SMALL,
    "array": lambda: PIXELS,
    "array of int64": lambda: PIXELS.astype(np.int64),
    "flat array": lambda: PIXELS.reshape(784),
    "array with a channel": lambda: PIXELS[:, :, None],
    "array with a channel in front": lambda: PIXELS[None],
    "array not in rows": lambda: np.asfortranarray(PIXELS),
    "array in colour": lambda: np.stack([PIXELS] * 3, axis=2),
    "tensor": lambda: torch.from_numpy(PIXELS.copy()),
}


@pytest.mark.parametrize("kind", IMAGES)
async def test_every_kind_of_image_gets_the_answer_of_its_bytes(
    asking: AsyncDropserveClient, kind: str
) -> None:
    for preprocess in ("auto", "none"):
        options: Any = {"seed": 1, "preprocess": preprocess}
        expected = await asking.predict_mc(SMALL_PICTURE, **options)
        assert await asking.predict_mc(IMAGES[kind](), **options) == expected


async def test_a_path_gets_the_answer_of_its_file(asking: AsyncDropserveClient) -> None:
    expected = await asking.predict(PICTURE)

    assert await asking.predict(SAMPLES / "7.png") == expected
    assert await asking.predict(str(SAMPLES / "7.png")) == expected


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
)
async def test_a_pil_image_of_any_mode_is_understood(
    asking: AsyncDropserveClient, mode: str
) -> None:
    image = Image.open(BytesIO(PICTURE)).resize((56, 56))
    if mode in ("LAB", "HSV"):
        image = image.convert("RGB")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.merge("LAB", [image.convert("L"), *[Image.new("L", (56, 56), 128)] * 2])
    else:
        image = image.convert(mode)
    assert image.mode == mode

    assert (await asking.predict(image)).digit == 7


async def test_a_photo_turned_by_exif_is_the_same_as_its_file(
    asking: AsyncDropserveClient,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(BytesIO(PICTURE)).transpose(Image.Transpose.ROTATE_90)
    photo = encoded(turned, exif=exif)

    by_bytes = await asking.predict(photo)

    assert by_bytes.digit == 7
    assert await asking.predict(Image.open(BytesIO(photo))) == by_bytes


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (PIXELS / 255, "float64"),
        (PIXELS > 127, "bool"),
        (PIXELS.astype(np.int64) - 255, "exceed"),
        (PIXELS.astype(np.int64) * 2, "exceed"),
        ((PIXELS > 127).astype(np.uint8), "scaled"),
        (np.stack([PIXELS] * 5), "predict_batch"),
        (PIXELS[0], "shape"),
        (np.zeros((0, 28), dtype=np.uint8), "shape"),
    ],
)
async def test_an_array_that_could_mean_two_things_is_refused_before_it_is_sent(
    asking: AsyncDropserveClient, array: Any, words: str
) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        await asking.predict(array)

    assert (caught.value.code, caught.value.status) == ("invalid_array", None)


async def test_a_file_that_cannot_be_read_is_an_image_error(
    asking: AsyncDropserveClient, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="No such file") as caught:
        await asking.predict(tmp_path / "none.png")

    assert caught.value.code == "unreadable_file"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def closed(image: Any) -> Any:
    image.close()
    return image


def left(image: Image.Image) -> Image.Image:
    with image:
        return image


def of_closed_file() -> Image.Image:
    with BytesIO(PICTURE) as file:
        return Image.open(file)


def read(file: Any) -> Any:
    file.read()
    return file


def released() -> memoryview:
    with memoryview(PICTURE) as view:
        return view


class FromAnotherLibrary:
    """Fails in its own way."""

    def read(self) -> bytes:
        raise EOFError


GRADIENTS = torch.ones(28, 28, requires_grad=True)
UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "PIL image, closed": (lambda: closed(Image.open(SAMPLES / "7.png")), "while it and its file"),
    "PIL image after its with": (lambda: left(Image.open(SAMPLES / "7.png")), "while it and its"),
    "PIL image in memory, closed": (lambda: closed(SMALL.copy()), "closed image"),
    "PIL image of a closed file": (of_closed_file, "closed file"),
    "PIL image of half a file": (lambda: Image.open(BytesIO(PICTURE[:300])), "truncated"),
    "file, read": (lambda: read(BytesIO(PICTURE)), re.escape("file.seek(0)")),
    "file, closed": (lambda: closed((SAMPLES / "7.png").open("rb")), "open it again"),
    "BytesIO, closed": (lambda: closed(BytesIO(PICTURE)), "open it again"),
    "file for writing": (lambda: BufferedWriter(BytesIO()), "open it again"),
    "file of another library": (FromAnotherLibrary, "EOFError"),
    "memoryview, released": (released, "before it is released"),
    "path with a zero": (lambda: "7\0.png", "path"),
    "tensor with gradients": (lambda: GRADIENTS, "byte"),
    "tensor computed with gradients": (lambda: GRADIENTS * 2, "byte"),
    "tensor in bfloat16": (lambda: torch.ones(28, 28, dtype=torch.bfloat16), "byte"),
    "tensor without values": (lambda: torch.ones(28, 28, device="meta"), "byte"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_what_cannot_be_read_is_an_image_error_that_says_what_to_do(
    asking: AsyncDropserveClient, kind: str
) -> None:
    make, words = UNREADABLE[kind]
    image = make()

    with pytest.raises(ImageError, match=words) as caught:
        await asking.predict(image)
    answers = await asking.predict_batch([PICTURE, image])

    code = "invalid_array" if "tensor" in kind else "unreadable_file"
    assert (caught.value.code, caught.value.status) == (code, None)
    assert [getattr(one, "code", None) for one in answers] == [None, code]


async def test_a_tensor_converted_as_its_error_says_is_the_image(
    asking: AsyncDropserveClient,
) -> None:
    tensor: Any = torch.from_numpy(PIXELS / 255).requires_grad_()

    by_tensor = await asking.predict((tensor * 255).round().byte().cpu())

    assert by_tensor == await asking.predict(PIXELS)


@pytest.mark.parametrize("wrong", [None, 7, [PIXELS], open])
async def test_what_is_no_image_is_a_type_error(asking: AsyncDropserveClient, wrong: Any) -> None:
    with pytest.raises(TypeError, match="an image is"):
        await asking.predict(wrong)


@pytest.mark.parametrize("errors", ["strict", "replace"])
async def test_a_file_in_text_mode_is_a_type_error(
    asking: AsyncDropserveClient, errors: str
) -> None:
    text = (SAMPLES / "7.png").open("r", encoding="utf-8", errors=errors)
    with text, pytest.raises(TypeError, match="binary mode"):
        await asking.predict(text)  # type: ignore[arg-type]
