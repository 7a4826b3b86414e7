"""The wheel works without the repository, where the folder is empty and where it has our names.

The source distribution holds all that the repository has: the same wheel comes out of it, and its
tests are found.
"""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import pytest

from model.checkpoint import Checkpoint
from tests.conftest import ROOT, SAMPLES, RunningServer, ServerStarter, sample

pytestmark = pytest.mark.slow

PACKAGES = {"app": "app", "dropserve": "deploy/package/dropserve"}
PACKAGES |= {"model": "model", "training": "training"}


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build(target: str, source: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=source)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the source distribution unpacks to."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    return folder


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs, and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


@pytest.fixture(scope="module")
def server(
    installed: Path, servers: ServerStarter, tmp_path_factory: pytest.TempPathFactory
) -> RunningServer:
    empty = tmp_path_factory.mktemp("empty")
    environ = {"PYTHONPATH": str(installed)}
    printed = "import app, model; print(app.__file__, model.__file__)"
    found = run(sys.executable, "-c", printed, cwd=empty, env=environ).stdout.split()
    # Otherwise this file would test the repository.
    assert all(Path(path).is_relative_to(installed) for path in found)
    return servers.start(folder=empty, environ=environ)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with packages of its own that have our names."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("app", "model", "training"):
        folder.joinpath(name).mkdir()
        folder.joinpath(name, "__init__.py").write_text(f"raise RuntimeError('my own {name}')\n")
    return folder


def test_it_has_the_packages_and_their_data_and_no_tests(installed: Path) -> None:
    found = {path.name for path in installed.iterdir() if not path.name.endswith("-info")}
    assert found == {*PACKAGES, "bin"}
    assert {path.name for path in (installed / "bin").iterdir()} >= {"dropserve", "dropserve-train"}
    for package, source in PACKAGES.items():
        inside = files(ROOT / source)
        assert files(installed / package) == inside
        assert Path("py.typed") in inside
    (licence,) = installed.glob("dropserve-*.dist-info/licenses/LICENSE")
    assert licence.read_text() == (ROOT / "LICENSE").read_text()


def test_the_client_is_a_package_of_its_own_of_the_same_files(installed: Path) -> None:
    package = installed / "dropserve"
    sources = {package / "errors.py": "app/errors.py", package / "schemas.py": "app/schemas.py"}
    sources |= {package / "literals.py": "model/literals.py"}
    for path in files(ROOT / "app" / "client"):
        sources[package / "client" / path] = f"app/client/{path}"
    for copy, source in sources.items():
        assert copy.read_bytes() == (ROOT / source).read_bytes()


def files(package: Path) -> set[Path]:
    """What is in a package's folder, less pictures that only a page of the repository shows."""
    return {
        Path(folder, name).relative_to(package)
        for folder, _, names in os.walk(package, followlinks=True)
        for name in names
        if not folder.endswith("__pycache__") and Path(folder).parts[-2:] != ("training", "figures")
    }


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


# What a user's program does: the client asks itself, then a server whose address it is given.
PROGRAM = """
import asyncio, json, sys
import httpx
import dropserve.errors, dropserve.literals, dropserve.schemas
from dropserve.client import AsyncDropserveClient, DropserveClient

answer, url, image = sys.argv[1:]
respond = httpx.MockTransport(lambda request: httpx.Response(200, content=answer.encode()))
results = []
with DropserveClient(transport=respond) as client:
    results.append(client.predict(image))
with DropserveClient(url) as client:
    results.append(client.predict(image))
    *_, last = client.predict_mc_stream(image, passes=100, seed=1)
    results.append(last)

async def ask():
    async with AsyncDropserveClient(url) as client:
        return await client.predict_mc(image, passes=100, seed=1)

results.append(asyncio.run(ask()))
print(json.dumps({
    "digits": [result.digit for result in results],
    "same": [results[0] == results[1], results[2] == results[3]],
    "file": dropserve.__file__,
    "ours": sorted({"app", "model", "training", "torch", "fastapi"} & sys.modules.keys()),
}))
"""


def test_the_client_needs_none_of_the_other_packages(
    installed: Path, project: Path, server: RunningServer
) -> None:
    image = SAMPLES / "7.png"
    answer = httpx.post(f"{server.address}/predict", content=image.read_bytes()).text
    command = (sys.executable, "-c", PROGRAM, answer, server.address, image)
    printed = json.loads(run(*command, cwd=project, env={"PYTHONPATH": str(installed)}).stdout)

    assert printed["digits"] == [7, 7, 7, 7]
    assert printed["same"] == [True, True]
    assert Path(printed["file"]).is_relative_to(installed)
    assert printed["ours"] == []


def test_a_type_checker_sees_the_types_of_the_client(
    installed: Path, project: Path, tmp_path: Path
) -> None:
    program = project / "program.py"
    program.write_text(
        "from dropserve.client import DropserveClient\n"
        "with DropserveClient() as client:\n"
        "    reveal_type(client.predict('7.png').index)\n"
    )
    checker = (sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path, program.name)
    printed = run(*checker, cwd=project, env={"PYTHONPATH": str(installed)}).stdout

    assert 'note: Revealed type is "int"' in printed.replace("builtins.", "")


def test_the_command_does_not_take_the_packages_of_a_project(
    installed: Path, project: Path
) -> None:
    command, environ = installed / "bin" / "dropserve", {"PYTHONPATH": str(installed)}
    version = run(command, "--version", cwd=project, env=environ).stdout.strip()
    assert installed.joinpath(f"dropserve-{version}.dist-info").is_dir()

    printed = run(command, "predict", SAMPLES / "7.png", "--json", cwd=project, env=environ).stdout
    assert json.loads(printed)["digit"] == 7


@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_serves_in_a_project(
    workers: int, installed: Path, project: Path, servers: ServerStarter
) -> None:
    server = servers.start(
        f"--workers={workers}",
        program=(str(installed / "bin" / "dropserve"),),
        folder=project,
        environ={"PYTHONPATH": str(installed)},
    )
    for _ in range(4):  # connections of their own, so that both workers answer
        response = httpx.post(f"{server.address}/predict", content=sample("7.png"))
        assert response.json()["digit"] == 7


# The source distribution


def test_it_has_what_a_contributor_needs(sdist: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    expected = {*settings["targets"]["sdist"]["only-include"], ".gitignore", "PKG-INFO"}
    assert {path.name for path in sdist.iterdir()} == expected


def test_the_same_wheel_comes_out_of_it(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with ZipFile(build("wheel", sdist, tmp_path)) as ours, ZipFile(wheel) as other:
        assert {file.filename: file.CRC for file in ours.infolist()} == {
            file.filename: file.CRC for file in other.infolist()
        }


def test_its_tests_are_found(sdist: Path) -> None:
    assert files(sdist / "tests") == files(ROOT / "tests")
    # Of one folder: to import all that the others test takes half a minute.
    collect = (sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/model/uncertainty")
    found = run(*collect, cwd=sdist).stdout
    files_found = {line.partition("::")[0] for line in found.splitlines() if "::" in line}
    assert files_found == {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests" / "model" / "uncertainty").rglob("test_*.py")
    }
