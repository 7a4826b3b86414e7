"""The life of a server: it drains, replaces a killed worker, and reloads; nobody is let down."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvloop

from tests.conftest import ServerStarter, assert_error, interruptible, sample
from tests.load import life_cycle
from tests.load.life_cycle import Kill, Versions
from tests.load.processes import children_of
from tests.load.servers import Server, serving
from tests.load.steady_load import steady_load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

PATIENCE_SECONDS = 60.0
DRAIN_SECONDS = {"DROPSERVE_DRAIN_SECONDS": "60"}


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return life_cycle.two_versions(tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the supervisor of `two_workers` keeps its files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def two_workers(versions: Versions, temporary: Path) -> Iterator[Server]:
    checkpoint = ("--checkpoint", str(versions.served))
    environ = life_cycle.QUIET | {"TMPDIR": str(temporary)}
    with serving("--workers", "2", *checkpoint, environ=environ) as server:
        yield server


def test_a_draining_server_serves_on_and_says_that_it_goes(servers: ServerStarter) -> None:
    server = servers.start(environ=DRAIN_SECONDS)
    with httpx.Client(base_url=server.address, timeout=30) as http:
        assert http.get("/health/ready").is_success  # nobody drains what nobody knows
        server.process.terminate()
        deadline = time.monotonic() + 30
        while (ready := http.get("/health/ready")).is_success:
            assert time.monotonic() < deadline
        assert_error(ready, 503, "not_ready")
        assert http.get("/v2/health/ready").status_code == 503
        assert http.get("/health/live").status_code == 200
        answer = http.post("/predict", content=sample("7.png"))

    assert (answer.status_code, answer.json()["digit"]) == (200, 7)
    assert answer.headers["connection"] == "close"
    # The second signal does not wait for the minute to be over.
    code, errors = server.stop(signal.SIGTERM, within_seconds=30)
    assert code == 0
    assert "Traceback" not in errors


def test_nobody_who_is_connected_is_left_without_an_answer() -> None:
    (end,) = life_cycle.end_servers(1)

    assert end.answered > 0
    assert (end.cut_off, end.code) == (0, 0)


def test_a_reload_under_load_fails_nobody_and_a_damaged_file_changes_nothing(
    two_workers: Server, versions: Versions
) -> None:
    reloads = uvloop.run(life_cycle.reload(two_workers, 3, versions))

    assert reloads.answered > 0
    assert (reloads.taken, reloads.refused) == (2, 1)
    assert (reloads.failed, reloads.wrong) == (0, 0)


def test_a_killed_worker_takes_only_its_own_requests_along(two_workers: Server) -> None:
    async def kill() -> Kill:
        async with steady_load(two_workers.address, 8) as seen:
            await asyncio.sleep(0.5)
            return await life_cycle.kill_one(two_workers, seen)

    assert uvloop.run(kill()).foreign == 0


def test_a_replacement_serves_what_is_served_whatever_has_become_of_the_file(
    two_workers: Server, versions: Versions
) -> None:
    # Nobody reads this file again: a worker that starts reads the copy.
    versions.served.write_bytes(b"no checkpoint")

    async def kill() -> tuple[Kill, set[str]]:
        async with steady_load(two_workers.address, 8) as seen:
            await asyncio.sleep(0.5)
            killed = await life_cycle.kill_one(two_workers, seen)
            return killed, {answer.version for answer in seen.answers}

    killed, served = uvloop.run(kill())

    assert killed.foreign == 0
    assert len(served) == 1
    assert served <= set(versions.names)


def test_while_replacements_die_as_they_start_the_other_worker_serves(
    two_workers: Server, temporary: Path
) -> None:
    (catalogue,) = temporary.glob("dropserve-*/served.json")
    aside = catalogue.rename(temporary / "aside")
    victim, survivor = life_cycle.workers_of(two_workers.pid)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: two_workers.log.read_text().count(" as it started") >= 2)
    with httpx.Client(base_url=two_workers.address, trust_env=False) as http:
        assert http.post("/predict", content=sample("7.png")).json()["digit"] == 7

    aside.rename(catalogue)

    wait_for(lambda: asyncio.run(life_cycle.has_answered(two_workers, {survivor})))
    assert survivor in life_cycle.workers_of(two_workers.pid)


def test_workers_end_when_their_supervisor_is_killed() -> None:
    with serving("--workers", "2", environ=life_cycle.QUIET) as server:
        forking = children_of(server.pid)
        workers = life_cycle.workers_of(server.pid)
        assert len(workers) == 2
        server.process.kill()
        server.process.wait(30)

        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in [*forking, *workers]))
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.address, trust_env=False)
        assert "Traceback" not in server.log.read_text()


def test_workers_end_with_ctrl_c_and_leave_nothing_behind() -> None:
    with interruptible(), serving("--workers", "2", environ=life_cycle.QUIET) as server:
        workers = life_cycle.workers_of(server.process.pid)
        assert len(workers) == 2
        server.process.send_signal(signal.SIGINT)

        assert server.process.wait(30) == 130
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
