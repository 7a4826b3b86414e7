"""What overload costs the clients that are served, those that are refused, and the server.

`python -m tests.load.overload` loads a server with ten times as much as it can answer of a mix of
requests that take long, then with twice as much as it can answer of `/predict`. wrk makes most of
the load. A client sends the rest at a constant rate, and records the outcome of each request and
its latency from when it was due. Work is measured in processor time, so that answers of different
kinds can be added up, and others' use of the machine matters little. The tests assert only the
outcomes: on a shared machine the latencies vary.
"""

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import httpx
import numpy as np
import uvloop

from app.api.examples import example_pngs
from app.cli.machine import describe_machine
from tests.load.bystander import batch
from tests.load.decoding import make_picture
from tests.load.processes import (
    assign_cores,
    family_of,
    on_core,
    processor_seconds,
    proportional_mib,
)
from tests.load.servers import Server, serving
from tests.load.wrk import PNG, Load, require_wrk

MAX_WAIT_MS = 1000  # the default
WANTED_REFUSAL_MS = 50
ALLOWED_OUTCOMES = frozenset({"200", "429 overloaded", "504 deadline_exceeded"})
# After that long the client that records gives a request up, as httpx does by default.
_PATIENCE_SECONDS = 5
# wrk's, of each kind: more than wait for an answer at a time.
_OVERLOAD_CONNECTIONS = 192
_SAMPLING_SECONDS = 0.25
# After the overload the work is measured once a second, until it is most of that at full load.
_RECOVERY_SECONDS, _LONGEST_RECOVERY_SECONDS = 3, 30
_RECOVERED = 0.8

Kinds = Mapping[str, Load]
# By kind and outcome, which is "200", or status and error code; seconds.
Latencies = Mapping[tuple[str, str], list[float]]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Overload:
    """Kinds of requests in equal numbers, whose connections are never refused by themselves.

    Attributes:
        kinds: by name.
        times: the load, over what the server can answer.
        wanted: the share of the work at full load that is still answered.
        recorded_rate: of the client whose requests are recorded, at most, per second.
        keeps_connections: whether that client sends another request over the connection of an
            answer, rather than each over one of its own.
    """

    kinds: Kinds
    times: float
    wanted: float
    recorded_rate: float = 100
    keeps_connections: bool = True


def overloads() -> list[Overload]:
    photo, jpeg = [make_picture("12 MP JPEG 88")], {"content-type": "image/jpeg"}
    mix = {
        "1000 passes": Load("/predict/mc?passes=1000&seed=1"),
        "batch of 32": batch(32, passes=50),
        "12 MP": Load("/predict", bodies=photo, headers=jpeg),
    }
    return [
        Overload(mix, times=10, wanted=0.85),
        Overload({"/predict": Load("/predict", connections=4)}, times=2, wanted=0.6),
    ]


@dataclass(frozen=True)
class Round:
    """What happened under one load.

    Attributes:
        seconds: of the load.
        answered: 2xx answers of each kind.
        refused: other answers.
        unanswered: requests of wrk without an answer.
        used: processor seconds of the server's processes.
        p50_ms: of wrk's requests of each kind.
        latencies: of the client's requests.
        memory: of the server's processes, MiB, sampled.
    """

    seconds: int
    answered: Mapping[str, int]
    refused: int
    unanswered: int
    used: float
    p50_ms: Mapping[str, float]
    latencies: Latencies
    memory: list[float]

    def work(self, costs: Mapping[str, float]) -> float:
        """What the answers cost, processor seconds in a second."""
        return sum(costs[kind] * count for kind, count in self.answered.items()) / self.seconds

    def joined(self, other: "Round") -> "Round":
        """Both as one; the latencies and the memory are this one's."""
        answered = {kind: count + other.answered[kind] for kind, count in self.answered.items()}
        return replace(
            self,
            seconds=self.seconds + other.seconds,
            answered=answered,
            refused=self.refused + other.refused,
            unanswered=self.unanswered + other.unanswered,
            used=self.used + other.used,
        )


