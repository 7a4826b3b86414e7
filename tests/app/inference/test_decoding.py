"""An image file becomes brightness, upright, with the ink visible, within limits."""

import math
import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from app.errors import ApiError, ErrorCode
from app.inference import decoding
from app.inference.decoding import decode_inline
from app.inference.decoding_cost import INLINE_BYTES, decoding_cost
from tests.api_errors import raises_error
from tests.app.inference.encoded_images import (
    LIMIT,
    LOSSLESS,
    SVG,
    Grey,
    decode,
    decode_within,
    drawing,
    encode,
    every_grey,
    images_allocated,
    photo,
    png_of,
    split_field,
    with_orientation,
)


@pytest.mark.parametrize("encoding", LOSSLESS)
def test_a_lossless_file_gives_exactly_its_pixels(encoding: str) -> None:
    pixels = every_grey()

    decoded = decode(LOSSLESS[encoding](pixels))

    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(image_format: str) -> None:
    image = Image.fromarray(np.array([[0, 0x80FF, 0xFF00, 0xFFFF]], dtype=np.uint16))

    assert decode(encode(image, image_format)).tolist() == [[0, 0x80, 0xFF, 0xFF]]


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "GIF", "TIFF"])
def test_one_bit_is_black_and_white(image_format: str) -> None:
    bilevel = Image.fromarray(split_field()).convert("1")

    np.testing.assert_array_equal(decode(encode(bilevel, image_format)), split_field())


def test_a_fax_is_black_on_white() -> None:
    bilevel = Image.fromarray(split_field()).convert("1")

    np.testing.assert_array_equal(
        decode(encode(bilevel, "TIFF", compression="group4")), split_field()
    )


def test_the_pixels_can_be_written_to() -> None:
    # torch warns of arrays that it may not write to.
    assert decode(LOSSLESS["grey PNG"](every_grey())).flags.writeable


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("TIFF", {"compression": "jpeg"}),
        ("WEBP", {"quality": 95}),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_lossy_file_gives_nearly_its_pixels(
    image_format: str, options: dict[str, Any], mode: str
) -> None:
    image = Image.fromarray(split_field()).convert(mode)

    difference = decode(encode(image, image_format, **options)).astype(int) - split_field()

    assert np.abs(difference).max() <= 12


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_printing_colours_keep_ink_dark(image_format: str) -> None:
    # Pillow writes CMYK JPEGs as Adobe does, inverted.
    ink = Image.fromarray(255 - split_field())
    nothing = Image.new("L", ink.size, 0)
    image = Image.merge("CMYK", [nothing, nothing, nothing, ink])

    difference = decode(encode(image, image_format)).astype(int) - split_field()

    assert np.abs(difference).max() <= 12


def test_colour_becomes_luminance() -> None:
    colours = Image.new("RGB", (3, 1))
    colours.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255)])

    assert decode(encode(colours, "PNG")).tolist() == [[76, 150, 29]]


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0, 1], [0, 255]),
        ([0, 128, 255], [0, 128, 255]),
        ([0, 32768, 65535], [0, 128, 255]),
        ([0, 50_000, 100_000], [0, 128, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([-5, -5], [0, 0]),
    ],
)
def test_wide_integers_are_stretched_only_if_they_have_no_known_white(
    values: list[int], greys: list[int]
) -> None:
    image = Image.fromarray(np.array([values], dtype=np.int32))

    assert decode(encode(image, "TIFF")).tolist() == [greys]


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([-1, 0, 1], [0, 128, 255]),
        ([math.nan, 0, 1], [0, 0, 255]),
        ([math.inf, -math.inf, 1], [0, 0, 255]),
        ([-3.4e38, 0, 3.4e38], [0, 128, 255]),
        ([0, 1e-45], [0, 0]),
    ],
)
def test_floats_without_sense_are_no_surprise(values: list[float], greys: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))

    assert decode(encode(image, "TIFF")).tolist() == [greys]


