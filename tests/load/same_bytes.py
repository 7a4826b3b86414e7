"""Whether a seeded answer has the same bytes alone and among other requests.

`python -m tests.load.same_bytes` starts two workers, sends seeded requests one by one, and then all
of them again, shuffled, among other traffic: other images, passes, seeds and estimators, unseeded
and deterministic requests, batches, streams, and calls that are cancelled at any moment. It counts
the bodies that differ.
"""

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.cli.machine import describe_machine
from tests.load.servers import sample, serving

_IMAGES = (*(f"{digit}.png" for digit in range(10)), "doubtful.png", "not_a_digit.png")
# Options of `serve`.
NOTHING_REFUSED = ("--max-wait-ms", "60000")
# Connections of the seeded requests, and of the other traffic.
_SEEDED, _OTHERS = 16, 16
_LONGEST_WAIT_SECONDS = 0.01  # until a call is cancelled


@dataclass
class Figures:
    """The result of a comparison.

    Attributes:
        sent: seeded requests, each of them sent twice.
        different: how many of them had two different bodies.
        others: outcomes of the other traffic, by kind and status.
    """

    sent: int
    different: int = 0
    others: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class SeededRequest:
    path: str
    image: str


def draw_requests(count: int, chance: random.Random) -> list[SeededRequest]:
    """Seeded and deterministic requests of all kinds."""
    requests = []
    for _ in range(count):
        passes, seed = chance.choice([1, 3, 10, 50, 50, 100, 300]), chance.randrange(2**53)
        query = chance.choice(
            [
                f"/mc?passes={passes}&seed={seed}",
                f"/mc?passes={passes}&seed={seed}",
                f"/mc?passes={passes}&seed={seed}&estimator=balanced",
                f"/mc?passes={passes}&seed={seed}&dropout=0.6",
                f"/mc?passes=300&seed={seed}&max_standard_error=0.02",
                f"/mc?passes=20&seed={seed}&return_passes=true",
                "?preprocess=auto",
            ]
        )
        requests.append(SeededRequest(f"/predict{query}", chance.choice(_IMAGES)))
    return requests


async def compare(address: str, count: int, seed: int = 0) -> Figures:
    """Sends all requests alone, then among others."""
    chance = random.Random(seed)
    requests = draw_requests(count, chance)
    figures = Figures(count)
    limits = httpx.Limits(max_connections=_SEEDED + _OTHERS)
    async with httpx.AsyncClient(
        base_url=address, timeout=60, limits=limits, trust_env=False
    ) as client:
        alone = [await _body(client, request) for request in requests]
        order = chance.sample(range(count), count)
        others = [
            asyncio.create_task(_send_others(client, random.Random(number), figures.others))
            for number in range(_OTHERS)
        ]
        parts = [order[number::_SEEDED] for number in range(_SEEDED)]
        differences = await asyncio.gather(
            *(_count_differences(client, requests, alone, part) for part in parts)
        )
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    figures.different = sum(differences)
    return figures


async def _body(client: httpx.AsyncClient, request: SeededRequest) -> bytes:
    response = await client.post(request.path, content=sample(request.image))
    return response.raise_for_status().content


async def _count_differences(
    client: httpx.AsyncClient,
    requests: Sequence[SeededRequest],
    alone: Sequence[bytes],
    part: list[int],
) -> int:
    return sum([await _body(client, requests[number]) != alone[number] for number in part])


async def _send_others(
    client: httpx.AsyncClient, chance: random.Random, outcomes: Counter[str]
) -> None:
    """The traffic of one connection, until cancelled."""
    while True:
        image = sample(chance.choice(_IMAGES))
        kind = chance.choice(["mc", "mc", "predict", "batch", "stream", "cancelled", "cancelled"])
        path = f"/predict/mc?passes={chance.randint(1, 200)}"
        content: dict[str, Any] = {"content": image}
        if kind == "predict":
            path = "/predict"
        elif kind == "batch":
            path = f"/predict/mc/batch?passes={chance.randint(1, 50)}"
            content = {"files": [("file", image)] * chance.randint(1, 8)}
        elif kind == "stream":
            path = path.replace("/mc", "/mc/stream")
        elif kind == "cancelled":
            path = "/predict/mc?passes=1000"
        call = client.post(path, **content)
        if kind == "cancelled":
            with suppress(TimeoutError):
                await asyncio.wait_for(call, chance.uniform(0, _LONGEST_WAIT_SECONDS))
            outcomes[kind] += 1
        else:
            outcomes[f"{kind} {(await call).status_code}"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with serving("--workers", str(arguments.workers), *NOTHING_REFUSED) as server:
        figures = asyncio.run(compare(server.address, arguments.requests))
    others = ", ".join(f"{name} x {count}" for name, count in sorted(figures.others.items()))
    print(f"{describe_machine()}; {arguments.workers} workers, {_SEEDED + _OTHERS} connections")
    print(f"other traffic: {others}")
    print(
        f"{figures.sent} seeded requests, each alone and in company: "
        f"{figures.different} bodies differ"
    )


if __name__ == "__main__":
    main()
