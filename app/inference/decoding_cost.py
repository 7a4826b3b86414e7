"""How long an image file will take to decode, from its header: in microseconds of one core.

What matters is the order of the formats and of their sizes: `Backlog` measures how fast this
machine is.
"""

import math
from collections.abc import Container

from app.inference.image_formats import Format, identify, webp_canvas
from app.inference.plain_png import INLINE_PIXELS

# The largest uncompressed image of that size with its header. A small picture in a larger file is
# mostly metadata, which takes time as well.
INLINE_BYTES = 4 * INLINE_PIXELS + 1024
# A picture of this cost is large: a photo of about a megapixel.
LARGE = 14_000
# For each pixel and each byte of the file, in ns, as measured.
_OF_FORMAT: dict[Format, tuple[float, float]] = {
    "PNG": (3, 17),
    "JPEG": (3, 20),
    "WebP": (15, 60),
    "GIF": (5, 6),
    "BMP": (3, 1),
    "TIFF": (0, 3),
}
# Whose header does not say at a fixed place how many pixels are decoded.
_WITHOUT_SIZE: Container[Format] = ("GIF", "TIFF")
# Finding the digit, in a picture that is scaled down before if it is large; ns.
_FINDING, _FINDING_PIXEL, _MOST_FINDING = 1_000_000, 4, 8_000_000
# A file of many empty ones would take long to look through.
_MOST_JPEG_SEGMENTS = 200


def decoding_cost(data: bytes, size: int | None = None) -> int:
    """Microseconds that a file takes in a thread; 0: it is small, and read on the event loop.

    Args:
        data: of an image, or of anything else; or the beginning of that.
        size: of the whole, bytes, if that is more; the cost is then the least that it can be.
    """
    image_format = identify(data)
    if image_format is None:
        return 0  # it will be refused
    size = size or len(data)
    pixels = _pixels(data, image_format)
    has_size = pixels > 0 and image_format != "GIF"  # whose first frame may exceed the screen
    may_be_small = has_size and size <= INLINE_BYTES and pixels <= INLINE_PIXELS
    if may_be_small and pixels * _visits(data) <= INLINE_PIXELS:
        return 0
    if pixels == 0 and size > len(data) and image_format not in _WITHOUT_SIZE:
        return 0  # its size may follow
    of_pixel, of_byte = _OF_FORMAT[image_format]
    finding = min(_FINDING + _FINDING_PIXEL * pixels, _MOST_FINDING)
    cost = int((of_pixel * pixels + of_byte * size + finding) / 1000)
    return cost if has_size else max(LARGE, cost)


def _visits(data: bytes) -> int:
    """How often each pixel is visited, at most: by the scans of a JPEG, which has up to 50.

    Most have one, and a second in the small picture of their metadata.
    """
    return max(1, data.count(b"\xff\xda") // 2) if data.startswith(b"\xff\xd8") else 1


def _pixels(data: bytes, image_format: Format) -> int:
    """As the header says; 0: it says nothing at a fixed place."""
    match image_format:
        case "PNG":
            return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
        case "GIF":
            return int.from_bytes(data[6:8], "little") * int.from_bytes(data[8:10], "little")
        case "WebP":
            return math.prod(webp_canvas(data))
        case "BMP":
            height = int.from_bytes(data[22:26], "little", signed=True)  # negative: from the top
            return int.from_bytes(data[18:22], "little") * abs(height)
        case "JPEG":
            return _jpeg_pixels(data)
        case "TIFF":
            return 0


def _jpeg_pixels(data: bytes) -> int:
    position = 2
    for _ in range(_MOST_JPEG_SEGMENTS):
        if position + 10 > len(data) or data[position] != 0xFF:
            break
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(height, "big") * int.from_bytes(width, "big")
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 0