@pytest.mark.parametrize("alpha", [255, 100])
@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("ink", "paper"),
    [((0, 0, 0), 255), ((255, 255, 255), 0), ((200, 0, 0), 255), ((255, 230, 0), 0)],
)
def test_ink_on_nothing_stays_visible(
    ink: tuple[int, int, int], paper: int, image_format: str, alpha: int
) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}

    decoded = decode(encode(drawing(ink, alpha), image_format, **options)).astype(int)

    assert abs(decoded[20, 20] - decoded[0, 0]) >= 0.5 * alpha
    assert decoded[0, 0] == paper


@pytest.mark.parametrize("mode", ["LA", "PA", "P"])
def test_transparency_counts_in_every_mode(mode: str) -> None:
    image = drawing((0, 0, 0)).convert("LA" if mode == "LA" else "RGBA")
    if mode == "PA":
        data = encode(image.convert("PA"), "TIFF")
    elif mode == "P":
        data = encode(image.quantize(4), "PNG")
    else:
        data = encode(image, "PNG")

    decoded = decode(data)

    assert (decoded[0, 0], decoded[20, 20]) == (255, 0)


def test_a_transparent_colour_is_transparent() -> None:
    data = encode(
        Image.fromarray(np.where(split_field() == 0, 0, 9).astype(np.uint8)), "PNG", transparency=9
    )

    # Value 9 would be black ink next to black ink.
    assert sorted(np.unique(decode(data))) == [0, 255]


def test_cut_out_corners_take_the_colour_of_the_paper() -> None:
    image = Image.new("RGBA", (40, 40), (250, 250, 250, 255))
    image.paste((20, 20, 20, 255), (15, 5, 25, 35))
    image.paste((0, 0, 0, 0), (0, 0, 6, 6))

    decoded = decode(encode(image, "PNG"))

    assert decoded[0, 0] == 250
    assert decoded[20, 20] == 20


def test_nothing_at_all_is_uniform() -> None:
    assert np.unique(decode(encode(Image.new("RGBA", (9, 9), (1, 2, 3, 0)), "PNG"))).size == 1


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(image_format: str, orientation: int) -> None:
    turns: list[Callable[[Grey], Grey]] = [
        lambda p: p,
        np.fliplr,
        lambda p: np.rot90(p, 2),
        np.flipud,
        np.transpose,
        lambda p: np.rot90(p, -1),
        lambda p: np.rot90(p.T, 2),
        np.rot90,
    ]
    data = encode(Image.fromarray(split_field()), image_format, exif=with_orientation(orientation))

    upright = turns[orientation - 1](split_field())

    assert np.abs(decode(data).astype(int) - upright).max() <= 12


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_without_meaning_changes_nothing(orientation: int) -> None:
    data = encode(Image.fromarray(split_field()), "PNG", exif=with_orientation(orientation))

    np.testing.assert_array_equal(decode(data), split_field())


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_damaged_metadata_does_not_cost_the_picture(image_format: str) -> None:
    intact = with_orientation(6).tobytes()
    for length in range(6, len(intact)):
        data = encode(Image.fromarray(split_field()), image_format, exif=intact[:length])

        assert decode(data).shape in (split_field().shape, split_field().T.shape)


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_counts(image_format: str) -> None:
    first, second = Image.fromarray(split_field()), Image.fromarray(255 - split_field())
    options: dict[str, Any] = {"lossless": True} if image_format == "WEBP" else {}

    data = encode(first, image_format, save_all=True, append_images=[second], **options)

    assert np.abs(decode(data).astype(int) - split_field()).max() <= 12


# Limits


def test_a_photo_is_decoded_at_a_reduced_size() -> None:
    assert decode(photo(4000, 3000)).shape == (375, 500)


def test_a_small_jpeg_keeps_its_size() -> None:
    assert decode(photo(600, 400)).shape == (400, 600)


def test_a_photos_pixels_count_after_scaling() -> None:
    data = photo(4000, 3000)

    assert decode_within(data, 375 * 500).shape == (375, 500)
    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decode_within(data, 375 * 500 - 1)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "GIF", "TIFF"])
