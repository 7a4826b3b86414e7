"""What each server does with ten times as much as it can answer, and what it takes to recover.

`python -m tests.load.peers.overload` sends each server batches of 32 digits with 50 passes each, 50
as one batch of the peer's, at a constant rate for half a minute. A client waits 5 s for an answer.
Each request comes over a connection of its own, as from many clients, or with `--keep` over those
of earlier answers, as from a few.
Goodput is the work that is answered in time, as a share of that at full load. The last column is
the mix of `tests.load.overload`, which the peers cannot answer.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import uvloop

from app.cli.machine import describe_machine
from tests.load.bystander import batch
from tests.load.overload import Figures, Overload, measure, overloads
from tests.load.peers.compare import configured, running
from tests.load.peers.servers import BATCH, OFF, OURS, PEERS, Peer
from tests.load.processes import assign_cores, on_core
from tests.load.rounds import spread
from tests.load.wrk import Load, require_wrk

# The peers' requests are all recorded: a client that waits for a free connection would spare them.
_RECORDED_RATE = 400
_CONNECTIONS = 4
PASSES = 50


def overload_of(peer: Peer, *, keeps_connections: bool) -> Overload:
    """Ten times what a server can answer of batches, which its client makes."""
    if peer in OURS:
        load = replace(batch(32, PASSES), connections=_CONNECTIONS)
    else:
        request = peer.requests[BATCH]
        headers = {"content-type": request.content_type}
        load = Load(request.path, _CONNECTIONS, request.bodies, headers)
    return Overload({BATCH: load}, 10, 0, _RECORDED_RATE, keeps_connections)


def servers(
    peers: Sequence[Peer], *, keeps_connections: bool
) -> Iterator[tuple[str, Peer, Overload]]:
    """The columns of the table."""
    for peer in (OURS[0], *peers):
        yield peer.name, peer, overload_of(peer, keeps_connections=keeps_connections)
    mix = replace(overloads()[0], keeps_connections=keeps_connections)
    yield f"{OURS[0].name}, mix", OURS[0], mix


def describe(rows: dict[str, list[Figures]]) -> Iterator[str]:
    """A column for each server, of medians of the rounds."""
    measures = (
        ("answers/s at full load", ",.0f"),
        ("sent/s", ",.0f"),
        ("goodput", ".0%"),
        ("p99 of answers, ms", ",.0f"),
        ("refused", ".0%"),
        ("lost", ".0%"),
        ("more memory, MiB", ",.0f"),
        ("full speed after, s", ".1f"),
    )
    found = [list(zip(*map(row, figures), strict=True)) for figures in rows.values()]
    lines = [["", *rows]] + [
        [title, *(spread(values[number], form).replace("inf", "never") for values in found)]
        for number, (title, form) in enumerate(measures)
    ]
    width = 2 + max(len(text) for line in lines for text in line[1:])
    for title, *texts in lines:
        yield f"{title:<22}" + "".join(f"{text:>{width}}" for text in texts)


def row(figures: Figures) -> tuple[float, ...]:
    """The lines of a run; no recovery, and the latency of no answer, are infinite."""
    full, overloaded = figures.full, figures.overloaded
    latencies: dict[str, list[float]] = {"200": []}
    for (_, outcome), seconds in overloaded.latencies.items():
        latencies.setdefault(outcome, []).extend(seconds)
    recorded = sum(map(len, latencies.values()))
    refused = sum(len(each) for outcome, each in latencies.items() if outcome[0] in "45")
    answered = latencies["200"]
    after = figures.recovered_after
    return (
        sum(full.answered.values()) / full.seconds,
        (sum(overloaded.answered.values()) + overloaded.refused) / overloaded.seconds,
        figures.goodput(),
        float(np.percentile(answered, 99)) * 1e3 if answered else math.inf,
        refused / recorded,
        1 - (refused + len(answered)) / recorded,
        max(overloaded.memory) - full.memory[-1],
        math.inf if after is None else after,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=30, help="of each overload")
    parser.add_argument("--peers", nargs="*", default=[peer.name for peer in PEERS])
    parser.add_argument("--keep", action="store_true", help="send over the connections of answers")
    options = parser.parse_args()
    require_wrk()
    server_core, own_core = assign_cores()
    rows: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            chosen = [peer for peer in PEERS if peer.name in options.peers]
            for name, peer, overload in servers(chosen, keeps_connections=options.keep):
                sys.stderr.write(f"round {number + 1} of {options.rounds}: {name}\n")
                one = configured(peer, "expanded", OFF, PASSES, Path(folder))
                with running(one, server_core) as (server, _), on_core(own_core):
                    figures = uvloop.run(measure(server, overload, options.seconds))
                rows.setdefault(name, []).append(figures)
    print(
        f"{describe_machine()}; server on core {server_core}, clients on core {own_core}\n"
        f"{options.seconds} s of ten times the capacity, median of {options.rounds} rounds "
        "(lowest-highest)\n"
    )
    print(*describe(rows), sep="\n")


if __name__ == "__main__":
    main()
