"""The servers of the comparison: how each is installed, started and sent requests."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from app.api.examples import example_digits, example_pngs
from model.checkpoint import DEFAULT_CHECKPOINT
from tests.load.servers import OURS, ROOT, free_port, without_settings

FOLDER = Path(__file__).parent
TASKS = ("predict", "loop", "expanded")
# Installed for every peer, in addition to the server itself.
_COMMON = (
    *("torch==2.13.0", "numpy>=2.2,<3", "pillow>=13,<14", "safetensors>=0.8,<1"),
    *("uvicorn>=0.54,<1", "uvloop>=0.23,<1", "httptools>=0.9,<1"),
)
# Digits of 28x28 pixels: with larger ones the decoding of PNG would be measured.
_PNGS = tuple(example_pngs())
_PIXELS: list[list[int]] = [digit.ravel().tolist() for digit in example_digits()]


@dataclass(frozen=True)
class Batching:
    """A peer's own batching: the largest batch, and the longest time it waits for requests."""

    most: int = 1
    wait_seconds: float = 0.0

    def __str__(self) -> str:
        return "off" if self.most == 1 else f"{self.most}, {self.wait_seconds * 1000:g} ms"


OFF = Batching()


@dataclass(frozen=True)
class Request:
    """Bodies to send in turn."""

    path: str
    bodies: tuple[bytes, ...]
    content_type: str = "application/json"


@dataclass(frozen=True)
class Peer:
    """One of the other servers.

    Attributes:
        name: and version, as in its requirement.
        request: in the form that the server's own examples send.
        command: of a server, from its Python, its port and a folder to write to.
        tuned: the fastest settings of its own batching; None: it has none.
        candidates: settings that `--tune` tries.
    """

    name: str
    requirement: str
    request: Request
    command: Callable[[Path, int, Path], list[str]]
    tuned: Batching | None = None
    candidates: tuple[Batching, ...] = ()


def _json(documents: Iterable[object]) -> tuple[bytes, ...]:
    return tuple(json.dumps(each, separators=(",", ":")).encode() for each in documents)


def _script(name: str) -> Callable[[Path, int, Path], list[str]]:
    return lambda python, port, folder: [str(python), str(FOLDER / name)]


def _start_bentoml(python: Path, port: int, folder: Path) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(folder)]
    return [
        str(python),
        "-m",
        "bentoml",
        "serve",
        "--quiet",
        *options,
        "tests.load.peers.serve_bentoml:Service",
    ]


def _start_mlserver(python: Path, port: int, folder: Path) -> list[str]:
    # In its own process: on one core, parallel workers would only compete with it.
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
        "metrics_dir": str(folder / "metrics"),
    }
    model = {"name": "digits", "implementation": "tests.load.peers.serve_mlserver.DigitsModel"}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(python.with_name("mlserver")), "start", str(folder)]


PEERS = (
    Peer(
        "FastAPI",
        "fastapi==0.165.0",
        Request("/predict", _PNGS, "image/png"),
        _script("serve_fastapi.py"),
    ),
    Peer(
        "LitServe",
        "litserve==0.2.19",
        Request("/predict", _json({"image": base64.b64encode(png).decode()} for png in _PNGS)),
        _script("serve_litserve.py"),
        tuned=Batching(64, 0.001),
        candidates=tuple(Batching(m, w) for m in (8, 16, 64) for w in (0.0, 0.001, 0.005)),
    ),
    Peer(
        "BentoML",
        "bentoml==1.4.40",
        Request("/predict", _json({"pixels": [pixels]} for pixels in _PIXELS)),
        _start_bentoml,
        tuned=Batching(64, 1.0),
        candidates=tuple(Batching(m, w) for m in (16, 64) for w in (0.02, 0.1, 1.0)),
    ),
    Peer(
        "MLServer",
        "mlserver==1.7.1",
        Request(
            "/v2/models/digits/infer",
            _json(
                {
                    "inputs": [
                        {
                            "name": "pixels",
                            "shape": [1, 784],
                            "datatype": "UINT8",
                            "data": pixels,
                        }
                    ]
                }
                for pixels in _PIXELS
            ),
        ),
        _start_mlserver,
        tuned=Batching(16, 0.02),
        candidates=tuple(Batching(m, w) for m in (8, 16, 64) for w in (0.001, 0.005, 0.02)),
    ),
)
OURS_REQUESTS = {
    "predict": Request("/predict", _PNGS, "image/png"),
    "mc": Request("/predict/mc?passes={passes}", _PNGS, "image/png"),
}


def peer_environment(task: str, passes: int, batching: Batching, port: int) -> dict[str, str]:
    """The environment of a peer's server."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PYTHONPATH": str(ROOT),
        "PEER_TASK": task,
        "PEER_PASSES": str(passes),
        "PEER_BATCH": str(batching.most),
        "PEER_WAIT_SECONDS": str(batching.wait_seconds),
        "PEER_PORT": str(port),
        "PEER_CHECKPOINT": str(DEFAULT_CHECKPOINT),
        "BENTOML_DO_NOT_TRACK": "True",
        # MLServer's own variables of its batching.
        **(
            {
                "MLSERVER_MODEL_MAX_BATCH_SIZE": str(batching.most),
                "MLSERVER_MODEL_MAX_BATCH_TIME": str(batching.wait_seconds),
            }
            if batching.most > 1
            else {}
        ),
    }


def our_command(port: int) -> list[str]:
    """Our server with default settings."""
    return [*OURS, "serve", "--port", str(port)]


def our_environment() -> dict[str, str]:
    """No settings, and this repository first on the path."""
    return {**without_settings(), "PYTHONPATH": str(ROOT), "DROPSERVE_DRAIN_SECONDS": "0"}


def install(peer: Peer) -> Path:
    """The Python of a peer's own virtual environment, which is created if it is missing.

    Raises:
        subprocess.CalledProcessError: the installation failed.
    """
    requirements = (peer.requirement, *_COMMON)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    identity = hashlib.sha256(repr((requirements, sys.version)).encode()).hexdigest()[:12]
    folder = cache / "dropserve-tests" / f"peer-{peer.name.lower()}-{identity}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        sys.stderr.write(f"installing {peer.requirement}\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(command, check=True)
        done.touch()
    return python
