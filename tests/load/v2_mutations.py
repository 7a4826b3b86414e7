"""Whether invalid V2 requests can break the server: it sends thousands of mutated good bodies.

`python -m tests.load.v2_mutations` starts a server and sends 20,000 mutations over several
connections. It counts the answers and prints the server's memory on the way; the exit code is 1
after a 5xx and after a request without an answer in time. A seed repeats the mutations.
"""

import argparse
import asyncio
import gzip
import json
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from app.api.examples import example_digits
from tests.app.open_inference.inference_requests import (
    HEADER_LENGTH,
    InferBody,
    binary_body,
    files_body,
    json_body,
)
from tests.load.processes import resident_mib
from tests.load.servers import sample, serving

_CONNECTIONS = 8
_SECONDS_PER_REQUEST = 20.0
# Requests before memory is read for the first time: pools and caches fill up.
_WARM_UP = 2_000
# Wrong answers after which nothing more is sent: a server that stalls shows in one timeout.
_ENOUGH = 8
_ALLOWED = frozenset({200, 400, 404, 413, 415, 429})

_STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**40, "", "7",
    "digit", "UINT8", "FP32", "BYTES", "\x00", "\ud7ff", [], [[]], {}, [0], [-1, 784], [2**33, 784],
    {"name": "digit"}, {"binary_data_size": 2**63}, {"binary_data": True}, "A" * 5000,
)  # fmt: skip
_STRANGE_LENGTHS = ("0", "1", "-1", "", "7", "157", "158", "784", "1e2", "9" * 40, "0x10", "5")


@dataclass(frozen=True)
class MutatedRequest:
    """A request that was valid before it was mutated."""

    path: str
    content: bytes
    headers: dict[str, str]


def mutated_requests(count: int, seed: int) -> Iterator[MutatedRequest]:
    """Valid requests of which some parts have been changed; the seed repeats them."""
    draw = random.Random(seed)
    for _ in range(count):
        yield _mutate(draw)


def _mutate(draw: random.Random) -> MutatedRequest:
    body = draw.choice(_GOOD)()
    path = f"/v2/models/{draw.choice(('mnist', 'mnist-mc'))}/infer"
    for _ in range(draw.choice((0, 1, 1, 2))):
        change_document(draw, body.document)
    content, headers = body.content, dict(body.all_headers)
    if draw.random() < 0.3:
        content = change_bytes(draw, content)
    if draw.random() < 0.15:
        headers[HEADER_LENGTH] = draw.choice((*_STRANGE_LENGTHS, str(draw.randrange(1000))))
    if draw.random() < 0.2:
        content, headers["content-encoding"] = _compress(draw, content)
    return MutatedRequest(path, content, headers)


def change_document(draw: random.Random, document: dict[str, Any]) -> None:
    """Replaces, removes, doubles or adds a value at a random place in the document."""
    places = list(_places(document))
    if not places:
        return
    container, key = draw.choice(places)
    how = draw.random()
    if how < 0.55:
        container[key] = deepcopy(draw.choice(_STRANGE))
    elif how < 0.75:
        del container[key]
    elif how < 0.9 and isinstance(container, list):
        container.insert(key, container[key])
    elif isinstance(container, dict):
        name = draw.choice(("data", "shape", "seed", "outputs", "x", "passes"))
        container[name] = deepcopy(draw.choice(_STRANGE))


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys; with three of them if it is a long list."""
    if isinstance(node, dict):
        keys: list[Any] = list(node)
    elif isinstance(node, list):
        keys = list(range(len(node))) if len(node) < 10 else [0, len(node) // 2, len(node) - 1]
    else:
        return
    for key in keys:
        yield node, key
        yield from _places(node[key])


def change_bytes(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(len(changed) + 1)
        how = draw.randrange(5)
        if how == 0 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif how == 1:
            changed[place:place] = draw.randbytes(draw.choice((1, 4, 50)))
        elif how == 2:
            del changed[place : place + draw.choice((1, 4, 50, 500))]
        elif how == 3:
            changed[place : place + 4] = draw.choice((b"\xff" * 4, bytes(4), b'"', b"[[[["))
        else:
            del changed[place:]
    return bytes(changed)


def _compress(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    how = draw.randrange(6)
    if how == 0:
        return content, draw.choice(("gzip", "deflate", "br", "gzip, gzip", "identity"))
    if how == 1:
        return change_bytes(draw, gzip.compress(content, mtime=0)), "gzip"
    if how == 2:
        return _BOMB, "gzip"
    if how == 3:
        return zlib.compress(content), "deflate"
    return gzip.compress(content, mtime=0), "gzip"


_BOMB = gzip.compress(bytes(64 * 2**20), mtime=0)
_DIGITS = np.stack(example_digits()[:3])


def _with_outputs(body: InferBody) -> InferBody:
    body.document["outputs"] = [
        {"name": "digit"},
        {"name": "probabilities", "parameters": {"binary_data": True}},
    ]
    body.document["id"] = "a"
    return body


# What is mutated: every form of body, one image and several.
_GOOD: tuple[Callable[[], InferBody], ...] = (
    lambda: json_body(_DIGITS[:1]),
    lambda: _with_outputs(json_body(_DIGITS)),
    lambda: json_body((_DIGITS[:1] / 255).astype(np.float32), {"preprocess": "none"}),
    lambda: binary_body(_DIGITS[:1]),
    lambda: _with_outputs(binary_body(_DIGITS)),
    lambda: binary_body((_DIGITS[:2] / 255).astype(np.float32)),
    lambda: files_body([sample("7.png")]),
    lambda: _with_outputs(files_body([sample("1.png"), sample("2.png")])),
)


@dataclass
class Attack:
    """The answers to mutations.

    Attributes:
        outcomes: the statuses; of wrong answers, with what is wrong.
        memory: of the server, MiB, sampled after the warm-up.
        slowest: seconds of the slowest answer.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    slowest: float = 0.0

    def broken(self) -> dict[str, int]:
        """Outcomes other than an allowed status."""
        return {name: count for name, count in self.outcomes.items() if not name.isdecimal()}


