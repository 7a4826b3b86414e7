"""What several test files share: the application, its error shape, real servers, MNIST."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.without_torch import WithoutTorch

# What a test needs is imported by what it uses here, and nothing else: PyTorch and FastAPI take
# seconds, which the tests of files that need neither would pay.
if TYPE_CHECKING:
    import httpx
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from model.checkpoint import Checkpoint

ROOT = Path(__file__).parents[1]
SAMPLES = Path(__file__).parent / "samples"
OURS = (sys.executable, "-m", "app")


def pytest_configure(config: pytest.Config) -> None:
    if find_spec("torch") is None:
        config.pluginmanager.register(WithoutTorch())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One event loop for all: the application lives in the loop in which it was started."""
    in_session_loop = pytest.mark.asyncio(loop_scope="session")
    for item in items:
        if pytest_asyncio.is_async_test(item):
            item.add_marker(in_session_loop, append=False)
    if hasattr(config, "workerinput"):
        # Two processes take one file after the other. What is quick comes last, so that neither
        # waits long for the other.
        slow = Counter(file_of(item) for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[file_of(item)])


def file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture
def cores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For a test that keeps processes on single cores: two would measure each other."""
    import fcntl

    # Above the folders of xdist's workers.
    with Path(tmp_path_factory.getbasetemp().parent, "cores").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Functions are compiled as in a server, which takes seconds only once."""
    if "model.compiling" in sys.modules:  # not for tests that call nothing compiled
        from model.compiling import compile_all

        compile_all()


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Of torch; more only wait for each other on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def default_checkpoint() -> "Checkpoint":
    from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint

    return load_checkpoint(DEFAULT_CHECKPOINT)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def app(default_checkpoint: "Checkpoint") -> "AsyncIterator[FastAPI]":
    """The application with default settings, started."""
    from app.api.application import create_app
    from app.settings import Settings

    application = create_app(Settings(), default_checkpoint)
    async with application.router.lifespan_context(application):
        yield application


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(app: "FastAPI") -> "AsyncIterator[httpx.AsyncClient]":
    async with connect(app) as connected:
        yield connected


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """Where MNIST's files are."""
    from training.data import DATA_DIR_VARIABLE

    mnist = find_mnist()
    if not any(mnist.glob("t10k-images-idx3-ubyte*")):
        pytest.skip(f"no MNIST in {mnist}; name a folder that has it in {DATA_DIR_VARIABLE}")
    return mnist


def find_mnist() -> Path:
    """The folder of DROPSERVE_DATA_DIR or ../shared/data, or its subfolder for MNIST."""
    from training.data import DATA_DIR_VARIABLE, find_folder

    return find_folder(Path(os.environ.get(DATA_DIR_VARIABLE) or ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class RunningServer:
    """A server in a process of its own, which has said that it is ready.

    Attributes:
        address: `http://...`, from what it printed.
        curl: the command line that it printed.
    """

    process: subprocess.Popen[str]
    address: str
    curl: str

    def stop(self, how: signal.Signals, *, within_seconds: float) -> tuple[int, str]:
        """Sends a signal; returns the exit code and what else was printed on standard error."""
        self.process.send_signal(how)
        output, errors = self.process.communicate(timeout=within_seconds)
        assert output == ""
        return self.process.returncode, errors


@contextmanager
def interruptible() -> Iterator[None]:
    """Processes that are started here can be ended with Ctrl-C.

    A shell that runs the tests in the background lets it be ignored, which is inherited.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class ServerStarter:
    """Starts servers on free ports and ends them all."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def start(
        self,
        *options: str,
        folder: Path = ROOT,
        environ: Mapping[str, str] | None = None,
        program: Sequence[str] = OURS,
    ) -> RunningServer:
        """Starts a server and waits until it can be reached.

        Args:
            options: of `serve`, except the port.
            program: the command line before `serve`.
            folder: the working directory; ours comes from the repository otherwise.
            environ: variables added to those of this process, without its settings.
        """
        process = self.open(
            "--port", "0", *options, folder=folder, environ=environ, program=program
        )
        watchdog = threading.Timer(_STARTING_SECONDS, process.kill)
        watchdog.start()
        printed: list[str] = []
        assert process.stderr is not None
        try:
            for line in process.stderr:
                printed.append(line)
                if "curl" in line:
                    break
        finally:
            watchdog.cancel()
        text = "".join(printed)
        assert "curl" in text, f"the server did not start:\n{text}"
        (docs,) = [word for word in text.split() if word.endswith("/docs")]
        return RunningServer(process, docs.removesuffix("/docs"), printed[-1].strip())

    def open(
        self,
        *options: str,
        folder: Path = ROOT,
        environ: Mapping[str, str] | None = None,
        program: Sequence[str] = OURS,
    ) -> subprocess.Popen[str]:
        """Starts `serve` without waiting for anything."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("DROPSERVE_")
        }
        with interruptible():
            process = subprocess.Popen(
                [*program, "serve", *options],
                cwd=folder,
                env={**inherited, **_TEST_SETTINGS, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._processes.append(process)
        return process

    def end_all(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            if not process.stdout or process.stdout.closed:
                continue
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


_TEST_SETTINGS = {
    "DROPSERVE_DRAIN_SECONDS": "0",  # no load balancer watches these servers
    "DROPSERVE_LOG_FORMAT": "console",  # their hint on the screen is read
    "DROPSERVE_ACCESS_LOG": "off",  # but not everything that they would write
}
# A start takes a second or two, and more on a busy machine.
_STARTING_SECONDS = 60.0


@pytest.fixture(scope="module")
def servers() -> Iterator[ServerStarter]:
    starter = ServerStarter()
    yield starter
    starter.end_all()


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """One server with default settings for all tests that neither change nor stop it."""
    starter = ServerStarter()
    try:
        yield starter.start()
    finally:
        starter.end_all()


def connect(app: "ASGIApp") -> "httpx.AsyncClient":
    """A client of a started application, without a network between them."""
    import httpx

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://dropserve")


def sample(name: str) -> bytes:
    """A committed picture, such as `7.png`: an encoded file."""
    return (SAMPLES / name).read_bytes()


def assert_error(response: "httpx.Response", status: int, code: str) -> dict[str, Any]:
    """Asserts that an answer is the one error shape, and returns the error itself."""
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"code", "message", "param", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    assert isinstance(error["message"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    _assert_no_echo(response)
    return error


def _assert_no_echo(response: "httpx.Response") -> None:
    """Nothing that was sent comes back, but for the names and values that messages explain."""
    from app.schemas import McParameters

    # The server's own id may have any digits in it.
    text = response.text.replace(response.headers["x-request-id"], "")
    for word in (*McParameters.model_fields, *_EXPLAINED):
        text = text.replace(word, "")
    request = response.request
    sent = [request.content[:1000].decode("latin-1")]
    for pair in request.url.params.multi_items():
        sent.extend(pair)
    # One or two characters are in every text.
    assert [one for one in sent if len(one) > 2 and one in text] == []


_EXPLAINED = ("image", "pixels", "file", "inputs", "auto", "none", "true", "false", "null")
