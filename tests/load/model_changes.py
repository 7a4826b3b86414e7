"""Whether loading and unloading models costs a request, or memory.

`python -m tests.load.model_changes` serves a folder of models with two workers under 16 connections
and, a hundred times, loads and unloads a model, and loads another one again, whose file is damaged
every fourth time before; half of the connections ask the latter, the others the default model. It
prints how many requests were lost, and the workers' memory. The exit code is 1 if a request was
lost, if a change had an answer that it should not have, or if memory grows by 0.1 MB per change or
more in the second half.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from app.cli.machine import describe_machine
from tests.app.api.served_models import AS_ADMIN, link_default, save_network, write_admin_key
from tests.load.life_cycle import QUIET, workers_of
from tests.load.processes import resident_mib
from tests.load.servers import Server, serving
from tests.load.steady_load import steady_load
from tests.model.layered_networks import tabular

ROUNDS = 100
CONNECTIONS = 16
LARGEST_GROWTH = 0.1  # MB per change
INPUT = [0.5] * 12
_DAMAGED_EVERY = 4
_SETTLING_SECONDS = 1.0
_TIMEOUT_SECONDS = 60.0
_MIB, _MB = 2**20, 10**6


@dataclass
class Changed:
    """What happened.

    Attributes:
        answered: requests with a complete answer of status 200.
        lost: all others.
        wrong: changes with another answer than they should have.
        seconds: that each change took.
        memory: resident MiB of all workers after each change.
    """

    answered: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def growth(self) -> float:
        """Of memory, MB per change, by least squares over the second half."""
        half = self.memory[len(self.memory) // 2 :]
        if len(half) < 2:
            return 0.0
        return float(np.polyfit(range(len(half)), np.array(half) * _MIB / _MB, 1)[0])


async def change_models(server: Server, folder: Path, rounds: int, connections: int) -> Changed:
    """Loads and unloads under load."""
    found, kept = Changed(), folder / "kept/1/model.safetensors"
    healthy, body = kept.read_bytes(), json.dumps({"input": INPUT}).encode()

    async def change(verb: str, name: str, status: int, is_served: Callable[[int], bool]) -> None:
        began = time.monotonic()
        path = f"/v2/repository/models/{name}/{verb}"
        answer = await client.post(path, headers=AS_ADMIN)
        found.seconds.append(time.monotonic() - began)
        found.memory.append(sum(map(resident_mib, workers_of(server.pid))))
        asked = await client.post(f"/models/{name}/predict", json={"input": INPUT})
        if answer.status_code != status or not is_served(asked.status_code):
            found.wrong.append(f"{verb} {name}: {answer.status_code}, then {asked.status_code}")

    timeout = httpx.Timeout(_TIMEOUT_SECONDS)
    address = server.address
    async with httpx.AsyncClient(base_url=address, timeout=timeout, trust_env=False) as client:
        async with (
            steady_load(address, connections // 2) as seen,
            steady_load(address, connections // 2, model="/models/kept", body=body) as others,
        ):
            await asyncio.sleep(_SETTLING_SECONDS)
            for number in range(rounds):
                await change("load", "moving", 200, lambda status: status == 200)
                if number % _DAMAGED_EVERY == 0:
                    kept.write_bytes(healthy[:100])
                    await change("load", "kept", 400, lambda status: status == 200)
                    kept.write_bytes(healthy)
                await change("load", "kept", 200, lambda status: status == 200)
                await change("unload", "moving", 200, lambda status: status == 404)
            await asyncio.sleep(_SETTLING_SECONDS)
        for each in (seen, others):
            found.lost += each.unexpected() + each.refused
            found.answered += sum(answer.status == 200 for answer in each.answers)
    return found


def measure(rounds: int = ROUNDS, connections: int = CONNECTIONS) -> Changed:
    """Starts a server, and changes its models."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "models")
        link_default(folder)
        for other in ("kept", "moving"):
            save_network(folder, other, tabular())
        keys = write_admin_key(Path(name))
        options = ("--models", str(folder), "--default-model", "mnist", "--workers", "2")
        with serving(*options, "--admin-keys-file", str(keys), environ=QUIET) as server:
            return asyncio.run(change_models(server, folder, rounds, connections))


def describe(found: Changed) -> list[str]:
    tenth = max(1, len(found.memory) // 10)
    return [
        f"{len(found.seconds)} loads and unloads, {len(found.wrong)} of them wrong, each took "
        f"{np.median(found.seconds):.2f} s (at most {max(found.seconds):.2f})",
        f"{found.answered:,} requests answered meanwhile, {found.lost} lost",
        f"resident MiB of both workers: {' '.join(f'{mib:.0f}' for mib in found.memory[::tenth])}",
        f"memory: {found.growth():+.3f} MB per change in the second half (wanted: below "
        f"{LARGEST_GROWTH:g})",
        *found.wrong,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    found = measure(options.rounds)
    print(*describe(found), sep="\n")
    if found.lost or found.wrong or found.growth() >= LARGEST_GROWTH:
        sys.exit(1)


if __name__ == "__main__":
    main()
