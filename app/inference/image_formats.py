"""What the bytes of an image file show before it is decoded: its format, its end, its traps.

Pillow finds out most of this too, but only after it has allocated memory, inflated text or
complained on standard error; these checks come first and cost microseconds. What went wrong with
bytes on their way here is looked for only once they cannot be read.
"""

import re
from base64 import b64encode
from codecs import getincrementaldecoder
from collections.abc import Mapping
from typing import Any, Literal

Format = Literal["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF"]

_MAGIC: Mapping[Format, tuple[bytes, ...]] = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
# How files of all formats begin; those of two formats have more to them, see `identify`.
_SIGNATURES = (*(each for magic in _MAGIC.values() for each in magic), b"RIFF", b"BM")

# How an SVG may begin; the tag itself follows within the first kilobytes.
_MARKUP = (b"<svg", b"<?xml", b"<!--", b"<!DOCTYPE svg")
_MARKUP_BYTES = 4096

_HEIC_BRAND = re.compile(rb"he[iv].|mif1|msf1")

# Encoders write about ten; a file of 150,000 empty ones would take minutes.
_MAX_JPEG_SCANS = 50

# Of strips, tiles and other numbers. A picture of 50 million pixels in tiles of 32x32 has 48,829.
_MAX_TIFF_VALUES = 65_536
_TIFF_BYTES = (1, 2, 6, 7)  # types of a byte each, which Pillow makes no numbers of

_MAX_PNG_CHUNKS = 150_000


def identify(data: bytes) -> Format | None:
    """The format whose signature the bytes begin with; None: no format that is read here."""
    for image_format, magic in _MAGIC.items():
        if data.startswith(magic):
            return image_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    # Two letters alone would take any text that begins with BM: the size of the second header,
    # 12 to 124, must follow.
    if data[:2] == b"BM" and data[15:18] == b"\0\0\0":
        return "BMP"
    return None


def identify_unsupported(data: bytes) -> str | None:
    """The name of a well-known image format that is not read here; None: none of them."""
    if data[4:8] == b"ftyp":
        # One container for both; its compatible brands distinguish them.
        brands = data[8 : max(12, min(int.from_bytes(data[:4], "big"), 256))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if _HEIC_BRAND.search(brands):
            return "HEIC"
    head = data[:_MARKUP_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(_MARKUP) and b"<svg" in head:
        return "SVG"
    return None


def is_cut_off(data: bytes, image_format: Format) -> bool:
    """Whether a file that cannot be decoded lacks its end, rather than being damaged within."""
    match image_format:
        case "PNG":
            return not any(kind == b"IEND" for kind, _, _ in png_chunks(data))
        case "JPEG":
            return not data.rstrip(b"\0").endswith(b"\xff\xd9")
        case "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        case "WebP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "BMP":
            return int.from_bytes(data[2:6], "little") > len(data)
        case "TIFF":
            return False  # see `tiff_is_cut_off`


def png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """The whole chunks of a PNG: kind, and where the chunk begins and ends in `data`."""
    chunks: list[tuple[bytes, int, int]] = []
    start = 8
    while start + 12 <= len(data) and len(chunks) < _MAX_PNG_CHUNKS:
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            break
        chunks.append((data[start + 4 : start + 8], start, end))
        start = end
    return chunks


def without_png_text(data: bytes) -> bytes:
    """The PNG without its compressed texts and colour profile.

    Pillow inflates them when it opens a file: a fifth of a second for one of 64 kB.
    """
    if not any(kind in data for kind in _INFLATED_CHUNKS):
        return data
    chunks = png_chunks(data)
    kept = [data[start:end] for kind, start, end in chunks if kind not in _INFLATED_CHUNKS]
    rest = chunks[-1][2] if chunks else 8  # of a file cut off within a chunk
    return b"".join([data[:8], *kept, data[rest:]])


_INFLATED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")


def webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP's canvas, two of which Pillow allocates when it opens the file."""
    match data[12:16]:
        case b"VP8X":
            sides = [int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27)]
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            sides = [(bits >> shift & 0x3FFF) + 1 for shift in (0, 14)]
        case _:
            sides = [int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28)]
    return sides[0], sides[1]


def jpeg_keeps_all_coefficients(data: bytes) -> bool:
    """Whether a JPEG comes in several scans, progressive or a component each.

    Its coefficients are then all held in memory, at full size, however far it is scaled down.
    True also where the markers cannot be followed.
    """
    position, components = 2, 0
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan
            return data[position + 4] < components
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            if marker not in (0xC0, 0xC1):  # neither baseline nor extended sequential
                return True
            components = data[position + 9]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True


