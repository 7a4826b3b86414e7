"""What overload costs the clients that are served, those that are refused, and the server's memory.

`python -m tests.load.overload` starts a server, measures how many requests of 1000 passes it
answers per second, and loads it with 0.8 times and with ten times as many; then it measures again
how fast the server is. wrk makes most of the load. A client sends the rest at a constant rate, and
records the outcome of each request and its latency from when it was due. The tests assert only the
outcomes: on a shared machine the latencies vary.
"""

import argparse
import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import httpx
import numpy as np

from app.api.examples import example_pngs
from app.cli.machine import describe_machine
from tests.load.processes import assign_cores, on_core, resident_mib
from tests.load.servers import Server, serving
from tests.load.wrk import PNG, Wrk, require_wrk

PASSES = 1000
OVERLOAD, COMFORTABLE = 10, 0.8
# Of the capacity, the rate of the client whose requests are recorded.
_RECORDED = 0.3
# So few connections are never refused, and keep the server busy.
_BUSY_CONNECTIONS = 3
# wrk's: without bursts, and more than the server's queue holds, so that waiting slows wrk little.
_COMFORTABLE_CONNECTIONS, _OVERLOAD_CONNECTIONS = 2, 64
_SAMPLING_SECONDS = 0.25
# After the overload the rate is measured once a second.
_RECOVERY_SECONDS = 3

ALLOWED_OUTCOMES = frozenset({"200", "429 overloaded", "504 deadline_exceeded"})


@dataclass(frozen=True)
class Outcomes:
    """What the client and wrk found under one load.

    Attributes:
        latencies: of the client, seconds, by outcome: "200", or status and error code.
        answered: 2xx answers per second, the client's and wrk's.
        sent: requests per second, the client's and wrk's.
        unanswered: requests of wrk without an answer.
        memory: resident memory of the server, MiB, sampled.
    """

    latencies: dict[str, list[float]]
    answered: float
    sent: float
    unanswered: int
    memory: list[float]

    def percentile_ms(self, outcome: str, percent: int) -> float:
        return float(np.percentile(self.latencies[outcome], percent)) * 1e3


@dataclass(frozen=True)
class Figures:
    """One run; rates are requests per second, memory is in MiB.

    Attributes:
        capacity: the rate of a closed loop that is never refused.
        comfortable: at `COMFORTABLE` times the capacity.
        overloaded: at `OVERLOAD` times the capacity.
        memory_before: resident memory of the server before the overload.
        recovery: the closed loop's rate after the overload, second by second.
    """

    capacity: float
    comfortable: Outcomes
    overloaded: Outcomes
    memory_before: float
    recovery: list[float] = field(default_factory=list)

    def ratio(self) -> float:
        """p99 of the accepted requests under overload, over that at the comfortable load."""
        return self.overloaded.percentile_ms("200", 99) / self.comfortable.percentile_ms("200", 99)


