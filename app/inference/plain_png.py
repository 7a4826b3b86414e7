"""What most clients send, decoded in a third of the time or less: a bare greyscale PNG.

Pillow's own reader follows every kind of chunk a PNG may have. A file of exactly a header, data and
an end, as Pillow and OpenCV write greyscale images, needs none of that. Anything else, and whatever
is damaged, is left to that reader, so what is decoded and what is refused stays the same.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from model.png import undo_filters

# The longest side of any picture: what JPEG can have at most. A longer one is no photo of a digit,
# and every row costs, however short it is.
LONGEST_SIDE = 65_535
# What is read at once, on the event loop: at most about 1 ms. More is worth a thread.
INLINE_PIXELS = 160 * 160
# What is read at all, and the bytes that each of its pixels takes meanwhile.
PLAIN_PIXELS, PLAIN_BYTES = 2**22, 3

# Where the header's content, its checksum and the first piece of data begin.
_HEAD, _WIDTH, _CHECKSUM, _DATA = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16, 29, 33
_MOST_PIECES, _IDAT_CRC = 1000, zlib.crc32(b"IDAT")
_GREY = b"\x08\0\0\0\0"  # 8 bits, not interlaced
_TAIL = b"\0\0\0\0IEND\xae\x42\x60\x82"


def decode_plain_png(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """As `decode`, for such a file, (H, W); None: it is another, a larger one, or damaged."""
    if not data.startswith(_HEAD) or not data.endswith(_TAIL) or data[24:_CHECKSUM] != _GREY:
        return None
    if data[_CHECKSUM:_DATA] != zlib.crc32(data[12:_CHECKSUM]).to_bytes(4, "big"):
        return None
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (_WIDTH, _WIDTH + 4))
    if not 0 < width * height <= max_pixels or max(width, height) > LONGEST_SIDE:
        return None
    view, start = memoryview(data), _DATA
    pieces: list[memoryview] = []
    while start < len(data) - len(_TAIL) and len(pieces) < _MOST_PIECES:
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        content = view[start + 8 : end]
        checksum = zlib.crc32(content, _IDAT_CRC).to_bytes(4, "big")
        if data[start + 4 : start + 8] != b"IDAT" or data[end : end + 4] != checksum:
            return None
        pieces.append(content)
        start = end + 4
    if start != len(data) - len(_TAIL):
        return None
    size = height * (width + 1)
    try:
        rows = zlib.decompressobj().decompress(b"".join(pieces), size + 1)
    except zlib.error:
        return None
    if len(rows) != size:
        return None
    pixels = np.empty((height, width), np.uint8)
    largest = undo_filters(np.frombuffer(rows, np.uint8), pixels)
    # A largest value of 1 is the white of a mask, which is for Pillow's reader, too.
    return pixels if largest == 0 or largest > 1 else None
