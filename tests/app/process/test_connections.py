"""Connections whose other end is slow, silent, greedy or no HTTP: over real sockets."""

import asyncio
import gc
import json
import time
import weakref

import pytest

from app.api.routes import ROUTE_LABELS
from app.process.connections import MAX_HEAD_BYTES, MAX_HEADERS, SMALL_BODY
from app.process.server import configure
from app.settings import Settings
from app.telemetry.metrics import Metrics
from tests.app.process.raw_clients import WHOLE, Client, Server, serving
from tests.app.process.waiting import PATIENCE_SECONDS, until
from tests.app.telemetry.prometheus_text import Scrape

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATIENT = Settings()
HASTY = Settings(max_head_seconds=0.05, max_body_seconds=0.05)
HALF = WHOLE[:-1]


async def test_the_protocol_serves_as_any_other() -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        for _ in range(2):
            client.send(WHOLE)
            assert (await client.answer())[:2] == (200, "/whole 4")
        client.send(WHOLE * 3)
        for _ in range(3):
            assert (await client.answer())[:2] == (200, "/whole 4")


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", WHOLE[:-1], WHOLE, b"garbage\r\n\r\n"])
async def test_a_lost_connection_is_freed_without_the_garbage_collector(sent: bytes) -> None:
    async with serving(HASTY) as server:
        client = await server.connect()
        client.send(sent)
        await until(lambda: bool(server.state.connections))
        (connection,) = map(weakref.ref, server.state.connections)
        gc.disable()
        try:
            server.close()
            await until(lambda: connection() is None)
        finally:
            gc.enable()


# Slow and silent


async def test_a_connection_that_says_nothing_is_ended() -> None:
    async with serving(HASTY) as server:
        client = await server.connect()

        assert await client.is_ended()
        assert server.app.scopes == []


@pytest.mark.parametrize("before", [b"", WHOLE])
async def test_a_head_that_does_not_end_is_refused(before: bytes) -> None:
    async with serving(HASTY) as server:
        client = await server.connect()
        if before:
            client.send(before)
            assert (await client.answer())[0] == 200
        client.send(b"GET /slow HTTP/1.1\r\nX-A: ")

        assert await client.refusal() == (408, "request_timeout")


async def test_dribbling_does_not_lengthen_the_time() -> None:
    async with serving(HASTY) as server:
        client = await server.connect()

        async def dribble() -> None:
            client.send(b"GET /slow HTTP/1.1\r\nX-A: ")
            while True:
                client.send(b"a")
                await asyncio.sleep(0.005)

        dribbling = asyncio.create_task(dribble())
        try:
            assert (await client.answer())[0] == 408
        finally:
            dribbling.cancel()


@pytest.mark.parametrize(
    "start",
    [
        b"POST /slow HTTP/1.1\r\nContent-Length: %d\r\n\r\nbody" % (5 + SMALL_BODY),
        b"POST /slow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
    ],
)
async def test_a_body_that_does_not_end_is_refused_and_its_request_given_up(start: bytes) -> None:
    async with serving(HASTY) as server:
        client = await server.connect()
        client.send(start)

        assert await client.refusal() == (408, "request_timeout")
        assert server.app.left == ["/slow"]


async def test_a_request_with_a_small_body_is_not_started_before_it_is_whole() -> None:
    async with serving(PATIENT) as server:
        late, client = await server.connect(), await server.connect()
        late.send(HALF)
        await until(lambda: any(one.cycle for one in server.state.connections))  # type: ignore[union-attr]
        client.send(WHOLE)
        assert (await client.answer())[:2] == (200, "/whole 4")
        assert len(server.app.scopes) == 1

        late.send(WHOLE[-1:])
        assert (await late.answer())[:2] == (200, "/whole 4")


async def test_who_waits_for_100_continue_is_asked_for_a_small_body() -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        head = WHOLE.removesuffix(b"\r\n\r\nbody") + b"\r\nExpect: 100-continue\r\n\r\n"
        client.send(head)
        line = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
        assert line == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        assert (await client.answer())[:2] == (200, "/whole 4")


async def test_a_connection_that_was_answered_may_rest_before_its_next_request() -> None:
    async with serving(HASTY) as server:
        client = await server.connect()
        client.send(WHOLE)
        await client.answer()
        await asyncio.sleep(10 * HASTY.max_head_seconds)

        head, rest = WHOLE[:9], WHOLE[9:]
        client.send(head)  # whose time begins now
        await asyncio.sleep(HASTY.max_head_seconds / 2)
        client.send(rest)
        assert (await client.answer())[:2] == (200, "/whole 4")