def measure(server: Server, seconds: int) -> Figures:
    """Loads a server; each of the two loads lasts `seconds`."""
    url = f"{server.address}/predict/mc?passes={PASSES}&seed=1"

    def closed_loop_rate(seconds: int) -> float:
        return Wrk(url, _BUSY_CONNECTIONS, seconds).result().rate

    closed_loop_rate(1)  # uncounted: caches fill up
    capacity = closed_loop_rate(max(1, seconds // 5))
    recorded = _RECORDED * capacity

    def load(times: float, connections: int) -> Outcomes:
        pause_ms = round(connections / (times * capacity - recorded) * 1e3)
        wrk = Wrk(url, connections, seconds, pause_ms=pause_ms)
        return asyncio.run(_watch(url, server.pid, recorded, seconds, wrk))

    comfortable = load(COMFORTABLE, _COMFORTABLE_CONNECTIONS)
    memory_before = resident_mib(server.pid)
    overloaded = load(OVERLOAD, _OVERLOAD_CONNECTIONS)
    recovery = [closed_loop_rate(1) for _ in range(_RECOVERY_SECONDS)]
    return Figures(capacity, comfortable, overloaded, memory_before, recovery)


async def _watch(url: str, pid: int, rate: float, seconds: int, wrk: Wrk) -> Outcomes:
    """Sends at a constant rate and samples the server's memory, while wrk runs."""
    memory: list[float] = []
    sampling = asyncio.create_task(_sample_memory(pid, memory))
    latencies = await send_at_rate(url, rate, seconds)
    sampling.cancel()
    found = await asyncio.to_thread(wrk.result)
    return Outcomes(
        latencies,
        answered=found.rate + len(latencies.get("200", ())) / seconds,
        sent=(found.answered + found.non_2xx) / found.seconds + rate,
        unanswered=found.unanswered,
        memory=memory,
    )


async def send_at_rate(url: str, rate: float, seconds: float) -> dict[str, list[float]]:
    """Latencies by outcome of an open loop: a slow server does not slow it down.

    A latency counts from when the request was due. A client that waits for one answer before it
    sends the next request would leave out those that suffer most ("coordinated omission").
    """
    latencies: defaultdict[str, list[float]] = defaultdict(list)
    bodies = example_pngs()
    start = time.perf_counter()

    async def send(number: int) -> None:
        due = start + number / rate
        await asyncio.sleep(due - time.perf_counter())
        try:
            response = await client.post(url, content=bodies[number % len(bodies)], headers=PNG)
            outcome = _outcome(response)
        except httpx.TransportError as error:
            outcome = type(error).__name__
        latencies[outcome].append(time.perf_counter() - due)

    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        await asyncio.gather(*(send(number) for number in range(max(1, round(rate * seconds)))))
    return dict(latencies)


def _outcome(response: httpx.Response) -> str:
    if response.is_success:
        return str(response.status_code)
    return f"{response.status_code} {json.loads(response.content)['error']['code']}"


async def _sample_memory(pid: int, samples: list[float]) -> None:
    while True:
        samples.append(resident_mib(pid))
        await asyncio.sleep(_SAMPLING_SECONDS)


def describe(figures: Figures) -> Iterator[str]:
    """The figures, with what is wanted of them."""
    overloaded = figures.overloaded
    yield f"capacity: {figures.capacity:.0f} requests/s of {PASSES} passes"
    for found in (figures.comfortable, overloaded):
        outcomes = ", ".join(
            f"{outcome} x {len(latencies)} (p50 {found.percentile_ms(outcome, 50):.1f} ms, "
            f"p99 {found.percentile_ms(outcome, 99):.1f} ms)"
            for outcome, latencies in sorted(found.latencies.items())
        )
        yield (
            f"{found.sent / figures.capacity:.1f} times the capacity: {outcomes}; "
            f"unanswered: {found.unanswered or 'none'}"
        )
    yield f"accepted requests' p99: {figures.ratio():.2f} times the comfortable one (wanted: 3)"
    served = overloaded.answered
    yield f"served under overload: {served:.0f} requests/s, {served / figures.capacity:.0%}"
    growth = max(overloaded.memory) - figures.memory_before
    middle = len(overloaded.memory) // 2
    second_half = max(overloaded.memory) - max(overloaded.memory[: middle + 1])
    yield (
        f"memory: {figures.memory_before:.1f} MiB before, at most {growth:+.1f} during, "
        f"{second_half:+.1f} of it in the second half"
    )
    yield f"requests/s afterwards, each second: {' '.join(f'{r:.0f}' for r in figures.recovery)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="of each load")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("serve", nargs="*", help="options of serve, after --")
    options = parser.parse_args()
    require_wrk()
    server_core, own_core = assign_cores()
    print(describe_machine())
    ratios = []
    with serving(*options.serve, core=server_core) as server, on_core(own_core):
        for number in range(options.rounds):
            load = os.getloadavg()[0]
            print(f"round {number + 1}, {time.strftime('%H:%M:%S')}, load average {load:.1f}")
            figures = measure(server, options.seconds)
            for line in describe(figures):
                print(f"  {line}", flush=True)
            ratios.append(figures.ratio())
    print(f"median ratio of the accepted requests' p99: {median(ratios):.2f}")


if __name__ == "__main__":
    main()
