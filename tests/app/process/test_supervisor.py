"""The supervisor with workers that are no processes: replaced, reloaded, ended."""

import multiprocessing.connection
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from app.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from app.inference.catalogue import read_catalogue
from app.process.signals import SIGHUP
from app.process.supervisor import Change, Supervisor
from app.settings import Settings, SettingsError
from app.telemetry.metrics import MetricsRow
from model.checkpoint import Checkpoint, save_checkpoint

pytestmark = pytest.mark.skipif(SIGHUP is None, reason="there is no SIGHUP")

Step = Callable[[], object]


class Process:
    """Stands for a process."""

    pid, exitcode, sentinel = 1, -9, 0

    def __init__(self) -> None:
        self.lives = True
        self.was_killed = False

    def is_alive(self) -> bool:
        return self.lives

    def kill(self) -> None:
        self.was_killed |= self.lives
        self.lives = False

    def join(self) -> None:
        assert not self.lives


class Worker:
    """Stands for a worker that serves at once, and ends at any signal but SIGHUP."""

    def __init__(self, row: MetricsRow | None, catalogue: Path) -> None:
        (file,) = read_catalogue(catalogue).files
        self.checkpoint = file.path.read_bytes()
        self.asked: list[Change] = []
        self.serving = None  # it says nothing
        self.row = row
        self.process = Process()
        self.signals: list[int] = []
        self.serves = True
        self.is_stuck = False

    def send(self, sig: int) -> None:
        self.signals.append(sig)
        self.process.lives &= sig == SIGHUP or self.is_stuck

    def has_served(self) -> bool:
        return self.serves


class Workers:
    """Starts workers, and runs the steps of a test, one each time that the supervisor waits."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started: list[Worker] = []
        self.announced = 0
        self.can_start = True
        self.steps: list[Step] = []

    def start(self, settings: Settings, row: MetricsRow | None, catalogue: Path) -> Worker:
        worker = Worker(row, catalogue)
        worker.serves = worker.process.lives = self.can_start
        self.started.append(worker)
        return worker

    def announce(self) -> None:
        self.announced += 1

    def wait(self, sentinels: list[int], seconds: float) -> None:
        self.steps.pop(0)()

    def run(self, *steps: Step) -> int:
        """The supervisor's exit code."""
        self.steps = list(steps)
        with socket.create_server(("127.0.0.1", 0)) as self.listener:
            start, announce = self.start, self.announce
            listeners = [self.listener]
            return Supervisor(start, self.settings, listeners, announce).run()  # type: ignore[arg-type]

    def end(self, number: int) -> None:
        self.started[number].process.lives = False