async def test_answered_connections_rest_as_long_as_the_settings_say() -> None:
    settings = Settings(keep_alive_seconds=7)
    assert configure(settings).timeout_keep_alive == 7  # of uvicorn's own protocol

    seconds = 0.3
    async with serving(HASTY.model_copy(update={"keep_alive_seconds": seconds})) as server:
        client = await server.connect()
        client.send(WHOLE)
        await client.answer()
        answered = time.monotonic()

        assert await client.is_ended()
        assert time.monotonic() > answered + seconds / 2  # it looks only now and then


async def test_an_answer_that_takes_its_time_is_waited_for() -> None:
    async with serving(HASTY) as server:
        server.app.may_answer.clear()
        client = await server.connect()
        client.send(WHOLE)
        asyncio.get_running_loop().call_later(0.5, server.app.may_answer.set)

        assert (await client.answer())[:2] == (200, "/whole 4")


async def test_a_reader_that_does_not_read_is_left() -> None:
    async with serving(HASTY) as server:
        client = await server.connect(limit=1024)
        client.send(b"GET /large HTTP/1.1\r\n\r\n")
        await until(lambda: bool(server.state.connections))

        await until(lambda: not server.state.connections)


# Greedy


def many_lines(count: int) -> bytes:
    return b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(count)) + b"\r\n"


@pytest.mark.parametrize(
    "head",
    [
        many_lines(MAX_HEADERS + 1),
        many_lines(10_000),
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-A: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
    ],
    ids=["lines", "many lines", "address", "value"],
)
@pytest.mark.parametrize("piece", [2**20, 1000], ids=["whole", "in pieces"])
async def test_a_head_that_is_too_large_is_refused(head: bytes, piece: int) -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        for place in range(0, len(head), piece):
            client.send(head[place : place + piece])
            await asyncio.sleep(0)

        assert (await client.answer())[0] == 431
        assert server.app.scopes == []


async def test_what_is_refused_outside_of_any_request_is_counted() -> None:
    metrics = Metrics(ROUTE_LABELS)
    async with serving(PATIENT, metrics) as server:
        for garbage in (b"no http\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X-A: 1\r\n" * 5000):
            client = await server.connect()
            client.send(garbage)
            await client.answer()

    scrape = Scrape(metrics.text().decode())
    counted = {"invalid_http": 1, "head_too_large": 1}
    assert scrape.by("code", "connections_refused_total") == counted


async def test_a_head_without_an_end_is_not_kept() -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        client.send(b"GET / HTTP/1.1\r\nX-A: ")
        for _ in range(40):
            client.send(b"a" * 1024)
            await asyncio.sleep(0.002)

        assert (await client.answer())[0] == 431


async def test_a_head_within_the_limits_is_served() -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        client.send(many_lines(MAX_HEADERS))
        assert (await client.answer())[0] == 200
        large = b"POST /whole HTTP/1.1\r\nX-A: %s\r\nContent-Length: 300000\r\n\r\n" % (
            b"a" * 30_000
        )
        # A large body before it, in the same pieces, is none of its head.
        client.send((large + bytes(300_000)) * 2 + WHOLE)
        for length in (300_000, 300_000, 4):
            assert (await client.answer())[:2] == (200, f"/whole {length}")


async def test_what_follows_a_chunked_body_is_no_header() -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        chunked = b"POST /whole HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n"
        client.send(chunked + b"X-Forwarded-For: 1.2.3.4\r\n\r\n")

        assert (await client.answer())[:2] == (200, "/whole 4")
        assert server.app.scopes[0]["headers"] == [(b"transfer-encoding", b"chunked")]

        client.send(chunked)
        client.send(b"".join(b"X-%d: a\r\n" % number for number in range(1000)))
        assert await client.refusal() == (431, "head_too_large")


async def test_where_all_are_connected_the_longest_idle_give_way() -> None:
    async with serving(Settings(max_connections=3), check_seconds=1.0) as server:
        server.app.may_answer.clear()
        busy = await server.connect()
        busy.send(WHOLE)
        await until(lambda: bool(server.app.scopes))
        first, second, third = [await server.connect() for _ in range(3)]
        third.send(WHOLE)

        assert await first.is_ended()
        server.app.may_answer.set()
        second.send(WHOLE)
        for client in (busy, second, third):
            assert (await client.answer())[:2] == (200, "/whole 4")


