"""Signals of a server that runs: from the kernel with one worker, through a pipe with several."""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest

from app.process.listening import bind_listeners
from app.process.server import _Server, _WorkerServer, configure
from app.process.signals import SIGHUP, hold_reloads
from app.process.supervisor import Answer, Change, Serving
from app.settings import Settings
from model.errors import CheckpointError
from tests.app.process.waiting import until

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(SIGHUP is None, reason="there is no SIGHUP"),
]


class _Models:
    """Counts rescans; the second finds a model that cannot be loaded."""

    def __init__(self) -> None:
        self.catalogue = SimpleNamespace(generation=3)
        self.rescans = 0

    async def rescan(self) -> list[str]:
        self.rescans += 1
        return ["broken"] * (self.rescans - 1)


def make_app() -> Any:
    state = SimpleNamespace(
        metrics=None, models=_Models(), settings=Settings(drain_seconds=60), is_draining=False
    )
    return SimpleNamespace(state=state)


@asynccontextmanager
async def serving_alone() -> AsyncIterator[_Models]:
    app = make_app()
    (listener,) = bind_listeners(Settings(port=0))
    config = configure(Settings(), app)
    config.lifespan = "off"
    config.load()
    server = _Server(config, app)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    try:
        yield app.state.models
    finally:
        await server.shutdown([listener])


@contextmanager
def restored() -> Iterator[None]:
    """What a test that fails would leave behind: a signal that is kept, or that ends the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        hold_reloads(False)
        signal.signal(signal.SIGHUP, before)


async def test_sighup_reloads_the_only_server_also_if_it_came_as_the_server_started() -> None:
    with restored():
        hold_reloads(True)
        signal.raise_signal(signal.SIGHUP)
        async with serving_alone() as models:
            await until(lambda: models.rescans == 1)
            signal.raise_signal(signal.SIGHUP)
            await until(lambda: models.rescans == 2)


@asynccontextmanager
async def worker() -> AsyncIterator[tuple[_WorkerServer, Connection]]:
    """A worker that serves, and its supervisor's end of the pipe."""
    app = make_app()
    ours, its = multiprocessing.Pipe()
    with ours, its:
        find: Any = lambda: SimpleNamespace(generation=4)  # noqa: E731
        server = _WorkerServer(configure(Settings(), app), app, its, find)
        server.begin_to_serve()
        assert ours.recv() == Serving(3, [])
        try:
            yield server, ours
        finally:
            asyncio.get_running_loop().remove_reader(its.fileno())


async def test_a_worker_ends_with_the_signal_that_it_is_passed() -> None:
    async with worker() as (server, supervisor):
        supervisor.send(signal.SIGINT)
        await until(lambda: server.should_exit)

        assert (server.last_signal, server.force_exit) == (signal.SIGINT, False)
        supervisor.send(signal.SIGINT)
        await until(lambda: server.force_exit)


@pytest.mark.parametrize("requests", [0, 1])
async def test_a_worker_drains_when_it_is_passed_sigterm(requests: int) -> None:
    """Also one that has just begun to serve: the clients of another worker come to it, too."""
    async with worker() as (server, supervisor):
        server.server_state.total_requests = requests
        supervisor.send(signal.SIGTERM)
        await until(lambda: server.app.state.is_draining)

        assert not server.should_exit


async def test_a_worker_whose_supervisor_is_gone_ends_as_with_sigterm() -> None:
    async with worker() as (server, supervisor):
        supervisor.close()
        await until(lambda: server.should_exit)

        assert (server.last_signal, server.force_exit) == (signal.SIGTERM, False)


async def test_a_worker_reloads_when_it_is_passed_sighup_and_says_what_failed() -> None:
    async with worker() as (_, supervisor):
        for failures in ([], ["broken"]):
            supervisor.send(SIGHUP)
            await until(supervisor.poll)
            assert supervisor.recv() == Serving(4, failures)


async def test_a_change_waits_for_the_supervisors_answer_to_it() -> None:
    async with worker() as (server, supervisor):
        asked = [
            asyncio.create_task(server.app.state.change_model(name, True)) for name in ("a", "b")
        ]
        changes = []
        for _ in asked:
            await until(supervisor.poll)
            changes.append(supervisor.recv())
        assert changes == [Change(0, "a", True), Change(1, "b", True)]

        supervisor.send(Answer(1, "it is damaged"))
        supervisor.send(Answer(0, None))
        first, second = await asyncio.gather(*asked, return_exceptions=True)
        assert first is None
        assert isinstance(second, CheckpointError)
        assert str(second) == "it is damaged"
