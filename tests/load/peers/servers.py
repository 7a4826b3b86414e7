"""The servers of the comparison: how each is installed, started and sent requests."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.api.examples import example_digits
from model.checkpoint import DEFAULT_CHECKPOINT
from tests.load.servers import ROOT, free_port, without_settings
from tests.load.wrk import IMAGES, MNIST_FORM

FOLDER = Path(__file__).parent
TASKS = ("predict", "loop", "expanded")
# A kind of request besides those of `IMAGES`: all drawn digits in MNIST's form at once.
BATCH = "batch of 32"
# Where the servers are installed, and the last comparison is kept.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dropserve-tests"
_INFER = "/v2/models/digits/infer"
# Installed for every peer, in addition to the server itself.
_COMMON = (
    *("torch==2.13.0", "numpy>=2.2,<3", "pillow>=13,<14", "safetensors>=0.8,<1"),
    *("opencv-python-headless>=5,<6", "uvicorn>=0.54,<1", "uvloop>=0.23,<1", "httptools>=0.9,<1"),
)


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
        name: of its rows.
        requirements: that are installed for it.
        requests: in the form that the server's own examples send, by name in `IMAGES`, and `BATCH`.
        command: of a server, from its Python, its port and a folder to write to.
        tuned: the fastest settings of its own batching; None: it has none.
        candidates: settings that `--tune` tries.
    """

    name: str
    requirements: tuple[str, ...]
    requests: Mapping[str, Request]
    command: Callable[[Path, int, Path], list[str]]
    tuned: Batching | None = None
    candidates: tuple[Batching, ...] = ()


def _json(path: str, documents: Iterable[object]) -> Request:
    dumped = (json.dumps(each, separators=(",", ":")).encode() for each in documents)
    return Request(path, tuple(dumped))


def _files(path: str, document: Callable[[list[str]], object]) -> dict[str, Request]:
    """Requests with files in base64: one file each, and for `BATCH` all of them."""
    texts = {name: [base64.b64encode(one).decode() for one in IMAGES[name]] for name in IMAGES}
    requests = {name: _json(path, (document([one]) for one in texts[name])) for name in IMAGES}
    return requests | {BATCH: _json(path, [document(texts[MNIST_FORM])])}


def _pngs(path: str) -> dict[str, Request]:
    return {name: Request(path, tuple(files), "image/png") for name, files in IMAGES.items()}


def _tensor(name: str, datatype: str, shape: list[int], data: Sequence[object]) -> object:
    """A request of the Open Inference Protocol."""
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]}


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


def _serve_ours(python: Path, port: int, folder: Path) -> list[str]:
    return [str(python), "-m", "app", "serve", "--port", str(port)]


_PIXELS = [digit.ravel().tolist() for digit in example_digits()]
# Only what it depends on is used: the code is this repository's, whatever was installed once.
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_OUR_REQUIREMENTS = (str(ROOT), *_PROJECT["dependencies"])
OURS = (
    Peer("Dropserve", _OUR_REQUIREMENTS, _pngs(""), _serve_ours),
    Peer("granian", (*_OUR_REQUIREMENTS, "granian==2.8.9"), _pngs(""), _script("serve_granian.py")),
)
# The routes of our tasks.
OUR_PATHS = {"predict": "/predict", "mc": "/predict/mc?passes={passes}"}
PEERS = (
    Peer(
        "FastAPI",
        ("fastapi==0.165.0", *_COMMON),
        _files("/predict/batch", lambda files: files) | _pngs("/predict"),
        _script("serve_fastapi.py"),
    ),
    Peer(
        "LitServe",
        ("litserve==0.2.19", *_COMMON),
        _files("/predict", lambda files: {"images": files} if files[1:] else {"image": files[0]}),
        _script("serve_litserve.py"),
        tuned=Batching(64, 0.001),
        candidates=tuple(Batching(m, w) for m in (8, 16, 64) for w in (0.0, 0.001, 0.005)),
    ),
    Peer(
        "BentoML",
        ("bentoml==1.4.40", *_COMMON),
        _files("/predict_pictures", lambda files: {"pictures": files})
        | {MNIST_FORM: _json("/predict", ({"pixels": [pixels]} for pixels in _PIXELS))},
        _start_bentoml,
        tuned=Batching(64, 1.0),
        candidates=tuple(Batching(m, w) for m in (16, 64) for w in (0.02, 0.1, 1.0)),
    ),
    Peer(
        "MLServer",
        ("mlserver==1.7.1", *_COMMON),
        _files(_INFER, lambda files: _tensor("files", "BYTES", [len(files)], files))
        | {
            MNIST_FORM: _json(
                _INFER, (_tensor("pixels", "UINT8", [1, 784], pixels) for pixels in _PIXELS)
            )
        },
        _start_mlserver,
        tuned=Batching(16, 0.02),
        candidates=tuple(Batching(m, w) for m in (8, 16, 64) for w in (0.001, 0.005, 0.02)),
    ),
)


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


def our_environment(port: int) -> dict[str, str]:
    """No settings, and this repository first on the path."""
    environment = {"PYTHONPATH": str(ROOT), "DROPSERVE_DRAIN_SECONDS": "0", "PEER_PORT": str(port)}
    return without_settings() | environment


def install(peer: Peer) -> Path:
    """The Python of a peer's own virtual environment, which is created if it is missing.

    Raises:
        subprocess.CalledProcessError: the installation failed.
    """
    identity = hashlib.sha256(repr((peer.requirements, sys.version)).encode()).hexdigest()[:12]
    name = peer.name.lower().replace(" ", "-")
    folder = CACHE / f"peer-{name}-{identity}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        sys.stderr.write(f"installing {peer.name}\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *peer.requirements]
        subprocess.run(command, check=True)
        done.touch()
    return python


def installed_mb(python: Path) -> float:
    """The files of a virtual environment with what is installed in it, megabytes."""
    folder = python.parents[1]
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
