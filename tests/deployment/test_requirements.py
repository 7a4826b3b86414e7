"""What the image and the gate install is exact, has hashes, and is what pyproject.toml asks for."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
OF_THE_IMAGE = ROOT / "deploy" / "requirements.txt"
OF_ITS_BUILD = ROOT / "deploy" / "build-requirements.txt"
OF_THE_GATE = ROOT / ".ci" / "requirements.txt"
_PINNED = re.compile(
    r"(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; [^\\]+?)?(?: +--hash=sha256:[0-9a-f]{64})+"
)


def pinned(requirements: Path) -> dict[str, Version]:
    """The version of each package, of which there is one, with its hashes."""
    found: dict[str, Version] = {}
    for line in requirements.read_text().replace("\\\n", " ").splitlines():
        if not line.startswith("#"):
            match = _PINNED.fullmatch(line)
            assert match, line
            name = canonicalize_name(match["name"])
            assert name not in found
            found[name] = Version(match["version"])
    return found


def wanted(declared: Iterable[str]) -> Iterator[Requirement]:
    """The requirements, with those of our own extras in their place."""
    for line in declared:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            for extra in requirement.extras:
                yield from wanted(PROJECT["optional-dependencies"][extra])
        else:
            yield requirement


@pytest.mark.parametrize(
    ("requirements", "declared"),
    [
        (OF_THE_IMAGE, PROJECT["dependencies"]),
        (OF_ITS_BUILD, PYPROJECT["build-system"]["requires"]),
        (OF_THE_GATE, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]),
    ],
    ids=["image", "its build", "gate"],
)
def test_every_dependency_has_a_version_that_the_project_takes(
    requirements: Path, declared: list[str]
) -> None:
    versions = pinned(requirements)
    for requirement in wanted(declared):
        if requirement.name == "torch":  # as .ci/lock says
            assert str(requirement.specifier).startswith("==")
            continue
        version = versions[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement}: run .ci/lock"


def test_the_gate_tests_the_versions_of_the_image() -> None:
    for requirements in (OF_THE_IMAGE, OF_ITS_BUILD):
        assert pinned(requirements).items() <= pinned(OF_THE_GATE).items()
    assert "torch" not in pinned(OF_THE_GATE)


def test_the_image_is_built_from_nothing_else() -> None:
    commands = re.split(r"&&|\n", (ROOT / "Dockerfile").read_text().replace("\\\n", " "))
    installs = [command for command in commands if re.search(r"pip (install|wheel) ", command)]
    assert len(installs) == 4
    for command in installs:
        is_exact = "--require-hashes" in command
        assert is_exact or re.search("--no-deps --no-(build-isolation|index)", command), command


@pytest.mark.parametrize("requirements", [OF_THE_IMAGE, OF_ITS_BUILD, OF_THE_GATE])
def test_they_name_no_place(requirements: Path) -> None:
    assert not re.search(r"://|^ *--?(?!hash=)\w", requirements.read_text(), re.MULTILINE)


def test_the_workflow_runs_actions_as_they_were() -> None:
    actions = re.findall(r"uses: (\S+)", (ROOT / ".github/workflows/ci.yml").read_text())
    assert actions
    for action in actions:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)