async def fill(server: Server, count: int) -> list[Client]:
    """Clients that wait for an answer, which takes until `may_answer` is set."""
    server.app.may_answer.clear()
    busy = [await server.connect() for _ in range(count)]
    for client in busy:
        client.send(WHOLE)
    await until(lambda: len(server.app.scopes) == count)
    return busy


async def test_where_all_are_busy_another_gets_a_429() -> None:
    metrics = Metrics(ROUTE_LABELS)
    async with serving(Settings(max_connections=2), metrics, 1.0) as server:
        busy = await fill(server, 2)
        other = await server.connect()
        other.send(WHOLE)

        status, body, headers = await other.answer()

        assert (status, json.loads(body)["error"]["code"]) == (429, "overloaded")
        assert headers["retry-after"] == "1"
        server.app.may_answer.set()
        for client in busy:
            assert (await client.answer())[0] == 200
    scrape = Scrape(metrics.text().decode())
    assert scrape.by("code", "connections_refused_total") == {"overloaded": 1}


async def test_where_all_are_busy_health_is_answered() -> None:
    async with serving(Settings(max_connections=2), check_seconds=1.0) as server:
        await fill(server, 2)
        server.protocol.most_spare = 4
        silent = [await server.connect() for _ in range(5)]
        assert await silent[0].is_ended()  # for the fifth
        check = await server.connect()
        check.send(b"GET /health/live?from=lb HTTP/1.1\r\n\r\n")

        assert (await check.answer())[0] == 200


async def test_half_bodies_give_way_and_are_counted() -> None:
    metrics = Metrics(ROUTE_LABELS)
    async with serving(Settings(max_connections=20), metrics, 1.0) as server:
        server.protocol.most_spare = 10
        for _ in range(5 * 20):
            (await server.connect()).send(HALF)
            client = await server.connect()
            client.send(b"GET /health/live HTTP/1.1\r\n\r\n")
            assert (await client.answer())[0] == 200
            assert len(server.state.connections) <= 20 + 10
        client = await server.connect()
        client.send(WHOLE)
        assert (await client.answer())[0] == 200
    scrape = Scrape(metrics.text().decode())
    assert scrape.by("code", "connections_refused_total")["overloaded"] > 20


@pytest.mark.parametrize("request_begun", [b"", b"GET /slow HTTP/1.1\r\n", HALF])
async def test_who_brings_no_request_beyond_the_limit_ends_nobody(request_begun: bytes) -> None:
    async with serving(Settings(max_connections=1)) as server:
        resting = await server.connect()
        resting.send(WHOLE)
        await resting.answer()
        other = await server.connect()
        other.send(request_begun)

        if request_begun:
            assert await other.refusal() == (429, "overloaded")
        assert await other.is_ended()
        resting.send(WHOLE)
        assert (await resting.answer())[:2] == (200, "/whole 4")