def jpeg_has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG would be decoded over and over: every scan may visit every pixel."""
    # Within a scan the two bytes cannot occur; metadata may hold a few, a video after the picture
    # many, but what writes those writes a single scan. To count takes as long as to read the file.
    return jpeg_keeps_all_coefficients(data) and data.count(b"\xff\xda") > _MAX_JPEG_SCANS


def tiff_is_cut_off(tags: Mapping[int, Any], size: int) -> bool:
    """Whether a TIFF lacks pixels: libtiff would complain about that on standard error.

    Args:
        tags: of its first picture.
        size: bytes of the file.
    """
    ends = [
        offset + length
        for offsets, lengths in ((273, 279), (324, 325))  # of strips, and of tiles
        for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)
    ]
    return not ends or max(ends) > size


def tiff_has_too_many_values(data: bytes) -> bool:
    """Whether Pillow would make millions of Python objects of a TIFF's first directory."""
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    wide, step = (8, 20) if 43 in data[2:4] else (4, 12)  # BigTIFF, or the plain one

    def number(start: int, size: int) -> int:
        return int.from_bytes(data[start : start + size], order)

    directory = number(8, 8) if wide == 8 else number(4, 4)
    first = directory + (8 if wide == 8 else 2)
    entries = min(number(directory, first - directory), len(data) // step)
    return entries > _MAX_TIFF_VALUES or any(
        number(entry + 4, wide) > _MAX_TIFF_VALUES and number(entry + 2, 2) not in _TIFF_BYTES
        for entry in range(first, first + entries * step, step)
    )


# What text tools have done shows within the first bytes, and not in fewer than these.
_LEAST_BYTES, _HEAD_BYTES = 40, 65_536

# How image files begin, after each mistake.
_STRIPPED = tuple(
    signature.translate(None, lost) for signature in _SIGNATURES for lost in (b"\0", b"\r\n\0")
)
_AS_TEXT = tuple(
    signature.decode(encoding, "replace").encode()
    for signature in _SIGNATURES
    for encoding in ("utf-8", "latin-1", "cp1252")
)
# The last character of base64 also depends on the byte that follows.
_BASE64 = b"|".join(
    re.escape(b64encode(signature)[: len(signature) * 8 // 6]) for signature in _SIGNATURES
)

_LOST_BYTES = (
    "the newlines and zero bytes of this image file are missing: curl -d and --data leave them "
    "out; send it with --data-binary @FILE"
)
_TEXT = (
    "this image file was read as text and sent as UTF-8, which changes its bytes; send them as "
    "they are: in JavaScript a Blob or ArrayBuffer, in Python what open(FILE, 'rb') reads"
)
_MISTAKES = (
    (
        re.compile(rb"data:image/|(?=[\w+/=\s-]{40})(?:%s)" % _BASE64),
        'this is an image file in base64; send its bytes, or {"image": "<base64>"} with the header '
        "Content-Type: application/json",
    ),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*\{\s*[\"}]"),
        "this is JSON, and Content-Type does not say so; send the header Content-Type: "
        "application/json",
    ),
    (
        re.compile(rb"(\r\n)?--[^\r\n]{1,200}\r\ncontent-", re.IGNORECASE),
        "this is a form, and Content-Type does not name multipart/form-data and its boundary; do "
        "not set that header: curl -F, requests and fetch write it themselves",
    ),
    (
        re.compile(rb"[a-z_]{1,40}="),
        "this is a form of the type x-www-form-urlencoded, which holds no image; send the file "
        "(curl: -F file=@FILE, requests: files={...}) or JSON (requests: json={...})",
    ),
    (
        re.compile(rb"[^\0-\x1f]{1,200}\.(png|jpe?g|webp|bmp|gif|tiff?)\s*\Z", re.IGNORECASE),
        "this is the name of a file and not the file; curl sends the file with @ before its name: "
        "--data-binary @FILE",
    ),
    (
        re.compile(rb"\x1f\x8b"),
        "this is compressed with gzip; send the header Content-Encoding: gzip with it, or the file "
        "as it is",
    ),
)


def find_mistake(data: bytes) -> str | None:
    """What was done to a body, or a file, that cannot be read, and the cure; None: nothing known.

    Examples are newlines taken out, bytes sent as text, base64, or another kind of body than its
    Content-Type says.
    """
    head = data[:_HEAD_BYTES]
    is_text = _is_text(head, is_whole=len(data) == len(head))
    # An image file has bytes that are no UTF-8, and zero bytes among the first ones.
    is_long = len(head) >= _LEAST_BYTES
    if is_long and not is_text and b"\0" not in head and head.startswith(_STRIPPED):
        return _LOST_BYTES
    if is_long and is_text and not head.isascii() and head.startswith(_AS_TEXT):
        return _TEXT
    return next((cure for pattern, cure in _MISTAKES if pattern.match(head)), None)


def _is_text(head: bytes, *, is_whole: bool) -> bool:
    """Whether it is UTF-8; where more follows, its last character may be cut off."""
    try:
        getincrementaldecoder("utf-8")().decode(head, final=is_whole)
    except UnicodeDecodeError:
        return False
    return True