async def load(
    server: Server,
    kinds: Kinds,
    seconds: int,
    *,
    rate: float = 0,
    pause_ms: int | None = None,
    keeps: bool = True,
) -> Round:
    """Loads the server by wrk, and by a client at a constant rate of requests per second.

    Kinds without connections are sent by the client only.
    """
    memory: list[float] = []
    sampling = asyncio.create_task(_sample_memory(server.pid, memory))
    used = sum(map(processor_seconds, family_of(server.pid)))
    running = {
        name: kind.start(server.address, seconds, pause_ms=pause_ms)
        for name, kind in kinds.items()
        if kind.connections
    }
    latencies = await send_at_rate(server.address, kinds, rate, seconds, keeps=keeps)
    found = {name: await asyncio.to_thread(wrk.result) for name, wrk in running.items()}
    sampling.cancel()
    counts = Counter({key: len(each) for key, each in latencies.items()})
    return Round(
        seconds,
        {
            name: counts[name, "200"] + (found[name].answered if name in found else 0)
            for name in kinds
        },
        sum(wrk.non_2xx for wrk in found.values())
        + sum(count for (_, outcome), count in counts.items() if outcome != "200"),
        sum(wrk.unanswered for wrk in found.values()),
        sum(map(processor_seconds, family_of(server.pid))) - used,
        {name: wrk.p50_ms for name, wrk in found.items()},
        latencies,
        memory,
    )


async def send_at_rate(
    address: str, kinds: Kinds, rate: float, seconds: float, *, keeps: bool = True
) -> Latencies:
    """Latencies of an open loop, which sends the kinds in turn: a slow server does not slow it.

    A latency counts from when the request was due. A client that waits for one answer before it
    sends the next request would leave out those that suffer most ("coordinated omission").
    """
    latencies: dict[tuple[str, str], list[float]] = {}
    in_turn, pngs = list(kinds.items()), example_pngs()
    kept: list[Connection] = []
    start = time.perf_counter()

    async def send(number: int) -> None:
        name, kind = in_turn[number % len(kinds)]
        bodies = kind.bodies or pngs
        due = start + number / rate
        await asyncio.sleep(due - time.perf_counter())
        outcome = await _post(address, kind, bodies[number % len(bodies)], kept)
        while kept and not keeps:
            kept.pop()[1].close()
        latencies.setdefault((name, outcome), []).append(time.perf_counter() - due)

    await asyncio.gather(*(send(number) for number in range(round(rate * seconds))))
    for _, writer in kept:
        writer.close()
    return latencies


