"""The fast path for bare PNGs: what it decodes, and what it leaves to Pillow, as Pillow would."""

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.errors import ApiError
from app.inference import decoding
from app.inference.decoding import decode, decode_inline
from app.inference.decoding_cost import decoding_cost
from app.inference.plain_png import PLAIN_BYTES, decode_plain_png
from tests.app.api.request_bodies import encode

Grey = NDArray[np.uint8]

SIDE = 28
LIMIT = 50_000_000
FILTERS = {"none": 0, "sub": 1, "up": 2, "average": 3, "paeth": 4}


def some_pixels(seed: int = 0) -> Grey:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


def png(data: bytes, *, side: int = SIDE, bits: int = 8, kind: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def filtered(pixels: Grey, choose: Callable[[int], int]) -> bytes:
    """The rows as section 9 of the PNG specification filters them, each after its filter's type."""
    rows = []
    above = np.zeros(SIDE, dtype=np.int64)
    for number, row in enumerate(pixels.astype(np.int64)):
        left = np.concatenate([[0], row[:-1]])
        corner = np.concatenate([[0], above[:-1]])
        estimate = left + above - corner
        distances = np.abs(np.stack([left, above, corner]) - estimate)
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        prediction = [np.zeros(SIDE, np.int64), left, above, (left + above) // 2, paeth]
        kind = choose(number)
        rows.append(bytes([kind]) + ((row - prediction[kind]) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(rows)


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_is_undone(name: str) -> None:
    pixels = some_pixels()

    decoded = decode_plain_png(png(zlib.compress(filtered(pixels, lambda _: FILTERS[name]))), LIMIT)

    assert decoded is not None
    assert (decoded == pixels).all()
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable


def test_filters_may_change_from_row_to_row() -> None:
    pixels = some_pixels(1)

    decoded = decode_plain_png(png(zlib.compress(filtered(pixels, lambda row: row % 5))), LIMIT)

    assert decoded is not None
    assert (decoded == pixels).all()


WHOLE = zlib.compress(filtered(some_pixels(), lambda _: 0))
OTHERS = {
    "no size": png(zlib.compress(b""), side=0),
    "a header of another length": png(WHOLE).replace(b"\r" + b"IHDR", b"\x0e" + b"IHDR"),
    "a wrong checksum of the header": png(WHOLE)[:32] + b"\0" + png(WHOLE)[33:],
    "colour": png(zlib.compress(bytes(28 * 85)), kind=2),
    "16 bits": png(zlib.compress(bytes(28 * 57)), bits=16),
    "a chunk of text": png(WHOLE)[:33] + chunk(b"tEXt", b"a\0b") + png(WHOLE)[33:],
    "something between two pieces": png(WHOLE[:9])[:-12]
    + chunk(b"tEXt", b"a\0b")
    + chunk(b"IDAT", WHOLE[9:])
    + chunk(b"IEND", b""),
    "a wrong checksum of the second piece": png(WHOLE[:9])[:-12]
    + chunk(b"IDAT", WHOLE[9:])[:-1]
    + chunk(b"IEND", b""),
    "too many pieces": png(WHOLE)[:-12] + 1000 * chunk(b"IDAT", b"") + chunk(b"IEND", b""),
    "bytes after the end": png(WHOLE) + b"\0",
    "no end": png(WHOLE)[:-12],
    "an unknown filter": png(zlib.compress(b"\7" + bytes(28 * 29 - 1))),
    "no zlib stream": png(b"\0" * 40),
    "a stream that is cut off": png(WHOLE[:-40]),
    "nothing": b"",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_plain_is_left_to_pillow(name: str) -> None:
    assert decode_plain_png(OTHERS[name], LIMIT) is None


def test_data_may_be_in_pieces() -> None:
    data = png(WHOLE[:9])[:-12] + chunk(b"IDAT", WHOLE[9:]) + chunk(b"IEND", b"")

    decoded = decode_plain_png(data, LIMIT)

    assert decoded is not None
    assert (decoded == some_pixels()).all()


def test_any_size_is_decoded_up_to_a_limit() -> None:
    for size in ((28, 28), (1, 1), (140, 9), (28, 28), (3, 160)):
        pixels = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
        data = encode(Image.fromarray(pixels), "PNG")

        decoded = decode_plain_png(data, size[0] * size[1])

        assert decoded is not None
        assert (decoded == pixels).all()
        assert decode_plain_png(data, size[0] * size[1] - 1) is None


def test_it_takes_no_more_memory_than_it_says() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1000), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), "PNG")
    decode_plain_png(data, pixels.size)
    tracemalloc.start()
    try:
        decoded = decode_plain_png(data, pixels.size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert decoded is not None
    assert (decoded == pixels).all()
    # Besides, a copy of the file's data, which is hardly smaller for noise.
    assert peak <= PLAIN_BYTES * pixels.size + len(data) + 100_000
    with pytest.raises(ApiError, match="DROPSERVE_MAX_IMAGE_MEMORY"):
        decode(data, max_pixels=LIMIT, max_memory=PLAIN_BYTES * pixels.size - 1)


@pytest.mark.parametrize("size", [(65_536, 2), (2, 65_536)])
def test_a_side_that_is_too_long_is_refused(size: tuple[int, int]) -> None:
    data = encode(Image.new("L", size, "white"), "PNG")

    assert decode_plain_png(data, LIMIT) is None
    with pytest.raises(ApiError, match="a side may have 65535"):
        decode(data, max_pixels=LIMIT)


@pytest.mark.parametrize("rows", [0, 1, 27, 29])
def test_too_few_or_too_many_rows_are_what_they_are_for_pillow(rows: int) -> None:
    data = png(zlib.compress(bytes(rows * 29)))

    assert outcome(decode_inline, data) == outcome(decoded_whole, data)


def test_a_damaged_file_is_answered_as_pillow_answers_it() -> None:
    whole = png(WHOLE)
    chance = random.Random(0)
    damaged = [
        whole[:place] + bytes([chance.randrange(256)]) + whole[place + 1 :]
        for place in range(0, len(whole), 3)
    ]
    damaged += [png(WHOLE[:-left_out]) for left_out in range(1, 12)]
    damaged += [whole[:length] for length in range(0, len(whole), 37)]
    for data in damaged:
        # The header may now name a size that is worth a thread.
        if not decoding_cost(data):
            assert outcome(decode_inline, data) == outcome(decoded_whole, data)


def decoded_whole(data: bytes, *, max_pixels: int) -> Grey:
    with patch.object(decoding, "decode_plain_png", return_value=None):
        return decode(data, max_pixels=max_pixels)[0]


def outcome(decoder: Callable[..., Grey | None], data: bytes) -> object:
    try:
        pixels = decoder(data, max_pixels=LIMIT)
    except ApiError as error:
        return error.kind
    return None if pixels is None else pixels.tobytes()
