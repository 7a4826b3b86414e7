"""The large body of a refused request is dropped unread; any other is read as it always is."""

import asyncio
import logging
from collections.abc import Callable

import pytest
import uvloop

from app.process.skimming import BEGINNING_BYTES, Skimmer
from app.settings import Settings
from tests.app.process.raw_clients import WHOLE, Client, Server, serving
from tests.app.process.test_refusing import Door, ask, door, run
from tests.app.process.waiting import until

__all__ = ["door"]  # the fixture

SIZE = 250_000
LARGE = b"POST /much HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % SIZE + bytes(SIZE)


class Counted:
    """The bytes of a server's connections that were read by their beginnings, and dropped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[int] = []
        self.dropped = 0
        update, drop = Skimmer.buffer_updated, Skimmer.drop

        def buffer_updated(skimmer: Skimmer, nbytes: int) -> None:
            self.read.append(nbytes)
            update(skimmer, nbytes)

        def counted_drop(skimmer: Skimmer, most: int) -> int:
            dropped = drop(skimmer, most)
            self.dropped += dropped
            return dropped

        monkeypatch.setattr(Skimmer, "buffer_updated", buffer_updated)
        monkeypatch.setattr(Skimmer, "drop", counted_drop)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


async def refuse_twice(client: Client) -> None:
    for _ in range(2):
        assert (await ask(client, LARGE))[0] == 429


@pytest.mark.parametrize("run_loop", [uvloop.run, asyncio.run])
def test_most_of_a_large_body_is_not_read(
    door: Door, counted: Counted, run_loop: Callable[..., None]
) -> None:
    async def scenario() -> None:
        async with serving(Settings()) as server:
            client = await server.connect()
            await refuse_twice(client)
            for _ in range(20):
                assert await ask(client, LARGE) == (429, "again")
            assert await ask(client, WHOLE) == (200, "/whole 4")
            assert max(counted.read) <= BEGINNING_BYTES
            assert counted.dropped > 10 * SIZE
            # The last bodies may be skipped after their answers, and the first was read.
            assert sum(counted.read) + counted.dropped <= 22 * len(LARGE) + len(WHOLE)
        await until(lambda: not server.state.connections)

    run_loop(scenario())


def test_a_request_that_is_let_in_is_read_whole_and_in_large_pieces(
    door: Door, counted: Counted
) -> None:
    other = LARGE.replace(b"/much", b"/other")

    async def scenario(server: Server) -> None:
        client = await server.connect()
        await refuse_twice(client)
        counted.read.clear()
        dropped = counted.dropped
        assert await ask(client, other) == (200, f"/other {SIZE}")
        door.is_shut = False
        assert await ask(client, LARGE) == (429, "first")
        assert sum(counted.read) == len(other) + len(LARGE)
        assert counted.dropped == dropped
        assert max(counted.read) > BEGINNING_BYTES

    run(scenario)


def test_what_comes_after_a_dropped_body_is_the_next_request(door: Door) -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        await refuse_twice(client)
        for behind in (1, 1000, SIZE, len(LARGE)):
            client.send(LARGE[:behind])
            await asyncio.sleep(0.01)
            client.send(LARGE[behind:] + WHOLE)
            assert (await client.answer())[:2] == (429, "again" if behind > 100 else "first")
            assert (await client.answer())[:2] == (200, "/whole 4")

    run(scenario)


def test_a_client_that_goes_away_in_the_middle_costs_nothing(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(server: Server) -> None:
        for end in (100, 20_000, 200_000):
            client = await server.connect()
            await refuse_twice(client)
            client.send(LARGE[:end])
            await asyncio.sleep(0.01)
            client.writer.transport.abort()

    run(scenario)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
