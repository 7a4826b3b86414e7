"""Every promise of the README: its commands run and print what it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import PREFIX, Settings
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from tests.conftest import ROOT, SAMPLES, RunningServer, ServerStarter
from tests.pages import commands_of
from training.cli import build_parser, config_from
from training.config import TeacherConfig, TrainConfig
from training.train import recipe_of

README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def commands() -> list[tuple[str, str]]:
    return commands_of("README.md")


CURLS = [each for each in commands() if each[0].startswith("curl")]
PREDICTS = [each for each in commands() if each[0].startswith("dropserve predict")]
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SET_UPS = [command for command, _ in commands() if command.startswith("python3 -m venv")]
# What is appended so that a command takes seconds: the last of two options counts.
SHORTENED = {
    "dropserve bench engine": "--rounds 2 --images 1 --passes 100",
    "dropserve bench http --connections 16 --duration 4 --rounds 3": "--duration 1 --rounds 1",
    "dropserve-train evaluate": "--quick",
    "dropserve-train train": "--epochs 1 --output {tmp}/net.safetensors",
}
# What made the committed network takes an hour: its settings are held against the checkpoint's.
RECIPE = [
    command
    for command, _ in commands()
    if command.startswith("dropserve-train ") and command not in SHORTENED
]


# Makes a key, and serves to those who have one.
KEYED = [command for command, _ in commands() if "key" in command]


def run(command: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def test_no_command_is_left_untested() -> None:
    asked = {command for command, _ in [*CURLS, *PREDICTS]}
    tested = {*asked, *SET_UPS, *SHORTENED, *RECIPE, *KEYED}
    assert {command for command, _ in commands()} == tested


def test_urls_stand_in_single_quotes() -> None:
    for command, _ in commands():
        for match in re.finditer(r"https?://", command):
            assert command[match.start() - 1] == "'", command


@pytest.fixture(scope="module")
def server(servers: ServerStarter) -> RunningServer:
    return servers.start()


def post(server: RunningServer, path: str, image: Path) -> Any:
    return httpx.post(f"{server.address}{path}", content=image.read_bytes()).json()


@pytest.mark.slow
@pytest.mark.parametrize(("command", "output"), CURLS, ids=[command for command, _ in CURLS])
def test_a_curl_answers_as_printed(server: RunningServer, command: str, output: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = run(command.replace(ADDRESS, server.address), ROOT)
    assert done.returncode == 0, done.stderr
    assert_close(json.loads(done.stdout), json.loads(output))


def assert_close(found: Any, promised: Any) -> None:
    """Equal, but for the last bits of numbers: the README was printed on one kind of machine."""
    if isinstance(promised, dict):
        assert list(found) == list(promised)
        for key in promised:
            assert_close(found[key], promised[key])
    elif isinstance(promised, list):
        assert len(found) == len(promised)
        for each, other in zip(found, promised, strict=True):
            assert_close(each, other)
    elif isinstance(promised, float):
        assert found == pytest.approx(promised, rel=1e-2, abs=1e-6)
    else:
        assert found == promised


@pytest.mark.slow
@pytest.mark.parametrize(("command", "output"), PREDICTS, ids=[command for command, _ in PREDICTS])
def test_an_image_is_answered_as_printed(command: str, output: str) -> None:
    done = run(command, ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_text(done.stdout, output)


def assert_same_text(found: str, promised: str) -> None:
    """Equal, but for the last digit of decimals: the README was printed on one kind of machine."""
    decimal = re.compile(r"\d+\.\d+")
    assert decimal.sub("#", found) == decimal.sub("#", promised)
    for number, other in zip(decimal.findall(found), decimal.findall(promised), strict=True):
        assert float(number) == pytest.approx(float(other), abs=0.0011)


@pytest.mark.slow
def test_the_python_example_prints_its_comments(server: RunningServer) -> None:
    (example,) = PYTHON
    promised = re.findall(r"print\(.*\)  # (.*)", example)
    done = run(f"{sys.executable} - <<'END'\n{example.replace(ADDRESS, server.address)}END", ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(promised) == 3
    for found, comment in zip(sorted(done.stdout.splitlines()), sorted(promised), strict=True):
        assert_same_text(found, comment)


@pytest.mark.slow
def test_the_first_table_says_what_the_server_answers(server: RunningServer) -> None:
    for name in ("7", "doubtful", "not_a_digit"):
        row = next(line for line in README.splitlines() if f"tests/samples/{name}.png)" in line)
        answer = post(server, "/predict/mc?seed=1", SAMPLES / f"{name}.png")
        assert f"predictive entropy {answer['predictive_entropy']:.3f}: " in row
        decision = answer["decision"]
        assert f": {', '.join(filter(None, [decision['outcome'], decision['reason']]))} |" in row
        if decision["reason"] == "unfamiliar":
            assert f"even the best gets only {100 * max(answer['mean']):.0f} %" in row
        else:
            votes, digit = max((votes, digit) for digit, votes in enumerate(answer["votes"]))
            assert f"{votes} of 50" in row
            assert f"say {digit}" in row


@pytest.mark.slow
def test_evaluate_prints_the_figures(mnist_folder: Path) -> None:
    promised = next(output for command, output in commands() if command.endswith("evaluate"))
    command = f"dropserve-train evaluate {SHORTENED['dropserve-train evaluate']}"
    done = run(command, ROOT, DROPSERVE_DATA_DIR=str(mnist_folder))
    assert done.returncode == 0, done.stderr
    # What takes minutes is left out: other images than MNIST's, and the report.
    promised = re.sub(r"^(AUROC|report).*\n", "", promised, flags=re.MULTILINE)
    number = re.compile(r"\d+\.\d+")
    assert number.sub("#", done.stdout.strip()) == number.sub("#", promised.strip())
    for found, stated in zip(
        number.findall(done.stdout), number.findall(promised), strict=True
    ):  # in per cent, or in nats
        assert float(found) == pytest.approx(float(stated), abs=0.011)


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in SHORTENED if " bench " in each])
def test_a_benchmark_runs_and_prints_the_same_table(command: str) -> None:
    promised = next(output for each, output in commands() if each == command)
    done = run(f"{command} {SHORTENED[command]}", ROOT)
    assert done.returncode == 0, done.stderr
    (header,) = [line for line in promised.splitlines() if "passes " in line or "p50" in line]
    assert header.split() in [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_the_training_command_runs(mnist_folder: Path, tmp_path: Path) -> None:
    options = SHORTENED["dropserve-train train"].format(tmp=tmp_path)
    done = run(f"dropserve-train train {options}", ROOT, DROPSERVE_DATA_DIR=str(mnist_folder))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "net.safetensors").exists()


def test_a_key_that_was_made_as_printed_is_asked_for(
    servers: ServerStarter, tmp_path: Path
) -> None:
    make, serve = KEYED
    key = run(make, tmp_path).stderr.split()[-1]
    server = servers.start(*serve.split()[2:], folder=tmp_path)
    authorized = {"Authorization": f"Bearer {key}"}

    assert httpx.get(f"{server.address}/v2", trust_env=False).status_code == 401
    answered = httpx.get(f"{server.address}/v2", headers=authorized, trust_env=False)
    assert answered.status_code == 200


@pytest.mark.slow
@pytest.mark.skipif("CI" not in os.environ, reason="installs torch anew; set CI=true to run it")
def test_the_first_command_sets_up_and_serves(servers: ServerStarter, tmp_path: Path) -> None:
    serve, _ = SET_UPS
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", "runs")
    shutil.copytree(ROOT, clone, ignore=ignored)
    set_up = serve.removesuffix(" && .venv/bin/dropserve serve")
    assert set_up != serve
    done = run(set_up, clone)
    assert done.returncode == 0, done.stderr
    program = [str(clone / ".venv" / "bin" / "dropserve")]
    installed = servers.start(folder=tmp_path, program=program)
    assert post(installed, "/predict", SAMPLES / "7.png")["digit"] == 7


def test_every_setting_stands_in_the_table_with_its_default() -> None:
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else str(field.default)
        row = f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |"
        assert row.replace("|  |", "| |") in README


def test_local_links_lead_somewhere() -> None:
    pages = ("README.md", "model/README.md", "training/README.md", "app/threat-model.md")
    for page in (*(ROOT / name for name in pages), *(ROOT / "deploy").glob("*.md")):
        for target in re.findall(r'(?:\]\(|src="|srcset=")([^)#":]+)[)"]', page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_recipe_is_the_one_that_the_committed_network_records() -> None:
    training = load_checkpoint(DEFAULT_CHECKPOINT).training
    student = training["recipe"]
    by_kind = {member["kind"]: member["recipe"] for member in student["teacher"]}
    first, convnet, taught, calibrate = (command.split()[1:] for command in RECIPE)
    parser = build_parser()

    options = parser.parse_args(first)
    assert recipe_of(config_from(options, TrainConfig)) == by_kind["mlp"]
    teachers = [str(options.output)]
    options = parser.parse_args(convnet)
    assert asdict(config_from(options, TeacherConfig)) == by_kind["convnet"]
    teachers.append(str(options.output))
    options = parser.parse_args(taught)
    assert {str(path) for path in options.teacher} == set(teachers)
    recipe = {**config_from(options, TrainConfig).recipe(), "teacher": student["teacher"]}
    assert recipe == {**student, "seed": training["seed"]}
    assert options.output == parser.parse_args(calibrate).checkpoint
