"""Third-party clients of V2, as they come: what they ask, and what they read in the answers.

tritonclient is one of the tests' dependencies. perf_analyzer and KServe's client are installed into
a cache of their own; `CLIENTS=all pytest tests/app/open_inference/test_clients.py` installs both.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.api.examples import example_pixels
from tests.app.open_inference.clients.environments import (
    PERF_ANALYZER_MEASURES,
    PERF_ANALYZER_MEASURES_SHORTLY,
    install_kserve,
    install_perf_analyzer,
    keep,
)
from tests.conftest import ROOT, SAMPLES, RunningServer, sample

# Clients may be installed.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]

CLIENTS = ROOT / "tests" / "app" / "open_inference" / "clients"
SEEDED = {"seed": 5, "passes": 60}
DTYPES = {"digit": "<i8", "votes": "<i8", "seed": "<i8"}


@pytest.fixture(scope="module")
def pixels_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pixels") / "seven"
    file.write_bytes(example_pixels().tobytes())
    return file


def native(server: RunningServer, **request: Any) -> dict[str, Any]:
    """The native route's answer: plain without parameters, else with dropout."""
    path = "/predict/mc" if "params" in request else "/predict"
    response = httpx.post(f"{server.address}{path}", trust_env=False, timeout=30, **request)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def assert_bits(outputs: dict[str, str], answers: list[dict[str, Any]]) -> None:
    """Outputs, in hexadecimal, are the native answers' numbers, floats bit for bit."""
    assert outputs
    for name, digits in outputs.items():
        if name == "decision":
            outcomes = [answer[name]["outcome"] for answer in answers]
            assert bytes.fromhex(digits).decode().split() == outcomes
            continue
        dtype = DTYPES.get(name, "<f4")
        expected = np.array([answer[name] for answer in answers], dtype=dtype)
        assert digits == expected.tobytes().hex(), name


def run(
    *command: object, environment: dict[str, str] | None = None, seconds: int = 120
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def test_tritonclient_finds_all_that_it_looks_for(server: RunningServer, pixels_file: Path) -> None:
    names = ("7.png", "doubtful.png")
    address = server.address.removeprefix("http://")
    files = [SAMPLES / name for name in names]

    done = run(sys.executable, CLIENTS / "triton.py", address, pixels_file, *files)

    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    rows = {"pixels": example_pixels().tolist()}
    seven = native(server, json=rows, params=SEEDED)
    assert answers.keys() == {"sync", "aio"}
    for cases in answers.values():
        assert len(cases) == 13
        assert list(cases["mixed outputs"]) == ["digit", "mean", "votes"]
        assert_bits(cases.pop("plain"), [native(server, json=rows)])
        pictures = [native(server, content=sample(name), params=SEEDED) for name in names]
        assert_bits(cases.pop("files"), pictures)
        for case, outputs in cases.items():
            count = 40 if "gzip" in case or "deflate" in case else 1
            assert_bits(outputs, [seven] * count)


def test_kserves_client_finds_all_that_it_looks_for(
    server: RunningServer, pixels_file: Path
) -> None:
    done = run(install_kserve(), CLIENTS / "kserve_rest.py", server.address, pixels_file)

    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    rows = {"pixels": example_pixels().tolist()}
    for way in ("json", "binary"):
        assert_bits(answers.pop(f"mnist {way}"), [native(server, json=rows)])
        sampled = answers.pop(f"mnist-mc {way}")
        assert_bits(sampled, [native(server, json=rows, params=SEEDED)])
    assert not answers


@pytest.mark.parametrize("model", ["mnist", "mnist-mc"])
@pytest.mark.parametrize(
    "options",
    [
        "",
        "--input-tensor-format json --output-tensor-format json",
        "-b 8",
        "-a --concurrency-range 4",
    ],
    ids=["binary", "json", "batch", "async"],
)
def test_perf_analyzer_measures(server: RunningServer, model: str, options: str) -> None:
    path, environment = install_perf_analyzer()
    address = server.address.removeprefix("http://")

    done = run(
        *(path, "-m", model, "-u", address),
        *PERF_ANALYZER_MEASURES_SHORTLY.split(),
        *options.split(),
        environment=environment,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"Request count: (\d+)", done.stdout)[0]) > 0
    assert float(re.findall(r"throughput: ([\d.]+) infer/sec", done.stdout)[0]) > 0


def test_of_two_that_install_the_same_the_first_ones_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "client"
    for name in ("first", "second"):
        building = tmp_path / name
        building.mkdir()
        (building / "installed").write_text(name)
        keep(building, folder)

    assert (folder / "installed").read_text() == "first"
    assert list(tmp_path.iterdir()) == [folder]


# The page


PAGE = (ROOT / "docs" / "protocol.md").read_text()
ADDRESS = "127.0.0.1:8000"
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e-?\d+)?")


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def command(title: str) -> tuple[str, str]:
    """The command of a section, and what it promises to print."""
    (block,) = re.findall(r"^```console\n\$ (.*?)^```$", section(title), re.MULTILINE | re.DOTALL)
    line, _, output = block.partition("\n")
    return line, output


def program(title: str) -> tuple[str, str]:
    """The same of a section with a Python program."""
    found = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", section(title), re.DOTALL)
    assert found is not None
    return found[1], found[2]


def assert_prints(printed: str, promised: str) -> None:
    """The same text, but for line breaks between numbers."""
    assert printed.split() == promised.split()


def test_the_pages_curl_answers_as_printed(server: RunningServer) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    line, promised = command("curl")

    done = run("bash", "-c", line.replace(f"http://{ADDRESS}", server.address))

    assert done.returncode == 0, done.stderr
    assert_prints(done.stdout, promised)


@pytest.mark.parametrize("title", ["tritonclient", "KServe"])
def test_the_pages_program_prints_what_it_says(server: RunningServer, title: str) -> None:
    python = install_kserve() if title == "KServe" else sys.executable
    text, promised = program(title)

    done = run(python, "-c", text.replace(ADDRESS, server.address.removeprefix("http://")))

    assert done.returncode == 0, done.stderr
    assert_prints(done.stdout, promised)


def test_the_pages_perf_analyzer_measures_as_printed(server: RunningServer) -> None:
    path, environment = install_perf_analyzer()
    line, promised = command("perf_analyzer")
    address = server.address.removeprefix("http://")
    line = line.replace(ADDRESS, address)
    line = line.replace(PERF_ANALYZER_MEASURES, PERF_ANALYZER_MEASURES_SHORTLY)

    done = run(path, *line.split()[1:], environment=environment)

    assert done.returncode == 0, done.stdout + done.stderr
    # Its timings are the machine's.
    assert NUMBER.sub("#", done.stdout).split() == NUMBER.sub("#", promised).split()