async def attack(
    address: str,
    pid: int,
    requests: Iterator[MutatedRequest],
    count: int,
    allowed: frozenset[int] = _ALLOWED,
) -> Attack:
    """Sends requests, counts their outcomes, and samples the memory of the server's process."""
    seen = Attack()
    sent = 0
    every = max(1, (count - _WARM_UP) // 20)

    async def send_some(client: httpx.AsyncClient) -> None:
        nonlocal sent
        for request in requests:
            if sum(seen.broken().values()) >= _ENOUGH:
                return
            began = time.monotonic()
            seen.outcomes[await _outcome(client, request, allowed)] += 1
            seen.slowest = max(seen.slowest, time.monotonic() - began)
            sent += 1
            if sent >= _WARM_UP and (sent - _WARM_UP) % every == 0:
                seen.memory.append(resident_mib(pid))

    async with _connect(address) as client:
        await asyncio.gather(*(send_some(client) for _ in range(_CONNECTIONS)))
    return seen


def _connect(address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address, timeout=_SECONDS_PER_REQUEST, trust_env=False)


async def _send(client: httpx.AsyncClient, request: MutatedRequest) -> httpx.Response:
    return await client.post(request.path, content=request.content, headers=request.headers)


async def _outcome(
    client: httpx.AsyncClient, request: MutatedRequest, allowed: frozenset[int]
) -> str:
    """The status; of a wrong answer, with what is wrong."""
    try:
        try:
            response = await _send(client, request)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # The server may close an idle connection at the moment when a request is sent: on a new
            # connection the same request must be answered.
            async with _connect(str(client.base_url)) as fresh:
                response = await _send(fresh, request)
    except httpx.HTTPError as error:
        return f"no answer: {type(error).__name__}"
    status = response.status_code
    if status not in allowed:
        return f"{status} not allowed"
    if status == 200:
        return "200"
    is_json = response.headers["content-type"] == "application/json"
    if not is_json or json.loads(response.content).keys() != {"error"}:
        return f"{status} in another shape"
    return str(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with serving("--log-level", "warning") as server:
        started = time.monotonic()
        requests = mutated_requests(arguments.count, arguments.seed)
        seen = asyncio.run(attack(server.address, server.pid, requests, arguments.count))
        seconds = time.monotonic() - started
        is_ready = httpx.get(f"{server.address}/v2/health/ready", trust_env=False).is_success
    for line in describe(seen, seconds):
        print(line)
    print(f"ready afterwards: {'yes' if is_ready else 'no'}; broken: {seen.broken() or 'none'}")
    if seen.broken() or not is_ready:
        sys.exit(1)


def describe(seen: Attack, seconds: float) -> Iterator[str]:
    total = sum(seen.outcomes.values())
    yield f"{total:,} mutations in {seconds:.0f} s: {dict(sorted(seen.outcomes.items()))}"
    if seen.memory:
        samples = " ".join(f"{sample:.0f}" for sample in seen.memory)
        yield f"memory of the server after {_WARM_UP:,} requests and on to the end, MiB: {samples}"


if __name__ == "__main__":
    main()
