"""What is done wrong to image files and bodies: recognised in every format, and in nothing else."""

from base64 import b64encode
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from app.errors import ErrorCode
from app.inference.image_formats import find_mistake
from tests.api_errors import raises_error
from tests.app.inference.encoded_images import decode, encode, every_grey

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
DIGIT = Image.fromarray(np.pad(np.full((40, 8), 250, dtype=np.uint8), 20))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 70, 3), dtype=np.uint8))
PICTURES = {"grey": Image.fromarray(every_grey()), "two levels": DIGIT, "colour": NOISE}
MISTAKES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "curl -d": (lambda data: data.translate(None, b"\r\n\0"), "--data-binary"),
    "an argument of curl": (lambda data: data.translate(None, b"\0"), "--data-binary"),
    "Latin-1": (lambda data: data.decode("latin-1").encode(), "read as text"),
    "Windows-1252": (lambda data: data.decode("cp1252", "replace").encode(), "read as text"),
    "UTF-8": (lambda data: data.decode("utf-8", "replace").encode(), "read as text"),
    "base64": (b64encode, "in base64"),
}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_recognised_in_every_format(
    mistake: str, image_format: str, picture: str
) -> None:
    make, cure = MISTAKES[mistake]
    file = encode(PICTURES[picture], image_format)
    decode(file)

    with raises_error(ErrorCode.NOT_AN_IMAGE, match=cure):
        decode(make(file))


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_damaged_file_is_no_mistake(image_format: str) -> None:
    file = encode(NOISE, image_format)

    for end in (64, 300, len(file) // 2):
        assert find_mistake(file[:end]) is None
        assert find_mistake(file[:40] + file[60:end] + bytes(end)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"seven",
        b"BMW builds cars",
        b"RIFF=",
        b"GIF89a=",
        b"\x89PNG",
        b"Quick, brown, and not base64 at all; over the lazy dog",
        b"<p class=x>",
        b"[1, 2]",
        b"2 - 1 = 1",
        "Größe".encode(),
    ],
)
def test_other_bytes_are_no_mistake(data: bytes) -> None:
    assert find_mistake(data) is None


@pytest.mark.parametrize("zeros", [0, 1])
def test_of_a_long_text_the_part_that_is_read_may_end_within_a_character(zeros: int) -> None:
    file = b"\x89PNG\r\n\x1a\n" + bytes(zeros) + b"\xff" * 100_000

    assert "read as text" in str(find_mistake(file.decode("latin-1").encode()))
