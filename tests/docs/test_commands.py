"""Every promise of the pages: their commands run and print what they say."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from tests.conftest import ROOT, SAMPLES, RunningServer, ServerStarter
from tests.pages import (
    ADDRESS,
    COMMANDS,
    CURLS,
    commands_of,
    read,
)
from training.cli import build_parser, config_from
from training.config import TeacherConfig, TrainConfig
from training.train import recipe_of

README = read("README.md")
PREDICTS = [pair for pair in COMMANDS.items() if pair[0].startswith("dropserve predict")]
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SET_UPS = [
    command for command, _ in commands_of("README.md") if command.startswith("python3 -m venv")
]
THROUGHPUT = "python -m tests.load.throughput --connections 16 --seconds 4 --rounds 3"
# What is appended so that a command takes seconds: the last of two options counts.
SHORTENED = {
    "dropserve bench engine": "--rounds 2 --images 1 --passes 100",
    # On the CPU, by the engine for all devices.
    "dropserve bench engine --device cuda": "--rounds 2 --images 1 --passes 100 --device cpu:0",
    THROUGHPUT: "--seconds 1 --rounds 2",
    "dropserve-train evaluate": "--quick",
    "dropserve-train train": "--epochs 1 --output {tmp}/net.safetensors",
}
# What made the committed network takes an hour: its settings are compared with the checkpoint's.
RECIPE = [
    command
    for command, _ in commands_of("docs/training.md")
    if command.startswith("dropserve-train ") and command not in SHORTENED
]
# Makes a key, and serves those who have one.
KEYED = [command for command, _ in commands_of("docs/operating.md") if "key" in command]
# What is tested elsewhere, or cannot be run by a test, and where or why.
ELSEWHERE = {
    r"git clone ": "needs the internet",
    r"python3 -m venv \S+ && \S+ install -e \S+$": "the first half of the README's test command",
    r"\.venv/bin/pytest": "runs the tests",
    r"dropserve score ": "needs the reader's files; tests/app/scoring",
    r"RAY_SERVE_ENABLE_HA_PROXY=1 serve run": "tests/deployment/test_ray.py",
    r"docker (build|run) ": "tests/deployment/test_image.py",
    r"docker compose ": "tests/deployment/test_compose.py",
    r"uvx ": "installs tools from the internet",
    r"kubectl |\(cd deploy/kubernetes/|dropserve new-key p": "tests/deployment/test_kubernetes.py",
    r"(dropserve|curl).*(models/wine|--models models)": "tests/docs/test_own_network.py",
    r"curl .*/v2/": "tests/app/open_inference/test_clients.py",
    r"perf_analyzer ": "tests/load/test_pages.py, tests/app/open_inference/test_clients.py",
    r"(taskset|wrk|hey|locust) ": "tests/load/test_pages.py",
    r"dropserve-train (compare|regularisers|rotate|sweep) ": "tests/training",
    r"python -m tests\.load\.own_networks$": "tests/load/test_load.py",
    r"python -m tests\.load\.(capacity$|curves --figures )": "tests/load/test_load.py",
    r"python -m tests\.training\.measure_": "minutes; tests/training/test_operating_points.py",
    r"python -m tests\.load\.scoring actors$": "minutes, and needs Ray; tests/app/scoring",
    r"python -m tests\.load\.ray_serve( --haproxy)?$": "minutes; tests/deployment/test_ray.py",
    r"python -m tests\.load\.v2_(mutations|rate)": "minutes; tests/app/open_inference",
    r"python -m tests\.load\.peers\.(compare|overload|report)$": "installs 6 GB; tests/load/peers",
    r"python -m tests\.deployment\.check_container$": "tests/deployment/test_image.py",
}


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
    printed = {command for command, _ in [*CURLS, *PREDICTS]}
    tested = {*printed, *SET_UPS, *SHORTENED, *RECIPE, *KEYED}
    assert tested <= COMMANDS.keys()
    others = [command for command in COMMANDS if command not in tested]
    for pattern in ELSEWHERE:
        assert any(re.match(pattern, command) for command in others), pattern
    for command in others:
        assert [pattern for pattern in ELSEWHERE if re.match(pattern, command)], command


def test_places_of_other_tests_and_of_single_ones_exist() -> None:
    for text in [*ELSEWHERE.values(), *COMMANDS]:
        for path in re.findall(r"(?<![\w/.])tests/[\w/.]+", text):
            assert (ROOT / path).exists(), path


def test_two_commands_do_all_the_set_up() -> None:
    serve, develop = SET_UPS
    assert serve.endswith("dropserve serve")
    assert develop.endswith("pytest -n 2")
    # The gate runs the first command of this section.
    section = README.partition("\n## Develop\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\$ (.*)$", section, re.MULTILINE) == [develop]


def test_urls_stand_in_single_quotes() -> None:
    for command in COMMANDS:
        for match in re.finditer(re.escape(ADDRESS), command):
            assert command[match.start() - 1] == "'", command


def post(server: RunningServer, path: str, image: Path) -> Any:
    return httpx.post(f"{server.address}{path}", content=image.read_bytes()).json()


@pytest.mark.slow
@pytest.mark.parametrize(("command", "output"), CURLS, ids=[command for command, _ in CURLS])
def test_a_curl_answers_as_printed(server: RunningServer, command: str, output: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = run(command.replace(ADDRESS, server.address), ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(output)  # to the last digit, on any machine


@pytest.mark.slow
@pytest.mark.parametrize(("command", "output"), PREDICTS, ids=[command for command, _ in PREDICTS])
def test_an_image_is_answered_as_printed(command: str, output: str) -> None:
    done = run(command, ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == output


@pytest.mark.slow
def test_the_python_example_prints_its_comments(server: RunningServer) -> None:
    (example,) = PYTHON
    if find_spec("dropserve") is None:  # a checkout that was never installed
        example = example.replace("dropserve.client", "app.client")
    promised = re.findall(r"print\(.*\)  # (.*)", example)
    done = run(f"{sys.executable} - <<'END'\n{example.replace(ADDRESS, server.address)}END", ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(promised) == 3
    for found, comment in zip(sorted(done.stdout.splitlines()), sorted(promised), strict=True):
        assert found == comment


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
    promised = COMMANDS["dropserve-train evaluate"]
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


@pytest.mark.usefixtures("cores")
@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in SHORTENED if "train" not in each])
def test_a_benchmark_runs_and_prints_the_same_table(command: str) -> None:
    promised = COMMANDS[command] or COMMANDS[command.partition(" --")[0]]
    is_shown = bool(COMMANDS[command])  # else another device's table lacks lines of this one
    if command == THROUGHPUT and shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    done = run(f"{command} {SHORTENED[command]}", ROOT)
    assert done.returncode == 0, done.stderr
    kinds = kinds_of_lines(done.stdout)
    assert kinds == kinds_of_lines(promised) if is_shown else kinds <= kinds_of_lines(promised)


def kinds_of_lines(output: str) -> set[str]:
    """Its lines without numbers and the widths of columns; the first names the machine."""
    _, *lines = output.strip().splitlines()
    return {" ".join(re.sub(r"\d[\d,.]*", "#", line).split()) for line in lines}


@pytest.mark.slow
def test_the_training_command_runs(mnist_folder: Path, tmp_path: Path) -> None:
    options = SHORTENED["dropserve-train train"].format(tmp=tmp_path)
    done = run(f"dropserve-train train {options}", ROOT, DROPSERVE_DATA_DIR=str(mnist_folder))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "net.safetensors").exists()


@pytest.mark.slow
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
@pytest.mark.timeout(1000)
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


def test_the_recipe_is_the_one_that_the_committed_network_records() -> None:
    training = load_checkpoint(DEFAULT_CHECKPOINT).training
    student = training["recipe"]
    convnet, other_convnet, first = student["teacher"]
    assert first["recipe"]["teacher"][:2] == [convnet, other_convnet]
    plain = first["recipe"]["teacher"][2]
    made_before = student["initial"]["recipe"] | {"seed": student["initial"]["seed"]}
    assert made_before == first["recipe"]
    parser = build_parser()
    every = (parser.parse_args(command.split()[1:]) for command in RECIPE)
    make_plain, *make_convnets, draw, calibrate_plain, make_first, go_on, calibrate = every

    assert recipe_of(config_from(make_plain, TrainConfig)) == plain["recipe"]
    for command, made in zip(make_convnets, (convnet, other_convnet), strict=True):
        assert asdict(config_from(command, TeacherConfig)) == made["recipe"]
    outputs = [command.output for command in make_convnets]
    assert make_first.teacher == [*outputs, make_plain.output]
    assert go_on.teacher == [*outputs, make_first.output]
    assert go_on.initial == make_first.output
    assert draw.count == student["pool"]["images"]
    assert draw.digits == sum(student["pool"]["digits"].values())
    for options, made in (
        (make_first, first["recipe"]),
        (go_on, student | {"seed": training["seed"]}),
    ):
        read = {name: made[name] for name in ("teacher", "pool", "initial") if name in made}
        assert config_from(options, TrainConfig).recipe() | read == made
        assert options.pool == draw.output
        assert made["pool"] == student["pool"]
    assert calibrate.checkpoint == go_on.output
    assert calibrate_plain.checkpoint == make_plain.output
    assert calibrate.pool == calibrate_plain.pool == draw.output  # both keep the same back
