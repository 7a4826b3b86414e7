"""Both clients, against the real application and real servers."""

import base64
import inspect
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.client import (
    AsyncDropserveClient,
    ConnectionFailedError,
    DropserveClient,
    ImageError,
    RetryPolicy,
    TimedOutError,
)
from tests.app.client.conftest import ANSWER, PICTURE
from tests.app.client.forking import CHILDREN, REQUESTS
from tests.conftest import ROOT, SAMPLES, RunningServer


async def test_a_stream_ends_with_the_plain_answer(asking: AsyncDropserveClient) -> None:
    plain = await asking.predict_mc(SAMPLES / "doubtful.png", passes=100, seed=2)

    answers = [
        one async for one in asking.predict_mc_stream(SAMPLES / "doubtful.png", passes=100, seed=2)
    ]

    assert len(answers) > 3
    assert [one.is_final for one in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1] == plain
    assert answers[-1].raw == plain.raw
    assert [one.passes for one in answers] == sorted(one.passes for one in answers)


async def test_a_stream_that_is_refused_raises_before_the_first_answer(
    asking: AsyncDropserveClient,
) -> None:
    with pytest.raises(ImageError) as caught:
        await anext(aiter(asking.predict_mc_stream(b"no image")))

    assert caught.value.code == "not_an_image"


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://host", "http://", "/x"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape("such as http://127.0.0.1:8000")):
        DropserveClient(url)


@pytest.mark.slow
async def test_the_synchronous_client_answers_as_the_other_over_one_connection(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    create_connection = socket.create_connection

    def counted(*arguments: Any, **options: Any) -> socket.socket:
        opened.append(arguments)
        return create_connection(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", counted)
    images: list[Any] = [SAMPLES / "7.png", b"no image", SAMPLES / "doubtful.png"]

    with DropserveClient(server.address) as client:
        predicted = client.predict(images[0])
        sampled = client.predict_mc(images[2], seed=1)
        batch = client.predict_batch(images)
        sampled_batch = client.predict_mc_batch(images, seed=1)
        streamed = list(client.predict_mc_stream(images[2], seed=1))
        card = client.model()
    assert len(opened) == 1

    async with AsyncDropserveClient(server.address) as asking:
        assert await asking.predict(images[0]) == predicted == batch[0]
        assert await asking.predict_mc(images[2], seed=1) == sampled == sampled_batch[2]
        found = [one async for one in asking.predict_mc_stream(images[2], seed=1)]
        assert found == streamed
        assert await asking.model() == card
    assert streamed[-1] == sampled
    assert card["version"] == sampled.model.version
    assert isinstance(batch[1], ImageError)
    assert isinstance(sampled_batch[1], ImageError)


@pytest.mark.slow
def test_leaving_a_stream_early_gives_its_connection_back(server: RunningServer) -> None:
    with DropserveClient(server.address) as client:
        for answer in client.predict_mc_stream(PICTURE, passes=1000):
            assert not answer.is_final
            break
        assert client.predict(PICTURE).digit == 7


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_forked_processes_open_connections_of_their_own(kind: str, server: RunningServer) -> None:
    script = [sys.executable, "-m", "tests.app.client.forking", server.address, kind]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)

    processes = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert processes == [(1, REQUESTS)] * (1 + CHILDREN)
    assert done.stderr == ""


async def test_a_forked_process_neither_uses_nor_closes_a_transport_that_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=ANSWER))
    client = DropserveClient(transport=transport)
    asking = AsyncDropserveClient(transport=transport)
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        with client, pytest.raises(RuntimeError, match="the process that made it"):
            client.predict(PICTURE)
        async with asking:
            with pytest.raises(RuntimeError, match="the process that made it"):
                await asking.predict(PICTURE)
        with pytest.raises(RuntimeError, match="closed"):
            client.predict(PICTURE)

    assert client.predict(PICTURE) == await asking.predict(PICTURE)


async def test_a_stream_goes_on_only_in_the_process_that_began_it(
    asking: AsyncDropserveClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = asking.predict_mc_stream(PICTURE, passes=100)
    assert not (await anext(stream)).is_final
    monkeypatch.setattr(os, "getpid", lambda: -1)

    with pytest.raises(RuntimeError, match="parent"):
        await anext(stream)


def test_a_client_that_was_closed_before_the_fork_remains_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = DropserveClient()
    client.close()
    monkeypatch.setattr(os, "getpid", lambda: -1)

    with pytest.raises(RuntimeError, match="closed"):
        client.predict(PICTURE)


def test_no_server_is_a_connection_error_that_names_the_address() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = DropserveClient(address, retries=RetryPolicy(1))

        with client, pytest.raises(ConnectionFailedError, match=address) as caught:
            client.predict(PICTURE)

    assert (caught.value.code, caught.value.status) == ("connection_failed", None)


def test_a_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with DropserveClient(address, timeout=0.1) as client, pytest.raises(TimedOutError):
            client.predict(PICTURE)


async def test_a_closed_client_asks_nothing_more() -> None:
    client = DropserveClient()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.predict(PICTURE)
    asking = AsyncDropserveClient()
    await asking.close()
    with pytest.raises(RuntimeError, match="closed"):
        await asking.predict(PICTURE)


def public(kind: type) -> Iterator[tuple[str, list[str]]]:
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") or name == "__init__":
            yield name, list(inspect.signature(method).parameters)


def test_both_clients_have_the_same_methods() -> None:
    assert dict(public(DropserveClient)) == dict(public(AsyncDropserveClient))


def test_importing_the_client_imports_nothing_of_the_server() -> None:
    picture = base64.b64encode(PICTURE).decode()
    script = (
        "import base64, sys, httpx\n"
        "from app.client import AsyncDropserveClient, DropserveClient, DropserveError\n"
        "transport = httpx.MockTransport(lambda request: httpx.Response(500))\n"
        "with DropserveClient(transport=transport) as client:\n"
        "    try:\n"
        f"        client.predict(base64.b64decode('{picture}'))\n"
        "    except DropserveError:\n"
        "        pass\n"
        "heavy = ('torch', 'fastapi', 'starlette', 'numpy', 'PIL', 'model.network')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
