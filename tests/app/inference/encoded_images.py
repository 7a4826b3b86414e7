"""Image files of every format, made from known pixels, and how the tests decode them."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging

from app.inference import decoding

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


def png_of(
    width: int, height: int, bits: int, raw: bytes, *extra: bytes, colour_type: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
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


def drawing(ink: tuple[int, int, int], alpha: int = 255) -> Image.Image:
    """A bar of ink on nothing, which is black underneath, as drawing tools leave it."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((*ink, alpha), (15, 5, 25, 35))
    return image


def photo(width: int, height: int, **options: Any) -> bytes:
    return encode(Image.new("RGB", (width, height), (120, 110, 100)), "JPEG", **options)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="28" height="28"/>'


def images_allocated() -> int:
    return int(_imaging.get_stats()["new_count"])
