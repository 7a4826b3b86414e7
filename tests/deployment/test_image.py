"""The Dockerfile is clean and takes in no more than it should; the whole is run where it can be."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.deployment.image import why_not
from tests.pages import command_for, commands_of

DOCKERFILE = (ROOT / "Dockerfile").read_text()
# After DROPSERVE_DRAIN_SECONDS; `docker stop` waits for ten seconds.
_ENDING_SECONDS, _DOCKER_SECONDS = 2, 10


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_in_the_image_are_settings_of_the_server() -> None:
    names = re.findall(rf"\b{PREFIX}([A-Z_]+)=", DOCKERFILE)
    assert set(names) == {"HOST", "PORT"}
    assert {name.lower() for name in names} <= Settings.model_fields.keys()
    assert f"{PREFIX}PORT={Settings().port}" in DOCKERFILE
    assert f"EXPOSE {Settings().port}" in DOCKERFILE


def test_the_health_check_is_the_programs_own() -> None:
    # Which knows where the server listens; see tests/app/cli/test_health.py.
    assert re.search(r'HEALTHCHECK .*\\\n    CMD \["dropserve", "health"\]', DOCKERFILE)


def test_the_server_ends_before_docker_kills_it() -> None:
    assert Settings().drain_seconds + _ENDING_SECONDS < _DOCKER_SECONDS


def test_only_what_is_built_is_sent_to_the_builder() -> None:
    first, *rest = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"
    ]
    allowed = {line.removeprefix("!") for line in rest if line.startswith("!")}
    copied = set(re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE))
    assert first == "*"
    assert allowed == {name for names in copied for name in names.split()}


def test_the_page_builds_and_runs_what_the_dockerfile_takes() -> None:
    builds, runs = (
        [command for command, _ in commands_of("docs/deploying.md") if command.startswith(start)]
        for start in ("docker build", "docker run")
    )
    for argument in re.findall(r"--build-arg ([A-Z_]+)=", " ".join(builds)):
        assert f"\nARG {argument}=" in DOCKERFILE
    # The Dockerfile begins with the same two.
    head = re.sub(r"\\?\n#", " ", DOCKERFILE.partition("\nARG ")[0])
    for command in (*builds, *runs):
        words = command.replace(" --detach", "").replace("--tag", "-t").split()
        assert " ".join(words) in " ".join(head.split())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    "CONTAINER" not in os.environ, reason=f"builds for minutes: {command_for('the container')}"
)
def test_the_image_is_built_and_does_what_it_promises() -> None:
    if reason := why_not():
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "-m", "tests.deployment.check_container"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
