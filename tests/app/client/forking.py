"""Shares a client between a process and its forks: `python -m tests.app.client.forking URL KIND`.

Prints a line for each process, the parent first: how many connections it opened, and how many
answers were its own. A test runs this in a process of its own, which has no threads.
"""

import asyncio
import multiprocessing
import sys
from typing import Any

from app.client import AsyncDropserveClient, DropserveClient
from tests.app.client.conftest import PICTURE

CHILDREN = 3
REQUESTS = 30

_opened: list[object] = []  # the addresses to which this process connected


def _notice(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        _opened.append(arguments[1])


def _ask(client: Any, start: int, loop: asyncio.AbstractEventLoop) -> int:
    """How many of the answers have the seed that was asked for."""
    seeds = range(start, start + REQUESTS)
    if isinstance(client, DropserveClient):
        return sum(client.predict_mc(PICTURE, seed=seed, passes=2).seed == seed for seed in seeds)

    async def ask() -> int:
        return sum(
            [(await client.predict_mc(PICTURE, seed=seed, passes=2)).seed == seed for seed in seeds]
        )

    return loop.run_until_complete(ask())


def _work(client: Any, start: int, results: Any) -> None:
    _opened.clear()
    own = 0
    try:
        own = _ask(client, start, asyncio.new_event_loop())
    finally:
        results.put((len(_opened), own))


def _main(url: str, kind: str) -> None:
    sys.addaudithook(_notice)
    client = DropserveClient(url) if kind == "sync" else AsyncDropserveClient(url)
    loop = asyncio.new_event_loop()
    _ask(client, 0, loop)
    forks = multiprocessing.get_context("fork")
    results = forks.SimpleQueue()
    children = [
        forks.Process(target=_work, args=(client, 1000 * (number + 1), results))
        for number in range(CHILDREN)
    ]
    for child in children:
        child.start()
    print(len(_opened), _ask(client, 500, loop))
    for child in children:
        child.join()
        print(*results.get())


if __name__ == "__main__":
    _main(*sys.argv[1:])