async def _post(address: str, kind: Load, body: bytes, kept: list[Connection]) -> str:
    """The outcome of a request; httpx would take more time of a core than the server does.

    Args:
        kept: connections that wait for a request, as clients keep them.
    """
    host, port = address.removeprefix("http://").split(":")
    headers = {**(kind.headers or PNG), "host": host, "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST {kind.path} HTTP/1.1\r\n{lines}\r\n".encode() + body
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                is_kept = bool(kept)
                connection = kept.pop() if kept else await asyncio.open_connection(host, int(port))
                try:
                    head, content = await _exchange(connection, request)
                except (EOFError, ConnectionError):
                    connection[1].close()
                    if not is_kept:  # or the server has closed it meanwhile
                        raise
                except BaseException:
                    connection[1].close()
                    raise
                else:
                    break
    except (EOFError, OSError) as error:
        return type(error).__name__
    if b"connection: close" in head:
        connection[1].close()
    else:
        kept.append(connection)
    status = head.split(maxsplit=2)[1].decode()
    if status != "200":
        with suppress(ValueError, KeyError, TypeError):  # of another server
            status += " " + json.loads(content)["error"]["code"]
    return status


async def _exchange(connection: Connection, request: bytes) -> tuple[bytes, bytes]:
    """Sends a request; the answer's head in lower case, and its body."""
    reader, writer = connection
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def _sample_memory(pid: int, samples: list[float]) -> None:
    while True:
        samples.append(proportional_mib(pid))
        await asyncio.sleep(_SAMPLING_SECONDS)


@dataclass(frozen=True)
class Figures:
    """One run.

    Attributes:
        overload: what was sent.
        costs: processor seconds of an answer of each kind.
        own_ms: the median latency of each kind alone.
        full: all kinds at once from few connections, which are never refused; half of it before
            the overload and half after it, since what a shared machine gives changes.
        overloaded: under the overload.
        recovery: as `full` after the overload, second by second.
        recovered_after: seconds from the end of the overload; None: it did not recover.
    """

    overload: Overload
    costs: Mapping[str, float]
    own_ms: Mapping[str, float]
    full: Round
    overloaded: Round
    recovery: list[Round]
    recovered_after: float | None = None

    def goodput(self) -> float:
        """Work that is answered under overload, over that at full load."""
        return self.overloaded.work(self.costs) / self.full.work(self.costs)

    def efficiency(self) -> float:
        """The same for each second of processor time that the server got."""
        return self.goodput() * (self.full.used / self.full.seconds) / self._cores()

    def _cores(self) -> float:
        return self.overloaded.used / self.overloaded.seconds

    def refusal_us(self) -> float:
        """Processor time of a refusal: what the answers do not account for."""
        of_answers = self.full.used / self.full.seconds * self.goodput()
        spent = (self._cores() - of_answers) * self.overloaded.seconds
        return spent / max(1, self.overloaded.refused) * 1e6


async def measure(server: Server, overload: Overload, seconds: int) -> Figures:
    """Loads a server; the overload lasts `seconds`."""
    kinds, short = overload.kinds, max(1, seconds // 5)
    alone = {name: await load(server, {name: kind}, short) for name, kind in kinds.items()}
    costs = {name: one.used / max(1, one.answered[name]) for name, one in alone.items()}
    full = await load(server, kinds, short)
    capacity = full.work(costs) / sum(costs.values()) * len(kinds)
    rate = overload.times * capacity
    recorded = min(rate, overload.recorded_rate)
    connections = _OVERLOAD_CONNECTIONS if rate > recorded else 0
    many = {name: replace(kind, connections=connections) for name, kind in kinds.items()}
    # What is admitted waits for about half of the longest wait, and its connection with it.
    asking = len(kinds) * _OVERLOAD_CONNECTIONS - capacity * MAX_WAIT_MS / 2e3
    pause_ms = round(1e3 * asking / max(1, rate - recorded))
    ends = time.monotonic() + seconds
    keeps = overload.keeps_connections
    overloaded = await load(server, many, seconds, rate=recorded, pause_ms=pause_ms, keeps=keeps)
    recovery: list[Round] = []
    recovered = None
    while time.monotonic() - ends < _LONGEST_RECOVERY_SECONDS and (
        recovered is None or len(recovery) < _RECOVERY_SECONDS
    ):
        with suppress(httpx.HTTPError):  # it does not even answer wrk's first request
            recovery.append(await load(server, kinds, 1))
            if recovered is None and recovery[-1].work(costs) >= _RECOVERED * full.work(costs):
                recovered = max(0.0, time.monotonic() - ends - 1)
    with suppress(httpx.HTTPError):
        full = full.joined(await load(server, kinds, short))
    own_ms = {name: one.p50_ms[name] for name, one in alone.items()}
    return Figures(overload, costs, own_ms, full, overloaded, recovery, recovered)


def describe(figures: Figures) -> Iterator[str]:
    """The figures, with what is wanted of them."""
    full, overloaded, costs = figures.full, figures.overloaded, figures.costs
    yield "an answer costs " + ", ".join(f"{1e3 * costs[kind]:.2f} ms ({kind})" for kind in costs)
    sent = sum(overloaded.answered.values()) + overloaded.refused
    mean = sum(costs.values()) / len(costs)
    times = sent / overloaded.seconds * mean / full.work(costs)
    yield (
        f"{times:.1f} times the capacity: {sent} requests, {dict(overloaded.answered)} answered, "
        f"unanswered: {overloaded.unanswered or 'none'}; at full load {dict(full.answered)} in "
        f"{full.seconds} s, refused: {full.refused or 'none'}"
    )
    for (kind, outcome), latencies in sorted(overloaded.latencies.items()):
        p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
        wanted = MAX_WAIT_MS + figures.own_ms[kind] if outcome == "200" else WANTED_REFUSAL_MS
        yield (
            f"{kind}: {outcome} x {len(latencies)}, p50 {p50:.1f} ms, p99 {p99:.1f} ms "
            f"(wanted: {wanted:.0f})"
        )
    yield (
        f"goodput: {figures.goodput():.0%} of that at full load (wanted: "
        f"{figures.overload.wanted:.0%}), {figures.efficiency():.0%} for the same processor time; "
        + (
            f"a refusal costs {figures.refusal_us():.0f} us"
            if overloaded.refused
            else "none refused"
        )
    )
    memory, middle = overloaded.memory, len(overloaded.memory) // 2
    yield (
        f"memory: {full.memory[-1]:.0f} MiB before, at most {max(memory) - full.memory[-1]:+.0f} "
        f"during, {max(memory) - max(memory[: middle + 1]):+.0f} of it in the second half"
    )
    seconds = " ".join(f"{one.work(costs) / full.work(costs):.0%}" for one in figures.recovery)
    yield f"work afterwards, each second, of that at full load: {seconds}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="of each overload")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("serve", nargs="*", help="options of serve, after --")
    options = parser.parse_args()
    require_wrk()
    server_core, own_core = assign_cores()
    print(describe_machine())
    with serving(*options.serve, core=server_core) as server, on_core(own_core):
        for number in range(options.rounds):
            for overload in overloads():
                average = os.getloadavg()[0]
                print(f"round {number + 1}, {time.strftime('%H:%M:%S')}, load {average:.1f}")
                for line in describe(uvloop.run(measure(server, overload, options.seconds))):
                    print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
