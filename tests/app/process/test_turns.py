"""However many requests come at once, a turn of the event loop starts a few of them."""

import asyncio
from itertools import pairwise

import uvloop

from app.process.turns import STARTED_IN_A_TURN, Turns
from app.settings import Settings
from tests.app.process.raw_clients import WHOLE, serving
from tests.app.process.waiting import until

HEALTH = b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n"


def test_functions_are_called_in_order_a_few_in_each_turn() -> None:
    async def scenario() -> None:
        turns, called = Turns(), list[int]()
        count = 2 * STARTED_IN_A_TURN + 3
        for number in range(count):
            turns.call(lambda number=number: called.append(number))  # type: ignore[misc]
        for most in (STARTED_IN_A_TURN, 2 * STARTED_IN_A_TURN, count, count):
            assert called == list(range(most))
            await asyncio.sleep(0)
        turns.call(lambda: called.append(count))
        assert called[-1] == count

    uvloop.run(scenario())


def test_a_turn_starts_a_few_of_the_requests_that_have_come_and_health() -> None:
    async def scenario() -> None:
        async with serving(Settings()) as server:
            clients = [await server.connect() for _ in range(4 * STARTED_IN_A_TURN)]
            await until(lambda: len(server.state.connections) == len(clients))
            for client in clients[:-1]:
                client.send(WHOLE)
            clients[-1].send(HEALTH)
            started = [0]
            while started[-1] < len(clients):
                await asyncio.sleep(0)
                started.append(len(server.app.scopes))
            for client in clients:
                assert (await client.answer())[0] == 200
            steps = [after - before for before, after in pairwise(started)]
            assert max(steps) <= STARTED_IN_A_TURN + 1
            paths = [scope["path"] for scope in server.app.scopes]
            assert paths.index("/health/live") <= 2 * STARTED_IN_A_TURN

    uvloop.run(scenario())
