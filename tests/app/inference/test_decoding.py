import math
import random
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, Literal, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, _imaging

from app.errors import ApiError, ErrorCode
from app.inference import decoding
from app.inference.decoding import INLINE_BYTES, decode_inline
from app.inference.image_formats import Format, identify
from tests.api_errors import raises_error

Grey = NDArray[np.uint8]

LIMIT = 50_000_000


def decode_within(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    return decoding.decode(data, max_pixels=max_pixels)[0]


def decode(data: bytes) -> Grey:
    return decode_within(data, LIMIT)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def every_grey() -> Grey:
    """28x28 with each value from 0 to 255, in no order that a decoder could turn unnoticed."""
    values = np.resize(np.arange(256, dtype=np.uint8), 28 * 28)
    return np.random.default_rng(0).permutation(values).reshape(28, 28)


def split_field(width: int = 64, height: int = 48) -> Grey:
    """White with a black upper left quarter: shows every turn and mirroring."""
    pixels = np.full((height, width), 255, dtype=np.uint8)
    pixels[: height // 2, : width // 2] = 0
    return pixels


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_of(width: int, height: int, bits: int, raw: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(raw, 9))
    chunks = [png_chunk(b"IHDR", header), *extra, pixels, png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def grey_palette(pixels: Grey) -> Image.Image:
    """The same pixels through a palette in reverse order."""
    image = Image.fromarray(255 - pixels, mode="P")
    image.putpalette([level for level in range(255, -1, -1) for _ in "RGB"])
    return image


LOSSLESS: dict[str, Callable[[Grey], bytes]] = {
    "grey PNG": lambda p: encode(Image.fromarray(p), "PNG"),
    "interlaced PNG": lambda p: encode(Image.fromarray(p), "PNG", interlace=1),
    "RGB PNG": lambda p: encode(Image.fromarray(p).convert("RGB"), "PNG"),
    "RGBA PNG": lambda p: encode(Image.fromarray(p).convert("RGBA"), "PNG"),
    "grey and alpha PNG": lambda p: encode(Image.fromarray(p).convert("LA"), "PNG"),
    "palette PNG": lambda p: encode(grey_palette(p), "PNG"),
    "16-bit PNG": lambda p: encode(Image.fromarray(p.astype(np.uint16) * 257), "PNG"),
    "BMP": lambda p: encode(Image.fromarray(p), "BMP"),
    "RGB BMP": lambda p: encode(Image.fromarray(p).convert("RGB"), "BMP"),
    "GIF": lambda p: encode(Image.fromarray(p), "GIF"),
    "palette GIF": lambda p: encode(grey_palette(p), "GIF"),
    "TIFF": lambda p: encode(Image.fromarray(p), "TIFF"),
    "LZW TIFF": lambda p: encode(Image.fromarray(p), "TIFF", compression="tiff_lzw"),
    "deflated RGB TIFF": lambda p: encode(
        Image.fromarray(p).convert("RGB"), "TIFF", compression="tiff_adobe_deflate"
    ),
    "big TIFF": lambda p: encode(Image.fromarray(p), "TIFF", big_tiff=True),
    "16-bit TIFF": lambda p: encode(Image.fromarray(p.astype("<u2") * 257), "TIFF"),
    "big-endian 16-bit TIFF": lambda p: encode(Image.fromarray(p.astype(">u2") * 257), "TIFF"),
    "32-bit TIFF": lambda p: encode(Image.fromarray(p.astype(np.int32)), "TIFF"),
    "float TIFF": lambda p: encode(Image.fromarray(p.astype(np.float32)), "TIFF"),
    "float TIFF up to 1": lambda p: encode(Image.fromarray(p.astype(np.float32) / 255), "TIFF"),
    "LAB TIFF": lambda p: encode(Image.merge("LAB", [Image.fromarray(p)] * 3), "TIFF"),
    "lossless WebP": lambda p: encode(Image.fromarray(p), "WEBP", lossless=True),
}


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


def drawing(ink: tuple[int, int, int], alpha: int = 255) -> Image.Image:
    """A bar of ink on nothing, which is black underneath, as drawing tools leave it."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((*ink, alpha), (15, 5, 25, 35))
    return image


@pytest.mark.parametrize("alpha", [255, 100])
@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (200, 0, 0), (255, 230, 0)])
def test_ink_on_nothing_stays_visible(
    ink: tuple[int, int, int], image_format: str, alpha: int
) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}

    decoded = decode(encode(drawing(ink, alpha), image_format, **options)).astype(int)

    assert abs(decoded[20, 20] - decoded[0, 0]) >= 0.5 * alpha
    assert decoded[0, 0] in (0, 255)


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

    # Value 9 would be black ink beside black ink.
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


def photo(width: int, height: int, **options: Any) -> bytes:
    return encode(Image.new("RGB", (width, height), (120, 110, 100)), "JPEG", **options)


def test_a_photo_is_decoded_at_a_reduced_size() -> None:
    assert decode(photo(4000, 3000)).shape == (375, 500)


def test_a_small_jpeg_keeps_its_size() -> None:
    assert decode(photo(600, 400)).shape == (400, 600)


def test_a_photos_pixels_count_after_scaling() -> None:
    data = photo(4000, 3000)

    assert decode_within(data, 375 * 500).shape == (375, 500)
    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decode_within(data, 375 * 500 - 1)


def test_a_progressive_photos_pixels_all_count() -> None:
    # Its coefficients are all in memory before the first pixel is.
    data = photo(4000, 3000, progressive=True)

    assert decode_within(data, 4000 * 3000).shape == (375, 500)
    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decode_within(data, 4000 * 3000 - 1)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "GIF", "TIFF"])
def test_every_other_formats_pixels_all_count(image_format: str) -> None:
    data = encode(Image.new("L", (30, 20)), image_format)

    assert decode_within(data, 600).shape == (20, 30)
    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decode_within(data, 599)


def images_allocated() -> int:
    return int(_imaging.get_stats()["new_count"])


@pytest.mark.parametrize("decoder", [decoding.decode, decode_inline])
def test_a_bomb_is_refused_before_anything_is_allocated(
    decoder: Callable[..., Grey | None],
) -> None:
    bomb = png_of(9000, 9000, 1, bytes(9000 * (1 + 9000 // 8)))
    assert len(bomb) < 10_000
    allocated, started = images_allocated(), time.perf_counter()

    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decoder(bomb, max_pixels=LIMIT)

    assert time.perf_counter() - started < 0.5
    assert images_allocated() == allocated


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": Image.Exif()}])
def test_a_webp_may_have_half_as_many_pixels(options: dict[str, Any]) -> None:
    if "exif" in options:
        options["exif"][0x0112] = 1  # in a file with extensions the canvas is told elsewhere
    data = encode(Image.new("L", (300, 200)), "WEBP", **options)

    assert decode_within(data, 120_000).shape == (200, 300)
    message = "60000 pixels and this server decodes 59999 of a WebP; scale it down, or send it as"
    with raises_error(ErrorCode.TOO_MANY_PIXELS, match=message):
        decode_within(data, 119_999)


def test_a_gif_screen_is_refused_before_anything_is_allocated() -> None:
    data = bytearray(encode(Image.new("P", (9, 9)), "GIF", disposal=2))
    data[6:10] = struct.pack("<HH", 9000, 9000)
    allocated = images_allocated()

    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decode(bytes(data))

    assert images_allocated() == allocated


def test_compressed_texts_are_not_inflated() -> None:
    # Pillow would refuse them, after inflating 64 MB.
    text = zlib.compress(bytes(900_000), 9)
    texts = [png_chunk(b"zTXt", b"key%d\0\0" % index + text) for index in range(200)]
    row = bytes(29)  # filter byte and 28 pixels

    assert decode(png_of(28, 28, 8, row * 28, *texts)).shape == (28, 28)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = photo(2000, 2000, progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]

    with raises_error(ErrorCode.NOT_AN_IMAGE, match="scans"):
        decode(data[:last] + scan * 200 + data[-2:])


def test_a_video_after_a_photo_is_ignored() -> None:
    # Phones append one; in 10 MB of it the two bytes that begin a scan occur by chance.
    assert decode(photo(640, 480) + b"\xff\xda" * 200).shape == (480, 640)


# What is worth a thread


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_small_image_is_decoded_at_once(image_format: str, mode: str) -> None:
    data = encode(Image.fromarray(split_field(64, 64)).convert(mode), image_format)

    decoded = decode_inline(data, max_pixels=LIMIT)

    assert decoded is not None
    np.testing.assert_array_equal(decoded, decode(data))


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.new("L", (65, 64)), "PNG"),
        encode(Image.new("L", (8, 8)), "PNG") + bytes(INLINE_BYTES),
        encode(Image.new("L", (8, 8)), "GIF"),
        encode(Image.new("L", (8, 8)), "TIFF"),
    ],
    ids=["larger", "mostly metadata", "GIF", "TIFF"],
)
def test_other_images_are_left_to_a_thread(data: bytes) -> None:
    assert decode_inline(data, max_pixels=LIMIT) is None
    assert decode(data).size > 0


def test_a_small_file_is_refused_at_once() -> None:
    with raises_error(ErrorCode.NOT_AN_IMAGE):
        decode_inline(b"no image", max_pixels=LIMIT)


# What is no image


def ftyp(*brands: bytes) -> bytes:
    content = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 4 + len(content)) + content + bytes(200)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="28" height="28"/>'


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (ftyp(b"heic", b"mif1", b"heic"), "HEIC"),
        (ftyp(b"mif1", b"mif1", b"heic"), "HEIC"),
        (ftyp(b"heix"), "HEIC"),
        (ftyp(b"hevc"), "HEIC"),
        (ftyp(b"avif", b"mif1", b"miaf"), "AVIF"),
        (ftyp(b"mif1", b"avif"), "AVIF"),
        (encode(Image.new("L", (28, 28)), "AVIF"), "AVIF"),
        (SVG, "SVG"),
        (b"\xef\xbb\xbf \n" + SVG, "SVG"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<!DOCTYPE svg>\n' + SVG, "SVG"),
    ],
)
def test_a_known_format_that_is_not_read_is_named_with_its_cure(data: bytes, name: str) -> None:
    with raises_error(
        ErrorCode.UNSUPPORTED_MEDIA_TYPE, match=f"{name} images are not supported; .*(JPEG|PNG)"
    ):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"seven",
        b"BMW is no bitmap, for all its letters",
        b"GIF8",
        b"\x89PNG",
        b"\xff\xd8",
        b"RIFF1234WAVEfmt ",
        b"\0",
        bytes(10_000),
        b'{"pixels": []}',
        b"<html><svg></svg></html>",
        b"%PDF-1.7",
        ftyp(b"mp42", b"isom"),
        encode(Image.new("L", (28, 28)), "PPM"),
        encode(Image.new("L", (28, 28)), "ICO"),
        encode(Image.new("L", (28, 28)), "TGA"),
        encode(Image.new("L", (28, 28)), "JPEG2000"),
        encode(Image.new("RGB", (28, 28)), "PDF"),
        encode(Image.new("RGB", (28, 28)), "EPS"),
    ],
)
def test_other_bytes_are_not_an_image(data: bytes) -> None:
    with raises_error(ErrorCode.NOT_AN_IMAGE, match="send PNG, JPEG, WebP, BMP, GIF or TIFF"):
        decode(data)


def test_no_bytes_are_an_empty_body() -> None:
    with raises_error(ErrorCode.EMPTY_BODY):
        decode(b"")


def test_a_damaged_file_is_not_an_image() -> None:
    data = bytearray(encode(Image.fromarray(every_grey()), "PNG"))
    data[len(data) // 2] ^= 0xFF

    with raises_error(ErrorCode.NOT_AN_IMAGE, match="this PNG file is damaged"):
        decode(bytes(data))


@pytest.mark.parametrize("size", [(0, 28), (28, 0), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1)])
def test_a_size_without_sense_is_refused(size: tuple[int, int]) -> None:
    with raises_error(ErrorCode.NOT_AN_IMAGE, ErrorCode.TOO_MANY_PIXELS):
        decode(png_of(*size, 8, bytes(100)))


def samples() -> dict[str, bytes]:
    """Small good files of every format and way to write it."""
    image = Image.fromarray(every_grey())
    exif = with_orientation(6)
    return {
        **{encoding: encode_pixels(every_grey()) for encoding, encode_pixels in LOSSLESS.items()},
        "JPEG": encode(image, "JPEG"),
        "JPEG with EXIF": encode(image.convert("RGB"), "JPEG", exif=exif),
        "progressive JPEG": encode(image.convert("RGB"), "JPEG", progressive=True),
        "CMYK JPEG": encode(image.convert("CMYK"), "JPEG"),
        "PNG with EXIF": encode(image, "PNG", exif=exif),
        "WebP": encode(image, "WEBP"),
        "WebP with EXIF": encode(image, "WEBP", exif=exif),
        "animated GIF": encode(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        "animated PNG": encode(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
        "animated WebP": encode(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
        "transparent PNG": encode(drawing((0, 0, 0)), "PNG"),
        "fax": encode(image.convert("1"), "TIFF", compression="group4"),
        "JPEG in TIFF": encode(image, "TIFF", compression="jpeg"),
    }


SAMPLES = samples()


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_file_without_its_end_is_truncated(sample: str) -> None:
    data = SAMPLES[sample]
    whole = decode(data)
    kinds = []
    # From the shortest piece that shows its format; a header's bytes one by one, then in steps.
    for length in [*range(18, min(100, len(data))), *range(100, len(data), 37)]:
        try:
            decoded = decode(data[:length])
        except ApiError as error:
            kinds.append(error.kind)
        else:
            # Only what follows the pixels was missing.
            np.testing.assert_array_equal(decoded, whole)
    assert len(kinds) > 10
    assert set(kinds) == {ErrorCode.TRUNCATED_IMAGE}


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    generator = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 4, 8))):
            # Half of the damage near the beginning, where the headers are.
            reach = len(mutant) if generator.random() < 0.5 else min(len(mutant), 200)
            at = generator.randrange(reach)
            match generator.randrange(6):
                case 0 | 1:
                    mutant[at] = generator.randrange(256)
                case 2:
                    mutant[at] ^= 1 << generator.randrange(8)
                case 3:
                    extreme = generator.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1))
                    mutant[at : at + 4] = struct.pack(generator.choice(("<I", ">I")), extreme)
                case 4:
                    del mutant[at + 1 : at + generator.randrange(2, 20)]
                case 5:
                    mutant[at:at] = generator.randbytes(generator.randrange(1, 20))
        yield bytes(mutant)


@pytest.mark.parametrize("image_format", get_args(Format))
def test_whatever_the_bytes_only_an_answer_comes_out(image_format: str) -> None:
    originals = [data for data in SAMPLES.values() if identify(data) == image_format]
    outcomes = set()
    for seed, original in enumerate(originals):
        for mutant in mutations(original, math.ceil(2000 / len(originals)), seed):
            try:
                decoded = decode_within(mutant, 1_000_000)
            except ApiError as error:
                outcomes.add(error.code)
            else:
                assert decoded.dtype == np.uint8
                assert decoded.ndim == 2
                outcomes.add("decoded")
    assert outcomes >= {"decoded", "not_an_image", "truncated_image"}
    assert outcomes <= {"decoded", "not_an_image", "truncated_image", "too_many_pixels"}


def test_random_bytes_after_a_signature_give_an_answer() -> None:
    generator = random.Random(0)
    for signature in (s[:18] for s in SAMPLES.values()):
        for _ in range(50):
            with pytest.raises(ApiError):
                decode(signature + generator.randbytes(generator.randrange(200)))


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
