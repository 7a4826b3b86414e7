"""What an image file shows before it is decoded: its format, its end, its traps."""

import math
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from app.errors import ApiError, ErrorCode
from app.inference.image_formats import Format, identify
from tests.api_errors import raises_error
from tests.app.inference.encoded_images import (
    LOSSLESS,
    SVG,
    decode,
    decode_within,
    drawing,
    encode,
    every_grey,
    images_allocated,
    photo,
    png_chunk,
    png_of,
    with_orientation,
)

# Which format


def ftyp(*brands: bytes) -> bytes:
    content = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 4 + len(content)) + content + bytes(200)


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


# Its end


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


# Its traps


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": Image.Exif()}])
def test_a_webp_may_have_half_as_many_pixels(options: dict[str, Any]) -> None:
    if "exif" in options:
        options["exif"][0x0112] = 1  # in a file with extensions the canvas size stands elsewhere
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


def test_a_progressive_photos_pixels_all_count() -> None:
    # Its coefficients are all in memory before the first pixel is.
    data = photo(4000, 3000, progressive=True)

    assert decode_within(data, 4000 * 3000).shape == (375, 500)
    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decode_within(data, 4000 * 3000 - 1)


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


# Damaged files


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
