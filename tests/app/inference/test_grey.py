"""Files whose values use less than their range are read by what they use, or refused by name."""

import numpy as np
import pytest
from PIL import Image

from app.errors import ErrorCode
from app.inference.decoding import decode_inline
from tests.api_errors import raises_error
from tests.app.inference.encoded_images import (
    decode,
    encode,
    png_of,
    split_field,
)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 4, 256], [0, 1, 64]),
        ([0, 512, 1023], [0, 128, 255]),
        ([16, 2048, 4095], [1, 128, 255]),
        ([0, 8192, 16383], [0, 128, 255]),
        ([0, 255, 16384], [0, 0, 64]),
        ([0, 1, 1], [0, 255, 255]),
    ],
)
def test_white_is_the_largest_number_of_the_bits_in_use(
    values: list[int], greys: list[int], image_format: str
) -> None:
    image = Image.fromarray(np.array([values], np.uint16))

    assert decode(encode(image, image_format)).tolist() == [greys]


@pytest.mark.parametrize("values", [np.int32, np.float32])
def test_wide_integers_and_floats_know_twelve_bits(values: type) -> None:
    image = Image.fromarray(np.array([[0, 2048, 4095]], values))

    assert decode(encode(image, "TIFF")).tolist() == [[0, 128, 255]]


def test_a_large_file_of_twelve_bits_is_read_by_all_its_values() -> None:
    values = np.full((4100, 4100), 40, np.uint16)
    values[-500:] = 4095

    decoded = decode(encode(Image.fromarray(values), "PNG", compress_level=1))

    assert decoded.shape == (2050, 2050)
    assert (decoded[0, 0], decoded[-1, -1]) == (2, 255)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_a_mask_of_zero_and_one_is_black_and_white(mode: str, image_format: str) -> None:
    mask = Image.fromarray(split_field() // 255).convert("RGB" if mode == "P" else mode)
    if mode == "P":
        mask = mask.quantize(4)

    np.testing.assert_array_equal(decode(encode(mask, image_format)), split_field())


def test_a_mask_of_mnists_size_is_scaled_to_all_brightnesses() -> None:
    mask = np.zeros((28, 28), np.uint8)
    mask[4:24, 11:17] = 1
    file = encode(Image.fromarray(mask), "PNG")

    for decoded in (decode(file), decode_inline(file, max_pixels=784)):
        assert decoded is not None
        np.testing.assert_array_equal(decoded, mask * 255)


@pytest.mark.parametrize("values", [[0, 0], [1, 2], [0, 3]])
def test_eight_bits_of_other_values_stay_as_they_are(values: list[int]) -> None:
    assert decode(png_of(2, 1, 8, bytes([0, *values]))).tolist() == [values]


def png_of_colours(values: list[int]) -> bytes:
    """A row of pixels of 16-bit colours, red, green and blue the same."""
    raw = b"\0" + np.array(values, ">u2").repeat(3).tobytes()
    return png_of(len(values), 1, 16, raw, colour_type=2)


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0, 0x80FF, 0xFF00], [0, 0x80, 0xFF]),
        ([0, 2048, 4095], [0, 0x80, 0xF0]),
        ([0, 512, 1023], [0, 0x80, 0xC0]),
    ],
)
def test_colours_of_sixteen_bits_use_their_range_too(values: list[int], greys: list[int]) -> None:
    assert decode(png_of_colours(values)).tolist() == [greys]


def test_colours_of_sixteen_bits_that_are_all_black_are_refused_by_name() -> None:
    with raises_error(ErrorCode.INVALID_PIXELS, match="none is above 255"):
        decode(png_of_colours([0, 1, 255]))
