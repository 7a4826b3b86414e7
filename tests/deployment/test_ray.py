"""The application on Ray Serve, and its config."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.conftest import ROOT
from tests.isolation import can_isolate
from tests.pages import command_for, commands_of

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason=f"ray is not installed: {command_for('Ray')}"
)


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(Path(ROOT, "deploy/ray/serve.yaml").read_text())
    return loaded


def test_the_config_names_the_application_its_deployment_and_its_settings(
    config: dict[str, Any],
) -> None:
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    tree = ast.parse(Path(ROOT, *module.split(".")).with_suffix(".py").read_text())
    (function,) = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    (deployment,) = application["deployments"]
    words = [node.value for node in ast.walk(function) if isinstance(node, ast.Constant)]
    assert deployment["name"] in words
    assert application["args"].keys() <= Settings.model_fields.keys()
    # A request is given up here before Ray gives up the replica.
    most = Settings.model_fields["max_timeout_ms"].default / 1000
    assert config["http_options"]["request_timeout_s"] > most


def test_the_page_runs_this_config() -> None:
    commands = [command for command, _ in commands_of("docs/deploying.md")]
    assert "RAY_SERVE_ENABLE_HA_PROXY=1 serve run deploy/ray/serve.yaml" in commands


@needs_ray
@pytest.mark.slow
def test_ray_knows_every_field_of_the_config() -> None:
    program = (
        "import yaml; from ray.serve.schema import ServeDeploySchema; "
        "ServeDeploySchema.model_validate(yaml.safe_load(open('deploy/ray/serve.yaml')))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"port": "1"}, "port: Ray Serve decides that"),
        ({"max_pases": "1"}, "(--max-pases)"),
        ({"max_passes": "0"}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(args: dict[str, str], message: str) -> None:
    program = f"from app.process.ray_serve import app; app({args})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "SettingsError" in done.stderr
    assert message in done.stderr


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(330)
@pytest.mark.skipif(not can_isolate(), reason="no network namespace for Ray to listen in")
def test_replicas_answer_as_a_single_server_and_recover() -> None:
    command = [sys.executable, "-m", "tests.load.ray_serve", "--seconds", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "byte for byte: 34 of 34" in done.stdout
    assert "one replica killed: another after" in done.stdout
