"""The memory that pictures may take in this server, and that one takes, known from its header."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.errors import CheckpointError

# The share of the memory limit that pictures may take while they are decoded. A server at rest
# takes as much again, and bodies take the rest.
PICTURE_SHARE = 0.33
_LEAST_MEMORY = 2**20
# Of a network's file, while it is loaded: its bytes, its arrays, and those of the engine.
_NETWORK_COPIES = 3
_M_MMAP_THRESHOLD = -3  # of malloc.h

# The figures below are bytes per pixel; `python -m tests.load.picture_memory` measures their sums.
# Of a decoded picture, by its mode; 4 in all others.
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# Of what there is besides on the way to grey; 3 for all others.
_COPIES = {
    "L": 2,
    "LA": 5,
    "RGBA": 5,
    "I;16": 5,
    "I;16L": 5,
    "I;16B": 5,
    "I;16N": 5,
    "I": 10,
    "F": 10,
}
_COPIES_OF_OTHERS, _COPIES_MADE_RGBA = 3, 9
# Of a WebP in all: what the decoder has besides the first of its canvases, and Pillow's two copies.
WEBP_BYTES = 13
# Of a strip or a tile of a TIFF, which libtiff decompresses whole: its bits, but of JPEG and WebP
# coefficients, colours and RGBA.
_TIFF_JPEG_BYTES = 14
_TIFF_ROWS, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 278, 322, 323
_TIFF_BITS, _TIFF_ORIENTATION = 258, 274
# Of a BMP with run lengths: Pillow's Python decoder has the pixels twice more.
_RUN_LENGTH_BUFFERS = 2

_COEFFICIENT_BYTES = 2
# What scaling down in strips takes.
_STRIP_BYTES = 12 * 2**20


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the least limit of its control groups and the machine.

    Args:
        root: where /proc and /sys are.
    """
    limits = [4 * 2**30]  # of an unknown machine
    if hasattr(os, "sysconf"):  # not on Windows
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, group = line.split(":", 2)
        folder, name = root / "sys/fs/cgroup", "memory.max"
        if controllers:  # version 1
            folder, name = folder / "memory", "memory.limit_in_bytes"
            if "memory" not in controllers.split(","):
                continue
        path = PurePosixPath(group.lstrip("/"))
        # A container often sees its own group as the root, under a path from outside.
        for part in (path, *path.parents):
            try:
                limits.append(int((folder / part / name).read_text()))
            except (OSError, ValueError):  # there is none, or "max"
                continue
    return min(limits)


def require_room(path: Path, workers: int, root: Path = Path("/")) -> None:
    """Refuses a network that would not fit in memory, before its file is read.

    Args:
        path: of its file.
        workers: processes that load it.
        root: where /proc and /sys are.

    Raises:
        CheckpointError: it would not.
    """
    with suppress(OSError):  # reading it says what is wrong
        needed = workers * _NETWORK_COPIES * path.stat().st_size
        left = memory_left(workers, root)
        if needed > left:
            raise CheckpointError(
                f"the network {path} would take {needed / 1e6:,.0f} MB in {workers} workers, and "
                f"{max(left, 0) / 1e6:,.0f} MB are left; unload another, or use fewer workers"
            )


def memory_left(workers: int, root: Path = Path("/")) -> int:
    """Bytes that workers as large as this process can still use together."""
    left = memory_limit(root)
    with suppress(OSError, ValueError, IndexError):  # not on Linux
        pages = int((root / "proc/self/statm").read_text().split()[1])
        left -= workers * pages * os.sysconf("SC_PAGE_SIZE")
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                left = min(left, 1024 * int(line.split()[1]))
    return left


def picture_memory(total: int | None, workers: int) -> int:
    """Bytes for the picture that a worker decodes, of those for all workers, if they are set."""
    return max(_LEAST_MEMORY, (total or int(PICTURE_SHARE * memory_limit())) // workers)


def return_memory() -> None:
    """Makes glibc return large blocks at once, of which it would keep 32 MB each for later."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def decoding_memory(
    data: bytes, image: ImageFile, kept: tuple[int, int] | None, factor: int
) -> int:
    """The most bytes that decoding a picture to grey takes at a time.

    Args:
        data: its file.
        image: the same, opened, with no pixel decoded.
        kept: width and height of a JPEG whose coefficients are all kept at full size.
        factor: by which the decoded picture is scaled down before it is converted.
    """
    pixels = image.width * image.height
    stored = pixels * _STORED.get(image.mode, 4)
    # Buffers of the decoder, and copies after it.
    buffers = 0
    mode, left = image.mode, pixels
    converting = 0
    if factor > 1:
        mode, left = _scaled_mode(image), pixels // factor**2
        converting = left * _STORED.get(mode, 4)
    copies = _copies(mode, image.has_transparency_data) + ("exif" in image.info)
    converting += max(left * copies, _STRIP_BYTES if factor > 1 else 0)
    match image:
        case WebPImageFile():
            buffers = pixels * WEBP_BYTES - stored
        case JpegImageFile() if kept is not None:
            buffers = _coefficients(image, kept) * _COEFFICIENT_BYTES
        case TiffImageFile():
            # Pillow turns a copy.
            turning = stored if image.tag_v2.get(_TIFF_ORIENTATION, 1) != 1 else 0
            buffers = max(_tiff_buffers(image), turning)
        case BmpImageFile() if image.tile[0].codec_name == "bmp_rle":
            buffers = pixels * _RUN_LENGTH_BUFFERS
    return len(data) + stored + max(buffers, converting)


def _copies(mode: str, is_transparent: bool) -> int:
    if is_transparent and mode not in ("LA", "RGBA"):
        return _COPIES_MADE_RGBA
    return _COPIES.get(mode, _COPIES_OF_OTHERS)


def _scaled_mode(image: ImageFile) -> str:
    """The mode in which a picture's values are averaged, to scale it down."""
    if image.mode.startswith("I;16"):
        return "L"
    if image.mode in ("I", "F"):
        return "F"
    if image.has_transparency_data:
        return "RGBA"
    return "L" if image.mode == "L" else "RGB"


def _coefficients(image: JpegImageFile, size: tuple[int, int]) -> int:
    """Coefficients of a JPEG, of whole blocks of 8x8 for each component."""
    across = max(layer[1] for layer in image.layer)
    down = max(layer[2] for layer in image.layer)
    columns, rows = -(-size[0] // (8 * across)), -(-size[1] // (8 * down))
    return 64 * columns * rows * sum(layer[1] * layer[2] for layer in image.layer)


def _tiff_buffers(image: TiffImageFile) -> int:
    """Bytes of what is decompressed at a time."""
    tags = image.tag_v2
    if image.tile[0].codec_name != "libtiff":
        return 0
    width, height = image.size
    rows = min(int(tags.get(_TIFF_ROWS, height)), max(width, height))
    area = int(tags.get(_TIFF_TILE_WIDTH, max(width, height))) * int(
        tags.get(_TIFF_TILE_HEIGHT, rows)
    )
    if image.info["compression"] in ("jpeg", "tiff_jpeg", "webp"):
        return area * _TIFF_JPEG_BYTES
    bits = sum(tags.get(_TIFF_BITS, (1,)))
    return area * bits // 8