def test_every_other_formats_pixels_all_count(image_format: str) -> None:
    data = encode(Image.new("L", (30, 20)), image_format)

    assert decode_within(data, 600).shape == (20, 30)
    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decode_within(data, 599)


def test_a_bomb_is_refused_before_anything_is_allocated() -> None:
    bomb = png_of(9000, 9000, 1, bytes(9000 * (1 + 9000 // 8)))
    assert len(bomb) < 10_000
    allocated = images_allocated()

    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decoding.decode(bomb, max_pixels=LIMIT)

    assert images_allocated() == allocated


# What is worth a thread


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_small_image_is_decoded_at_once(image_format: str, mode: str) -> None:
    data = encode(Image.fromarray(split_field(160, 160)).convert(mode), image_format)

    decoded = decode_inline(data, max_pixels=LIMIT)

    assert decoded is not None
    np.testing.assert_array_equal(decoded, decode(data))


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.new("L", (161, 160)), "PNG"),
        encode(Image.effect_noise((160, 160), 40), "JPEG", progressive=True),
        encode(Image.new("L", (8, 8)), "PNG") + bytes(INLINE_BYTES),
        encode(Image.new("L", (8, 8)), "GIF"),
        encode(Image.new("L", (8, 8)), "TIFF"),
    ],
    ids=["larger", "many scans", "mostly metadata", "GIF", "TIFF"],
)
def test_other_images_are_left_to_a_thread(data: bytes) -> None:
    assert decoding_cost(data) > 0
    assert decode(data).size > 0


def test_a_small_file_is_refused_at_once() -> None:
    with raises_error(ErrorCode.NOT_AN_IMAGE):
        decode_inline(b"no image", max_pixels=LIMIT)


# What is no image


def test_no_bytes_are_an_empty_body() -> None:
    with raises_error(ErrorCode.EMPTY_BODY):
        decode(b"")


def test_a_damaged_file_is_not_an_image() -> None:
    data = bytearray(encode(Image.fromarray(every_grey()), "PNG"))
    data[len(data) // 2] ^= 0xFF

    with raises_error(ErrorCode.NOT_AN_IMAGE, match="this PNG file is damaged"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((0, 28), ErrorCode.NOT_AN_IMAGE),
        ((28, 0), ErrorCode.NOT_AN_IMAGE),
        ((2**31 - 1, 2**31 - 1), ErrorCode.TOO_MANY_PIXELS),
        ((2**32 - 1, 1), ErrorCode.TOO_MANY_PIXELS),
    ],
)
def test_a_size_without_sense_is_refused(size: tuple[int, int], code: ErrorCode) -> None:
    with raises_error(code):
        decode(png_of(*size, 8, bytes(100)))


def test_an_answer_never_repeats_the_bytes() -> None:
    for data in (b"secret", SVG.replace(b"svg ", b"svg secret ", 1), b"BMsecretsecret\0\0\0secret"):
        with pytest.raises(ApiError) as caught:
            decode(data)
        assert "secret" not in caught.value.message


# Warnings


def warning_tiff() -> bytes:
    """A TIFF with a description larger than the file, of which Pillow warns."""
    data = bytearray(encode(Image.fromarray(split_field()), "TIFF", description="x" * 50))
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, entry) == (270,):
            struct.pack_into("<I", data, entry + 4, 2**20)
    return bytes(data)


def test_pillow_does_warn_of_that_file() -> None:
    with (
        pytest.warns(UserWarning, match="larger than file"),
        Image.open(BytesIO(warning_tiff())) as image,
    ):
        image.load()


_ACTIONS: tuple[Literal["error", "default", "always"], ...] = ("error", "default", "always")


def test_what_pillow_warns_of_is_nobodys_business(capfd: pytest.CaptureFixture[str]) -> None:
    for action in _ACTIONS:
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            assert decode(warning_tiff()).shape == split_field().shape
    assert capfd.readouterr().err == ""


def test_threads_do_not_hear_warnings_either() -> None:
    data = warning_tiff()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(8) as pool:
            decoded = list(pool.map(decode, [data] * 200))
    for pixels in decoded:
        np.testing.assert_array_equal(pixels, split_field())
