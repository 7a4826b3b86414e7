"""What pictures may take of the memory, what they take, and what is refused by its header."""

import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import ErrorCode
from app.inference.decoding import decode, memory_needed
from app.inference.memory import memory_limit, picture_memory
from tests.api_errors import raises_error
from tests.app.inference.encoded_images import (
    LIMIT,
    encode,
    images_allocated,
    photo,
    png_chunk,
    png_of,
)
from tests.load.picture_memory import KINDS, make_picture, measure_apart

MACHINE = memory_limit(Path("/nowhere"))
# What pictures get in a container of 512 MiB.
SHARE = 177_167_400


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_control_groups_the_machine_is_the_limit() -> None:
    assert 2**28 < MACHINE < 2**50


@pytest.mark.parametrize(
    ("group", "limits", "limit"),
    [
        ("/", {"": "536870912\n"}, 2**29),
        ("/", {"": "max\n"}, MACHINE),
        # Above what the container sees, as without a namespace of control groups.
        ("/kubepods/pod7/c1", {"": "536870912\n"}, 2**29),
        ("/pods/7", {"pods/7": "max\n", "pods": "268435456\n", "": "536870912\n"}, 2**28),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_least_limit_of_the_control_groups_holds(
    tmp_path: Path, version: int, group: str, limits: dict[str, str], limit: int
) -> None:
    groups = tmp_path / "sys/fs/cgroup"
    line, folder, name = f"0::{group}\n", groups, "memory.max"
    if version == 1:
        line = f"9:pids:/other\n4:memory:{group}\n1:cpu,cpuacct:/other\n"
        folder, name = groups / "memory", "memory.limit_in_bytes"
    write(tmp_path / "proc/self/cgroup", line)
    for path, text in limits.items():
        # Version 1 has a number for none.
        write(
            folder / path / name, text.replace("max", str(2**63 - 4096)) if version == 1 else text
        )

    assert memory_limit(tmp_path) == min(limit, MACHINE)


def test_workers_share_what_pictures_get() -> None:
    assert picture_memory(400_000_000, workers=4) == 100_000_000
    assert picture_memory(2**20, workers=4) == 2**20
    assert 0.3 < picture_memory(None, workers=1) / memory_limit() <= 0.4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_picture_takes_more_than_is_reckoned(kind: str) -> None:
    found = measure_apart(make_picture(kind, (3000, 2000)))

    # A process takes memory in blocks, which is 2 MB more or less.
    assert found["measured"] <= found["reckoned"] + 3 * 2**20
    if kind != "TIFF, JPEG, one strip":  # reckoned as progressive, which only its strip shows
        assert found["reckoned"] <= 1.5 * found["measured"] + 12 * 2**20


@pytest.mark.parametrize("size", [(1, 50_000_000), (65_536, 9)])
def test_a_side_is_too_long_however_thin_the_picture(size: tuple[int, int]) -> None:
    data = png_of(*size, 8, b"")
    allocated = images_allocated()

    with raises_error(ErrorCode.TOO_MANY_PIXELS, match=f"{size[0]}x{size[1]} pixels, and a side"):
        decode(data, max_pixels=LIMIT)

    assert images_allocated() == allocated


def test_the_longest_side_is_decoded() -> None:
    grey, _ = decode(png_of(65_535, 2, 8, bytes(65_536 * 2)), max_pixels=LIMIT)

    assert grey.shape == (2, 65_535)


def test_strips_of_any_height_give_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 60_000), np.uint8)
    grey, factor = decode(
        encode(Image.fromarray(pixels), "PNG", compress_level=1), max_pixels=LIMIT
    )

    assert factor == 2
    np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(pixels).reduce(2)))


def large(mode: str, image_format: str, side: int = 7000, **options: object) -> bytes:
    return encode(Image.new(mode, (side, side)), image_format, **options)


def huge_webp() -> bytes:
    """The header of 5000x4990 pixels, which is all that is read of it."""
    data = bytearray(encode(Image.new("L", (16, 16)), "WEBP", lossless=True))
    bits = struct.unpack("<I", data[21:25])[0] & ~0xFFFFFFF
    data[21:25] = struct.pack("<I", bits | 4999 | 4989 << 14)
    return bytes(data)


def tiff_of(content: bytes, tags: dict[int, tuple[int, int]]) -> bytes:
    """A grey TIFF: tag -> count and value; `content` begins at byte 8."""
    tags = {258: (1, 8), 262: (1, 1), **tags}
    entries = [struct.pack("<HHII", tag, 4, *tags[tag]) for tag in sorted(tags)]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return struct.pack("<4sI", b"II*\0", 8 + len(content)) + content + directory