async def test_a_large_body_beyond_the_limit_waits_for_who_is_slow() -> None:
    async with serving(Settings(max_connections=1), check_seconds=1.2) as server:
        slow, large, larger = [await server.connect() for _ in range(3)]
        slow.send(HALF)
        await until(lambda: any(one.cycle for one in server.state.connections))  # type: ignore[union-attr]
        head = b"POST /whole HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
        larger.send(head % (3 * SMALL_BODY) + bytes(2 * SMALL_BODY))  # too much to be kept
        large.send(head % (2 * SMALL_BODY) + bytes(SMALL_BODY // 2))

        assert (await larger.answer())[0] == 429
        assert await slow.is_ended()
        large.send(bytes(2 * SMALL_BODY - SMALL_BODY // 2))
        assert (await large.answer())[:2] == (200, f"/whole {2 * SMALL_BODY}")


async def test_a_slow_body_and_a_slow_reader_give_way_before_who_rests() -> None:
    async with serving(Settings(max_connections=4), check_seconds=0.3) as server:
        resting, slow, reader, fast = [await server.connect(limit=1024) for _ in range(4)]
        resting.send(WHOLE)
        await resting.answer()
        slow.send(HALF)
        reader.send(b"GET /large HTTP/1.1\r\n\r\n")
        fast.send(b"POST /whole HTTP/1.1\r\nContent-Length: 200001\r\n\r\n" + bytes(200_000))
        await asyncio.sleep(1.5)

        others = [await server.connect() for _ in range(2)]
        for client in others:
            client.send(WHOLE)
            assert (await client.answer())[:2] == (200, "/whole 4")
        assert await slow.is_ended()
        for client in (resting, *others):
            client.send(WHOLE)
            assert (await client.answer())[:2] == (200, "/whole 4")
        fast.send(b"e")
        assert (await fast.answer())[:2] == (200, "/whole 200001")


async def test_who_was_answered_stays_before_who_has_asked_for_nothing() -> None:
    async with serving(Settings(max_connections=2), check_seconds=0.2) as server:
        known = await server.connect()
        known.send(WHOLE)
        await known.answer()
        (kept,) = server.state.connections
        await until(lambda: getattr(kept, "_waits_for", "")[0] == "idle")  # longer than the others
        silent, other = [await server.connect() for _ in range(2)]
        other.send(WHOLE)

        assert (await other.answer())[:2] == (200, "/whole 4")
        assert await silent.is_ended()
        known.send(WHOLE)
        assert (await known.answer())[:2] == (200, "/whole 4")


async def test_a_body_has_a_least_rate() -> None:
    async with serving(PATIENT) as server:
        protocol = server.protocol
        protocol.least_rate, protocol.least_rate_after_seconds = 10_000, 0.2
        client, steady = await server.connect(), await server.connect()
        client.send(HALF)
        steady.send(b"POST /whole HTTP/1.1\r\nContent-Length: 40000\r\n\r\n")
        for _ in range(40):
            steady.send(bytes(1000))
            await asyncio.sleep(0.01)

        assert (await steady.answer())[:2] == (200, "/whole 40000")
        assert await client.refusal() == (408, "request_timeout")


# No HTTP


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nX A: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-A: b\r\n c\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"CONNECT there:443 HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused(garbage: bytes) -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        client.send(garbage)

        assert await client.refusal() == (400, "invalid_http")


async def test_garbage_behind_requests_waits_for_their_answers() -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        client.send(WHOLE * 2 + b"\x00garbage\r\n\r\n" + WHOLE)

        for _ in range(2):
            assert (await client.answer())[:2] == (200, "/whole 4")
        assert await client.is_ended()
        assert len(server.app.scopes) == 2


async def test_garbage_in_a_body_is_refused_and_its_request_given_up() -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        client.send(b"POST /slow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        await until(lambda: bool(server.app.scopes))
        client.send(b"no length\r\n")

        assert await client.refusal() == (400, "invalid_http")
        assert server.app.left == ["/slow"]


@pytest.mark.parametrize(
    ("length", "start"),
    [(b"Content-Length: 16777216", b""), (b"Transfer-Encoding: chunked", b"1000000\r\n")],
)
async def test_an_answer_before_the_body_is_read_reaches_a_client_that_wants_to_close(
    length: bytes, start: bytes
) -> None:
    async with serving(PATIENT) as server:
        client = await server.connect()
        client.send(b"POST /unread HTTP/1.1\r\nConnection: close\r\n%s\r\n\r\n" % length)
        client.send(start + bytes(16 * 2**20))  # more than the kernel holds
        await asyncio.wait_for(client.writer.drain(), PATIENCE_SECONDS)

        status, body, headers = await client.answer()
        assert (status, body, headers["connection"]) == (200, "/unread", "close")
        assert await client.reader.read() == b""


@pytest.mark.parametrize("piece", [2**20, 7], ids=["whole", "in pieces"])
async def test_the_offer_of_another_protocol_is_not_taken_and_costs_no_body(piece: int) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAA\r\n"
    requests = WHOLE.replace(b"Host: here\r\n", b"Host: here\r\n" + offer) * 2 + WHOLE
    async with serving(PATIENT) as server:
        client = await server.connect()
        for place in range(0, len(requests), piece):
            client.send(requests[place : place + piece])
            await asyncio.sleep(0)

        for _ in range(3):
            assert (await client.answer())[:2] == (200, "/whole 4")
        names = {name for scope in server.app.scopes for name, _ in scope["headers"]}
        assert names == {b"host", b"content-length"}
