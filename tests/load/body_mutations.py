"""Whether invalid images, JSON and forms can break the server: it sends tens of thousands.

`python -m tests.load.body_mutations` starts a server and sends mutations of good bodies: image
files of six formats, then JSON and multipart. The exit code is 1 after a 5xx, after an answer in
another shape, and after one that takes longer than two seconds. A seed repeats the mutations.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.load.servers import sample, serving
from tests.load.v2_mutations import (
    MutatedRequest,
    attack,
    change_bytes,
    change_document,
    describe,
)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
ALLOWED = frozenset({200, 400, 413, 415, 422, 429})
SLOWEST_SECONDS = 2.0

_SINGLE, _BATCH = ("/predict", "/predict/mc?passes=2"), ("/predict/batch", "/predict/mc/batch")
_BOUNDARY = "oneboundary"


def mutated_images(seed: int) -> Iterator[MutatedRequest]:
    """An endless stream of image files, most of them damaged."""
    draw = random.Random(seed)
    files = _image_files()
    while True:
        kind, content = draw.choice(files)
        damaged = change_bytes(draw, content) if draw.random() < 0.95 else content
        if kind == "PNG" and draw.random() < 0.5:
            damaged = _with_checksums(damaged)
        # Without a type the bytes decide; a type may contradict them.
        claimed = draw.choice(FORMATS).lower() if draw.random() < 0.2 else kind.lower()
        headers = {} if draw.random() < 0.3 else {"content-type": f"image/{claimed}"}
        yield MutatedRequest(draw.choice(_SINGLE), damaged, headers)


def mutated_bodies(seed: int) -> Iterator[MutatedRequest]:
    """An endless stream of JSON and multipart bodies, most of them damaged."""
    draw = random.Random(seed)
    while True:
        yield _mutated_json(draw) if draw.random() < 0.5 else _mutated_form(draw)


def _image_files() -> list[tuple[str, bytes]]:
    """A digit in every format: small and grey, larger and in colour, with a palette."""
    with Image.open(io.BytesIO(sample("7.png"))) as opened:
        digit = opened.convert("L")
    pictures = [digit, digit.resize((90, 70)).convert("RGB"), digit.resize((64, 64)).convert("P")]
    files = []
    for kind in FORMATS:
        for picture in pictures:
            taken = picture.convert("RGB") if kind in ("JPEG", "WEBP") else picture
            buffer = io.BytesIO()
            taken.save(buffer, kind)
            files.append((kind, buffer.getvalue()))
    return files


def _with_checksums(content: bytes) -> bytes:
    """A PNG with correct checksums, so that the damage is found later than by them."""
    mended, place = bytearray(content), 8
    while place + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, place)
        end = place + 8 + length
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[place + 4 : end]))
        place = end + 4
    return bytes(mended)


def _one_image(draw: random.Random) -> dict[str, Any]:
    if draw.random() < 0.5:
        return {"image": base64.b64encode(sample(f"{draw.randrange(10)}.png")).decode()}
    with Image.open(io.BytesIO(sample(f"{draw.randrange(10)}.png"))) as opened:
        return {"pixels": np.asarray(opened.convert("L").resize((28, 28))).tolist()}


def _mutated_json(draw: random.Random) -> MutatedRequest:
    is_batch = draw.random() < 0.3
    document = {"inputs": [_one_image(draw) for _ in range(3)]} if is_batch else _one_image(draw)
    for _ in range(draw.choice((0, 1, 1, 2))):
        change_document(draw, document)
    content = json.dumps(document).encode()
    if draw.random() < 0.4:
        content = change_bytes(draw, content)
    path = draw.choice(_BATCH if is_batch else _SINGLE)
    return MutatedRequest(path, content, {"content-type": "application/json"})


def _mutated_form(draw: random.Random) -> MutatedRequest:
    is_batch = draw.random() < 0.3
    parts = [("file", sample(f"{draw.randrange(10)}.png")) for _ in range(3 if is_batch else 1)]
    fields = [(name, draw.choice(values)) for name, values in _FIELDS if draw.random() < 0.3]
    lines = []
    for name, value in (*parts, *fields):
        filename = b'; filename="a.png"' if name == "file" else b""
        lines.append(
            b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
            % (_BOUNDARY.encode(), name.encode(), filename, value)
        )
    content = b"".join(lines) + b"--%s--\r\n" % _BOUNDARY.encode()
    if draw.random() < 0.85:
        content = change_bytes(draw, content)
    boundary = draw.choice((_BOUNDARY,) * 9 + ("",))
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return MutatedRequest(draw.choice(_BATCH if is_batch else _SINGLE), content, headers)


_FIELDS = (
    ("preprocess", (b"auto", b"none", b"", b"\xff")),
    ("return_input", (b"true", b"false", b"1")),
    ("timeout_ms", (b"30000", b"0", b"1e9", b"-1")),
    ("unknown", (b"", b"\x00")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--bodies", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    is_broken = False
    with serving("--log-level", "warning") as server:
        for requests, count in (
            (mutated_images(arguments.seed), arguments.images),
            (mutated_bodies(arguments.seed), arguments.bodies),
        ):
            began = time.monotonic()
            some = islice(requests, count)
            seen = asyncio.run(attack(server.address, server.pid, some, count, ALLOWED))
            for line in describe(seen, time.monotonic() - began):
                print(line)
            print(f"slowest answer: {seen.slowest:.2f} s; broken: {seen.broken() or 'none'}")
            is_broken |= bool(seen.broken()) or seen.slowest > SLOWEST_SECONDS
        is_ready = httpx.get(f"{server.address}/health/ready", trust_env=False).is_success
    print(f"ready afterwards: {'yes' if is_ready else 'no'}")
    if is_broken or not is_ready:
        sys.exit(1)


if __name__ == "__main__":
    main()