def one_large_tile() -> bytes:
    """A TIFF of 16x16 pixels in one tile of 16,000x16,000."""
    tile = zlib.compress(bytes(16_000 * 16_000))
    tags = {256: 16, 257: 16, 259: 8, 322: 16_000, 323: 16_000, 324: 8, 325: len(tile)}
    return tiff_of(tile, {tag: (1, value) for tag, value in tags.items()})


@pytest.mark.parametrize(
    "make",
    [
        huge_webp,
        lambda: large("F", "TIFF", compression="tiff_adobe_deflate"),
        lambda: large("RGBA", "PNG"),
        lambda: photo(7000, 7000, progressive=True, subsampling=0),
        one_large_tile,
    ],
    ids=["WebP", "float TIFF", "RGBA PNG", "progressive JPEG", "TIFF tile"],
)
def test_what_could_take_more_memory_is_refused_by_its_header(make: Callable[[], bytes]) -> None:
    data = make()
    allocated = images_allocated()

    with raises_error(
        ErrorCode.TOO_MANY_PIXELS, match=r"177 MB \(DROPSERVE_MAX_IMAGE_MEMORY\); scale it down"
    ):
        decode(data, max_pixels=LIMIT, max_memory=SHARE)

    assert images_allocated() == allocated


@pytest.mark.parametrize(
    "make",
    [
        lambda: photo(8000, 6000),
        lambda: photo(8000, 6000, progressive=True),
        lambda: large("L", "PNG"),
        lambda: large("P", "GIF"),
        lambda: large("RGB", "PNG", side=5470),
        lambda: large("RGBA", "PNG", side=5300),
        lambda: large("RGB", "WEBP", side=2900, method=0),
        lambda: large("RGB", "TIFF", side=5470, compression="tiff_lzw"),
    ],
)
def test_what_the_documentation_says_fits_512_mb_does(make: Callable[[], bytes]) -> None:
    assert memory_needed(make()) <= SHARE


def test_a_gif_whose_frame_leaves_its_screen_is_refused_before_anything_is_allocated() -> None:
    data = bytearray(encode(Image.new("P", (9, 9)), "GIF", disposal=2))
    frame = data.index(b",\0\0\0\0\x09\0\x09\0")
    data[frame + 5 : frame + 9] = struct.pack("<HH", 9000, 9000)
    allocated = images_allocated()

    with raises_error(ErrorCode.TOO_MANY_PIXELS):
        decode(bytes(data), max_pixels=LIMIT)

    assert images_allocated() == allocated


def png_of_many_chunks() -> bytes:
    data = encode(Image.new("L", (8, 8)), "PNG")
    return data[:33] + png_chunk(b"prVt", b"") * 800_000 + data[33:]


def gif_of_many_blocks() -> bytes:
    data = encode(Image.new("P", (8, 8)), "GIF")
    frame = data.index(b",\0\0\0\0")
    return data[:frame] + b"!\x01\x01x\0" * 2_000_000 + data[frame:]


def bmp_of_many_runs() -> bytes:
    pixels = Image.new("L", (5000, 5000))
    data = bytearray(encode(pixels.crop((0, 0, 1, 1)), "BMP"))
    data[18:26] = struct.pack("<ii", 5000, 5000)
    data[30:34] = struct.pack("<I", 1)
    return bytes(data) + b"\1\0" * 4_000_000


def tiff_of_many_strips() -> bytes:
    tags = {256: (1, 1), 257: (1, 65_000), 259: (1, 1), 273: (2_000_000, 8), 278: (1, 1)}
    return tiff_of(bytes(8_000_000), tags)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (png_of_many_chunks, ErrorCode.TRUNCATED_IMAGE),
        (gif_of_many_blocks, ErrorCode.NOT_AN_IMAGE),
        (bmp_of_many_runs, ErrorCode.TOO_MANY_PIXELS),
        (tiff_of_many_strips, ErrorCode.NOT_AN_IMAGE),
        (
            lambda: b"\xff\xd8" + b"\xff" * 10_000_000 + photo(8, 8)[2:],
            ErrorCode.NOT_AN_IMAGE,
        ),
    ],
    ids=["PNG chunks", "GIF blocks", "BMP runs", "TIFF strips", "JPEG padding"],
)
def test_a_file_in_millions_of_pieces_costs_little_time(
    make: Callable[[], bytes], code: ErrorCode
) -> None:
    data = make()
    assert len(data) < 10 * 2**20
    started = time.process_time()

    with raises_error(code):
        decode(data, max_pixels=LIMIT)

    assert time.process_time() - started < 2
