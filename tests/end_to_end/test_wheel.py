"""The wheel serves from an empty folder: static files and the checkpoint are inside."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from model.checkpoint import Checkpoint
from tests.conftest import ROOT, RunningServer, ServerStarter, sample

pytestmark = pytest.mark.slow


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs, and nothing else."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    built = pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    if built.returncode != 0 and "hatchling" in built.stderr and "No matching" in built.stderr:
        pytest.skip("the build backend, hatchling, cannot be had: is this machine offline?")
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("*.whl")
    copied = pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    assert copied.returncode == 0, copied.stderr
    return target


@pytest.fixture(scope="module")
def server(
    installed: Path, servers: ServerStarter, tmp_path_factory: pytest.TempPathFactory
) -> RunningServer:
    empty = tmp_path_factory.mktemp("empty")
    environ = {"PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", "import app, model; print(app.__file__, model.__file__)"],
        cwd=empty,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    # Otherwise this file would test the repository.
    assert all(Path(path).is_relative_to(installed) for path in found.stdout.split())
    return servers.start(folder=empty, environ=environ)


def test_it_has_the_packages_and_their_data_and_no_tests(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if not path.name.endswith("-info")} == {
        "app",
        "model",
        "training",
        "bin",
    }
    assert {path.name for path in (installed / "bin").iterdir()} >= {"dropserve", "dropserve-train"}
    for package in ("app", "model", "training"):
        inside = {path.relative_to(ROOT) for path in files(ROOT / package)}
        # The pictures of a page in the repository; nothing reads them.
        inside = {path for path in inside if path.parts[:2] != ("training", "figures")}
        assert {path.relative_to(installed) for path in files(installed / package)} == inside
    (licence,) = installed.glob("dropserve-*.dist-info/licenses/LICENSE")
    assert licence.read_text() == (ROOT / "LICENSE").read_text()


def files(folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]


def test_it_serves_from_an_empty_folder(
    server: RunningServer, default_checkpoint: Checkpoint
) -> None:
    with httpx.Client(base_url=server.address, timeout=30) as client:
        for path in ("/predict", "/predict/mc?seed=1"):
            answer = client.post(path, content=sample("7.png")).json()
            assert answer["digit"] == 7
            assert answer["model"]["version"] == default_checkpoint.version

        for path in ("/docs", "/static/docs.js", "/openapi.json"):
            assert client.get(path).status_code == 200
        for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
            response = client.get(f"/static/swagger-ui/{name}")
            source = ROOT / "app" / "static" / "swagger-ui" / name
            assert (response.status_code, response.content) == (200, source.read_bytes())
