"""`dropserve bench http`: honest figures, every failure counted, and nothing left behind."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import app.load_client
from app.api.auth import key_line, make_key
from app.bench_app import create_bench_app
from app.bench_report import (
    Conditions,
    Errors,
    Load,
    Round,
    Row,
    find_limits,
    find_ratios,
    summarise,
    to_document,
    to_text,
)
from app.cli.main import main
from app.load_client import (
    LoadClientError,
    Measurement,
    Schedule,
    Target,
    percentile,
    post,
    run_closed_loop,
    run_open_loop,
)
from app.settings import Settings
from tests.conftest import ROOT, RunningServer, ServerStarter


def run(*arguments: str) -> int:
    """The exit code of the command."""
    with pytest.raises(SystemExit) as caught:
        main(["bench", "http", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


# Percentiles


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 50, 7.0),
        ([7.0], 99, 7.0),
        ([1.0, 2.0], 50, 1.0),
        ([1.0, 2.0], 51, 2.0),
        ([1.0, 2.0, 3.0], 50, 2.0),
        ([1.0, 1.0, 1.0, 5.0], 75, 1.0),
        ([1.0, 1.0, 1.0, 5.0], 76, 5.0),
        ([float(value) for value in range(1, 101)], 95, 95.0),
        ([float(value) for value in range(1, 101)], 99, 99.0),
        ([float(value) for value in range(1, 101)], 100, 100.0),
        ([float(value) for value in range(1, 102)], 99, 100.0),
        ([float(value) for value in range(1, 201)], 99, 198.0),
    ],
)
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(
    values: list[float], percent: int, expected: float
) -> None:
    assert percentile(values, percent) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_such_value(values: list[float], percent: int) -> None:
    found = percentile(sorted(values), percent)

    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


# The schedule of the open loop


def test_requests_are_due_at_a_constant_rate() -> None:
    schedule = Schedule(rate=4.0, seconds=2.0)

    assert schedule.total == 8
    assert [schedule.time_of(number) for number in (0, 1, 7)] == [0.0, 0.25, 1.75]
    assert [schedule.due(elapsed) for elapsed in (0.0, 0.24, 0.25, 0.5, 1.74, 1.75)] == [
        1,
        1,
        2,
        3,
        7,
        8,
    ]
    # None after the end, however late the generator looks.
    assert schedule.due(100.0) == 8


def test_a_schedule_has_at_least_one_request() -> None:
    assert Schedule(rate=0.1, seconds=1.0).total == 1


@given(st.floats(0.5, 20_000), st.floats(0.1, 60), st.floats(0, 100))
def test_what_is_due_is_what_has_come(rate: float, seconds: float, elapsed: float) -> None:
    schedule = Schedule(rate, seconds)
    due = schedule.due(elapsed)

    assert schedule.time_of(due - 1) <= elapsed + 1e-9
    assert due == schedule.total or schedule.time_of(due) > elapsed - 1e-9


# The loops, against a server that does as it is told

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CLOSE = b""
Answer = bytes | asyncio.Future[bytes]


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class ScriptedServer:
    """Answers request number i as the script says; an empty answer closes the connection."""

    def __init__(self, script: Callable[[int], Answer]) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.connections = 0
        self.tasks: set[asyncio.Task[None] | None] = set()
        self.given: Counter[bytes] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                self.requests.append(head + await reader.readexactly(length))
                said = self.script(len(self.requests) - 1)
                content = said if isinstance(said, bytes) else await said
                self.given[content] += 1
                if content == CLOSE:
                    return
                writer.write(content)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(script: Callable[[int], Answer]) -> AsyncIterator[tuple[ScriptedServer, Target]]:
    scripted = ScriptedServer(script)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"
        try:
            yield scripted, post(url, [b"digit", b"another"], "image/png")
        finally:
            tasks = [task for task in scripted.tasks if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port at which nobody listens, and which nobody else gets meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


OVERLOADED = answer(429, b'{"error":{"code":"overloaded","message":"later"}}', "Retry-After: 1")
PLAIN_503 = answer(503, b"busy")
ONE_OF_EACH = (OK, OVERLOADED, PLAIN_503, CLOSE)


def counts(measurement: Measurement) -> dict[str, int]:
    answered = {outcome: len(times) for outcome, times in measurement.latencies.items()}
    return answered | dict(measurement.failures)


def test_a_request_is_what_a_server_reads() -> None:
    target = post("http://[::1]:81/base/predict/mc?passes=7", [b"\x00body", b""], "image/png")

    assert (target.host, target.port, target.is_tls) == ("::1", 81, False)
    head = (
        b"POST /base/predict/mc?passes=7 HTTP/1.1\r\nHost: [::1]:81\r\n"
        b"Content-Type: image/png\r\nContent-Length: "
    )
    assert target.requests == (head + b"5\r\n\r\n\x00body", head + b"0\r\n\r\n")
    assert post("https://digits.example", [b""], "image/png").port == 443


@pytest.mark.parametrize("url", ["ftp://here", "here:8000", "http://", "http://here:port", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(LoadClientError, match="no address such as http://"):
        post(url, [b""], "image/png")


async def test_a_closed_loop_counts_what_the_server_said() -> None:
    async with serving(lambda number: ONE_OF_EACH[number % 4]) as (scripted, target):
        measurement = await run_closed_loop(target, 2, 0.3)

    assert counts(measurement) == {
        "200": scripted.given[OK],
        "429 overloaded": scripted.given[OVERLOADED],
        "503": scripted.given[PLAIN_503],
        "connection closed": scripted.given[CLOSE],
    }
    assert min(scripted.given.values()) >= 1
    assert 0 < measurement.in_time <= scripted.given[OK]
    assert measurement.generator_share is not None
    assert 0 < measurement.generator_share <= 1.5
    assert set(scripted.requests) == set(target.requests)


async def test_an_open_loop_counts_what_the_server_said() -> None:
    async with serving(lambda number: ONE_OF_EACH[number % 4]) as (_, target):
        measurement = await run_open_loop(target, 200, 0.2, has_own_core=False)

    assert counts(measurement) == {
        "200": 10,
        "429 overloaded": 10,
        "503": 10,
        "connection closed": 10,
    }


async def test_a_closed_loop_has_as_many_requests_on_their_way_as_connections() -> None:
    on_their_way = most = 0

    def script(number: int) -> Answer:
        nonlocal on_their_way, most
        on_their_way += 1
        most = max(most, on_their_way)
        said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def say() -> None:
            nonlocal on_their_way
            on_their_way -= 1
            said.set_result(OK)

        asyncio.get_running_loop().call_later(0.01, say)
        return said

    async with serving(script) as (scripted, target):
        measurement = await run_closed_loop(target, 5, 0.2)

    assert most == 5
    assert scripted.connections == 5
    assert counts(measurement) == {"200": scripted.given[OK]}
    assert min(measurement.latencies["200"]) >= 0.009


async def test_an_answer_that_ends_the_connection_is_no_error() -> None:
    async with serving(lambda _: answer(200, b"{}", "Connection: close")) as (scripted, target):
        measurement = await run_closed_loop(target, 1, 0.1)

    assert measurement.failures == {}
    # The last connection may come after the end, and is not used.
    assert len(scripted.requests) == len(measurement.latencies["200"]) > 1
    assert scripted.connections - len(scripted.requests) in (0, 1)


async def test_a_slow_server_is_not_flattered() -> None:
    """While the server holds every answer back, requests go on being due, and wait."""
    total, rate = 30, 100

    def script(number: int) -> Answer:
        if number == total - 1:
            for one in held:
                one.set_result(OK)
            return OK
        held.append(asyncio.get_running_loop().create_future())
        return held[-1]

    held: list[asyncio.Future[bytes]] = []
    async with serving(script) as (scripted, target):
        measurement = await run_open_loop(target, rate, total / rate, has_own_core=False)

    assert scripted.connections >= total - 1
    waited = sorted(measurement.latencies["200"])
    assert len(waited) == total
    # The last one was due 0.29 s after the first.
    for number, seconds in enumerate(waited):
        assert number / rate - 1e-6 <= seconds < number / rate + 2


async def test_requests_that_wait_for_a_connection_count_from_when_they_were_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app.load_client, "_MOST_CONNECTIONS", 1)
    rate, stalled = 100, 0.2

    def script(number: int) -> Answer:
        if number > 0:
            return OK
        first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(stalled, first.set_result, OK)
        return first

    async with serving(script) as (scripted, target):
        measurement = await run_open_loop(target, rate, 0.3, has_own_core=False)

    assert scripted.connections == 1
    waited = sorted(measurement.latencies["200"], reverse=True)
    assert len(waited) == 30
    for number in range(int(stalled * rate)):
        assert waited[number] >= stalled - number / rate - 0.005


async def test_an_open_loop_keeps_to_its_times_on_a_core_of_its_own() -> None:
    async with serving(lambda _: OK) as (_, target):
        measurement = await run_open_loop(target, 100, 0.3, has_own_core=True)

    assert counts(measurement) == {"200": 30}
    assert len(measurement.lateness) == 30
    assert min(measurement.lateness) >= 0


async def test_a_closed_loop_survives_that_nobody_is_there(closed_port: int) -> None:
    target = post(f"http://127.0.0.1:{closed_port}/", [b""], "image/png")

    measurement = await run_closed_loop(target, 3, 0.2)

    assert measurement.latencies == {}
    # Each asks again every 0.05 s.
    assert 3 <= measurement.failures.pop("connection refused") <= 15
    assert measurement.failures == {}


async def test_an_open_loop_survives_that_nobody_is_there(closed_port: int) -> None:
    target = post(f"http://127.0.0.1:{closed_port}/", [b""], "image/png")

    measurement = await run_open_loop(target, 100, 0.2, has_own_core=False)

    assert counts(measurement) == {"connection refused": 20}


async def test_requests_that_are_never_answered_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app.load_client, "DRAIN_SECONDS", 0.1)

    def never(number: int) -> Answer:
        return asyncio.get_running_loop().create_future()

    async with serving(never) as (_, target):
        closed = await run_closed_loop(target, 3, 0.1)
        opened = await run_open_loop(target, 50, 0.1, has_own_core=False)

    assert counts(closed) == {"no answer": 3}
    assert counts(opened) == {"no answer": 5}


async def test_late_answers_have_a_latency_and_no_part_in_the_rate() -> None:
    def script(number: int) -> Answer:
        said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.3, said.set_result, OK)
        return said

    async with serving(script) as (_, target):
        measurement = await run_closed_loop(target, 4, 0.1)

    assert counts(measurement) == {"200": 4}
    assert measurement.in_time == 0
    assert min(measurement.latencies["200"]) >= 0.29


async def test_what_is_not_http_is_counted() -> None:
    async with serving(lambda _: b"SSH-2.0-digits\r\n") as (_, target):
        measurement = await run_closed_loop(target, 1, 0.1)

    assert set(counts(measurement)) == {"not HTTP"}


async def test_the_constant_reads_the_body_and_answers_what_it_was_given() -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_bench_app(Settings())), base_url="http://bench"
    ) as client:
        await client.put("/constant", content=b'{"digit":7}')
        for body in (b"", bytes(100_000)):
            response = await client.post("/constant", content=body)
            assert (response.status_code, response.content) == (200, b'{"digit":7}')
            assert response.headers["content-type"] == "application/json"


async def test_the_constant_is_no_part_of_the_product(client: httpx.AsyncClient) -> None:
    assert (await client.post("/constant")).status_code == 404


# From measurements to figures


def seconds(*milliseconds: float) -> "array[float]":
    return array("d", (value / 1e3 for value in milliseconds))


def test_a_round_has_the_latencies_of_its_successes_and_its_errors_by_code() -> None:
    measurement = Measurement(
        seconds=2.0,
        in_time=3,
        latencies={"200": seconds(*range(20, 0, -1)), "429 overloaded": seconds(9, 8)},
        failures=Counter({"connection closed": 5}),
        lateness=seconds(0.5, 0.25),
    )

    one = summarise(measurement)

    assert one.requests_per_second == 1.5
    assert (one.p50_ms, one.p95_ms, one.p99_ms) == pytest.approx((10, 19, 20))
    assert one.errors.keys() == {"429 overloaded", "connection closed"}
    assert one.errors["429 overloaded"].count == 2
    assert one.errors["429 overloaded"].p99_ms == pytest.approx(9)
    assert one.errors["connection closed"] == Errors(5, None)
    assert one.lateness_p99_ms == pytest.approx(0.5)


def test_a_round_without_successes_has_no_latencies() -> None:
    one = summarise(Measurement(seconds=1.0, latencies={"500 internal": seconds(1)}))

    assert (one.requests_per_second, one.p50_ms, one.p99_ms) == (0, None, None)


def a_round(rate: float, p99_ms: float | None = 1.0, **errors: Errors) -> Round:
    return Round(
        requests_per_second=rate,
        p50_ms=p99_ms,
        p95_ms=p99_ms,
        p99_ms=p99_ms,
        errors={name.replace("_", " "): error for name, error in errors.items()},
        generator_share=None,
        lateness_p99_ms=None,
    )


def test_ratios_are_medians_of_the_rounds_own_ratios() -> None:
    rows = [
        Row("constant", Load(connections=16), [a_round(100), a_round(1000), a_round(400)]),
        Row("predict", Load(connections=16), [a_round(90), a_round(500), a_round(240)]),
        Row("constant", Load(rate=50), [a_round(50)]),
        Row("predict", Load(rate=50), [a_round(50)]),
    ]

    (ratio,) = find_ratios(rows)

    # Not 240 / 400, the ratio of the medians, nor anything of the open loop.
    assert (ratio.name, ratio.connections) == ("predict/constant", 16)
    assert ratio.rounds == [0.9, 0.5, 0.6]
    assert ratio.median == 0.6


def test_all_ratios_are_found_and_none_with_nothing_below() -> None:
    loads = {Load(connections=1): (8.0, 4.0, 2.0), Load(connections=2): (0.0, 4.0, 0.0)}
    rows = [
        Row(name, load, [a_round(rate)])
        for load, rates in loads.items()
        for name, rate in zip(("constant", "predict", "mc"), rates, strict=True)
    ]

    found = {(ratio.name, ratio.connections): ratio.median for ratio in find_ratios(rows)}

    assert found == {
        ("predict/constant", 1): 0.5,
        ("mc/predict", 1): 0.5,
        ("constant/mc", 1): 4.0,
        ("mc/predict", 2): 0.0,
    }


def test_figures_are_medians_and_errors_are_summed_over_the_rounds() -> None:
    row = Row(
        "mc",
        Load(connections=4),
        [
            a_round(10, 3.0, overloaded=Errors(2, 5.0)),
            a_round(30, None, overloaded=Errors(1, 7.0), connection_closed=Errors(9, None)),
            a_round(20, 1.0),
        ],
    )

    assert row.middle("requests_per_second") == 20
    assert row.middle("p99_ms") == 2.0
    assert row.middle("generator_share") is None
    assert list(row.errors().items()) == [
        ("connection closed", Errors(9, None)),
        ("overloaded", Errors(3, 7.0)),
    ]


CONDITIONS = Conditions(
    machine="a machine",
    server_core=0,
    generator_core=1,
    is_own_server=True,
    image_bytes=(253,),
    passes=50,
    seconds=5.0,
    rounds=2,
)


def test_the_table_shows_what_was_found() -> None:
    rows = [
        Row("constant", Load(connections=1), [a_round(4000, 0.5), a_round(2000, 1.5)]),
        Row("predict", Load(connections=1), [a_round(1000, 2), a_round(1500, 2)]),
        Row("mc", Load(rate=12.5), [a_round(0, None, overloaded=Errors(3, 1.25))]),
    ]

    text = to_text(CONDITIONS, rows)

    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "pinned: server to core 0, load generator to core 1" in lines
    assert "constant 1 connection 3,000.0 1.00 1.00 1.00 none" in lines
    assert "mc 12.5 a second 0.0 - - - overloaded x 3 (p99 1.25 ms)" in lines
    assert "predict/constant 1 connection 0.500 (0.250-0.750)" in lines


def test_the_document_is_json_and_holds_every_round() -> None:
    rows = [Row("mc", Load(rate=5.0), [a_round(5, 1.0), a_round(4, None, gone=Errors(1, None))])]

    document = json.loads(json.dumps(to_document(CONDITIONS, rows), allow_nan=False))

    (result,) = document["results"]
    assert (result["target"], result["connections"], result["rate"]) == ("mc", None, 5.0)
    assert (result["requests_per_second"], result["p99_ms"]) == (4.5, 1.0)
    assert result["errors"] == {"gone": {"count": 1, "p99_ms": None}}
    assert [one["requests_per_second"] for one in result["rounds"]] == [5, 4]
    assert document["ratios"] == []
    assert document["server_core"] == 0


def test_it_says_where_the_generator_may_have_been_the_slower_one() -> None:
    fast, busy, late = (
        Round(1.0, 1.0, 1.0, 1.0, {}, generator_share=share, lateness_p99_ms=lateness)
        for share, lateness in ((0.2, None), (0.95, None), (None, 8.0))
    )
    rows = [Row("predict", Load(connections=16), [one]) for one in (fast, busy, late)]

    busy_line, late_line = find_limits(rows)

    assert "busy 95% of the time" in busy_line
    assert "8.0 ms late" in late_line


# The command


def test_an_address_where_nobody_answers_is_one_line(
    closed_port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("--url", f"http://127.0.0.1:{closed_port}") == 1

    assert_one_line(capfd, f"http://127.0.0.1:{closed_port}/predict does not answer")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--url", "here"], 2, "no address"),
        (["--url", "http://127.0.0.1:1", "--targets", "constant"], 2, "leave it out"),
        (["--image", "nowhere.png"], 1, "cannot read nowhere.png"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: list[str], code: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == code

    assert_one_line(capfd, words)


def assert_one_line(capfd: pytest.CaptureFixture[str], words: str) -> None:
    output, errors = capfd.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("dropserve: ")
    assert words in line


@pytest.mark.parametrize(
    "arguments",
    [["--connections", "0"], ["--duration", "nan"], ["--rate", "-1"], ["--rounds", "x"]],
)
def test_impossible_numbers_are_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_help_needs_neither_torch_nor_uvicorn() -> None:
    script = (
        "import sys\n"
        "from app.cli.main import main\n"
        "try:\n"
        "    main(['bench', 'http', '--help'])\n"
        "except SystemExit:\n"
        "    print([name for name in ('torch', 'uvicorn', 'numpy') if name in sys.modules])\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert finished.stdout.splitlines()[-1] == "[]"
    for option in ("url", "targets", "connections", "rate", "duration", "rounds", "passes", "json"):
        assert f"--{option} " in finished.stdout


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "app", "bench", "http", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_it_measures_servers_of_its_own() -> None:
    process = start("--duration", "1", "--rounds", "1", "--connections", "4", "--json")
    output, errors = process.communicate(timeout=120)

    assert process.returncode == 0, errors
    document = json.loads(output)
    assert [result["target"] for result in document["results"]] == ["constant", "predict", "mc"]
    for result in document["results"]:
        assert result["connections"] == 4
        assert result["errors"] == {}
        assert result["requests_per_second"] > 1
        assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["p99_ms"] < 5000
    assert [ratio["name"] for ratio in document["ratios"]] == [
        "predict/constant",
        "mc/predict",
        "constant/mc",
    ]
    assert "round 1 of 1, mc, 4 connections" in errors


@pytest.fixture(scope="module")
def server(servers: ServerStarter) -> RunningServer:
    return servers.start("--max-passes", "60")


@pytest.mark.slow
def test_it_measures_a_server_that_is_there(server: RunningServer) -> None:
    arguments = ("--url", f"{server.address}/", "--duration", "1", "--rounds", "1", "--rate", "20")
    process = start(*arguments, "--json")
    output, errors = process.communicate(timeout=120)

    assert process.returncode == 0, errors
    document = json.loads(output)
    assert document["is_own_server"] is False
    assert document["server_core"] is None
    assert document["ratios"] == []
    for name, result in zip(("predict", "mc"), document["results"], strict=True):
        assert (result["target"], result["rate"], result["connections"]) == (name, 20, None)
        assert result["errors"] == {}
        assert 15 <= result["requests_per_second"] <= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--passes", "61"], "/predict/mc?passes=61 answers 422: passes must be"),
        (["--image", __file__], "/predict answers 415: "),
    ],
)
def test_what_the_server_refuses_is_not_measured(
    server: RunningServer,
    arguments: list[str],
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run("--url", server.address, *arguments) == 1

    assert_one_line(capfd, words)


@pytest.mark.slow
def test_a_server_with_keys_is_measured_by_who_has_one(
    servers: ServerStarter,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = make_key()
    keys = tmp_path / "keys"
    keys.write_text(key_line(key, "bench") + "\n")
    server = servers.start("--api-keys-file", str(keys))
    arguments = ["--url", server.address, "--targets", "predict", "--duration", "0.5"]
    arguments += ["--rounds", "1", "--rate", "20"]

    assert run(*arguments) == 1
    assert_one_line(capfd, "/predict answers 401: this server wants an API key")
    assert run(*arguments, "--api-key", key) == 0
    assert run(*arguments, "--api-key", f"{key}\n") == 2
    assert key not in capfd.readouterr().err
    monkeypatch.setenv("DROPSERVE_API_KEY", key)
    assert run(*arguments) == 0


def children(process: "subprocess.Popen[str]") -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(number) for number in text.split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for its servers in /proc")
@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_it_ends_with_all_that_it_started(how: signal.Signals, code: int) -> None:
    with start("--duration", "60", "--connections", "1") as process:
        try:
            assert process.stderr is not None
            said = ""
            while "round 1 of 3" not in said:
                character = process.stderr.read(1)
                assert character, said
                said += character
            started = children(process)
            assert len(started) == 1

            process.send_signal(how)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()

    assert (process.returncode, output) == (code, "")
    assert "Traceback" not in errors
    for number in started:
        assert not Path(f"/proc/{number}").exists()