@pytest.fixture
def served(default_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "served.safetensors"
    save_checkpoint(path, default_checkpoint)
    return path


@pytest.fixture
def workers(served: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(sig, signal.getsignal(sig)) for sig in handled]
    workers = Workers(Settings(workers=2, checkpoint=served))
    # Patched and not passed in: it stands for the time that passes.
    monkeypatch.setattr(multiprocessing.connection, "wait", workers.wait)
    yield workers
    for sig, handler in before:
        signal.signal(sig, handler)


def raising(sig: int) -> Step:
    return lambda: signal.raise_signal(sig)


def nothing() -> None:
    """A step in which nothing happens."""


@pytest.mark.parametrize(
    ("sig", "code"), [(signal.SIGTERM, EXIT_OK), (signal.SIGINT, EXIT_INTERRUPTED)]
)
def test_a_signal_ends_all_workers(workers: Workers, sig: int, code: int) -> None:
    assert workers.run(nothing, raising(sig)) == code

    assert [worker.signals for worker in workers.started] == [[sig], [sig]]
    assert workers.announced == 1
    assert not any(worker.process.was_killed for worker in workers.started)


def test_a_signal_before_anyone_has_served_ends_the_workers_at_once(workers: Workers) -> None:
    def begin_slowly() -> None:
        for worker in workers.started:
            worker.serves, worker.is_stuck = False, True
        signal.raise_signal(signal.SIGTERM)

    assert workers.run(begin_slowly) == EXIT_OK

    assert all(worker.process.was_killed for worker in workers.started)


def test_without_a_folder_for_temporary_files_one_line_says_what_to_do(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    with pytest.raises(SettingsError, match=r"No such file.*TMPDIR.*--workers 1") as caught:
        workers.run()

    assert len(str(caught.value).splitlines()) == 1
    assert workers.started == []


def test_a_second_signal_reaches_the_workers(workers: Workers) -> None:
    def keep_one() -> None:
        workers.started[0].is_stuck = True
        signal.raise_signal(signal.SIGTERM)

    def end_it() -> None:
        workers.started[0].is_stuck = False
        signal.raise_signal(signal.SIGINT)

    assert workers.run(keep_one, end_it) == EXIT_OK
    assert workers.started[0].signals == [signal.SIGTERM, signal.SIGINT]


def test_while_workers_end_the_supervisor_keeps_no_listener_of_theirs(workers: Workers) -> None:
    # With it the kernel would go on to connect clients, whom nobody accepts.
    def keep_one() -> None:
        assert workers.listener.fileno() >= 0
        workers.started[0].is_stuck = True
        signal.raise_signal(signal.SIGTERM)

    def end_it() -> None:
        assert workers.listener.fileno() == -1
        workers.end(0)

    assert workers.run(keep_one, end_it) == EXIT_OK


def test_a_worker_that_does_not_end_is_killed(workers: Workers) -> None:
    def hold_both() -> None:
        for worker in workers.started:
            worker.is_stuck = True
        signal.raise_signal(signal.SIGTERM)

    workers.settings = workers.settings.model_copy(update={"drain_seconds": -10.0})  # is over

    assert workers.run(hold_both) == EXIT_OK
    assert all(worker.process.was_killed for worker in workers.started)


def test_a_dead_worker_is_replaced_and_counted_on(workers: Workers, served: Path) -> None:
    content = served.read_bytes()

    def damage_and_end() -> None:
        served.write_bytes(b"no checkpoint")
        workers.end(1)

    assert workers.run(nothing, damage_and_end, nothing, raising(signal.SIGTERM)) == EXIT_OK

    first, second, replacement = workers.started
    assert replacement.row is second.row
    assert first.row is not second.row
    # Whatever has become of the file, it serves what the others serve.
    assert replacement.checkpoint == content
    assert workers.announced == 1


def test_workers_that_cannot_start_end_the_server(workers: Workers) -> None:
    workers.can_start = False

    assert workers.run(nothing) == EXIT_FAILED
    assert workers.announced == 0


def test_a_replacement_that_cannot_start_is_tried_again_only_after_a_pause(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_for_long() -> None:
        workers.can_start = False
        workers.end(0)

    def let_start() -> None:
        assert len(workers.started) == 3
        workers.can_start = True

    def look_later() -> None:
        assert len(workers.started) == 3
        monkeypatch.setattr("time.monotonic", lambda: float("inf"))

    steps = [nothing, end_for_long, let_start, look_later, raising(signal.SIGTERM)]
    assert workers.run(*steps) == EXIT_OK
    assert len(workers.started) == 4


def test_a_reload_reaches_all_workers_and_replacements_serve_it(
    workers: Workers, served: Path, default_checkpoint: Checkpoint
) -> None:
    def replace_checkpoint() -> None:
        save_checkpoint(served, replace(default_checkpoint, metrics={"reload": 1}))
        signal.raise_signal(signal.SIGHUP)

    end_one = partial(workers.end, 0)
    assert workers.run(replace_checkpoint, end_one, raising(signal.SIGTERM)) == EXIT_OK

    assert [one.signals[0] for one in workers.started] == [SIGHUP, SIGHUP, signal.SIGTERM]
    assert workers.started[2].checkpoint == served.read_bytes()


def remove(served: Path) -> None:
    served.unlink()


def damage(served: Path) -> None:
    served.write_bytes(b"no checkpoint")


def make_a_pipe(served: Path) -> None:
    served.unlink()
    os.mkfifo(served)


def make_it_endless(served: Path) -> None:
    served.unlink()
    served.symlink_to("/dev/zero")


@pytest.mark.parametrize("spoil", [remove, damage, make_a_pipe, make_it_endless])
def test_a_file_that_cannot_be_served_changes_nothing(
    workers: Workers,
    served: Path,
    spoil: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def reload() -> None:
        spoil(served)
        signal.raise_signal(signal.SIGHUP)

    assert workers.run(reload, raising(signal.SIGTERM)) == EXIT_OK

    assert [worker.signals for worker in workers.started] == [[signal.SIGTERM]] * 2
    assert "the checkpoint is not reloaded, the one before serves on: " in caplog.text
