"""Lint, formatting, types and the direction of imports: one command checks everything."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "model", "training")

# Who may import whom. `training` and `app` never see each other, and `model` sees neither.
ALLOWED = {"model": {"model"}, "app": {"app", "model"}, "training": {"training", "model"}}
# What keeps `model` pure: no HTTP, no environment.
FORBIDDEN_IN_MODEL = {"fastapi", "starlette", "httpx", "uvicorn", "pydantic", "orjson"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_packages(module: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check")


def test_ruff_would_format_nothing() -> None:
    run("ruff", "format", "--check")


def test_mypy_finds_nothing() -> None:
    run("mypy")


def test_bandit_finds_nothing() -> None:
    run("bandit", "--quiet", "--recursive", "--configfile", "pyproject.toml", *PACKAGES)


def test_whatever_bandit_shall_pass_over_has_its_reason() -> None:
    for package in PACKAGES:
        for module in modules(package):
            for line in module.read_text().splitlines():
                if "nosec" in line:
                    assert re.search(r"# nosec B\d{3}: \w+", line), line


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    for module in modules(package):
        foreign = (imported_packages(module) & {*PACKAGES, "tests"}) - ALLOWED[package]
        assert not foreign, f"{module.relative_to(ROOT)} imports {foreign}"


def test_the_model_knows_no_http_and_no_environment() -> None:
    for module in modules("model"):
        assert not imported_packages(module) & FORBIDDEN_IN_MODEL, module
        assert "os.environ" not in module.read_text(), module


def test_ray_is_an_extra_that_nothing_else_needs() -> None:
    with_ray = {ROOT / "app" / "process" / "ray_serve.py", ROOT / "app" / "scoring" / "on_ray.py"}
    every = [module for package in PACKAGES for module in modules(package)]
    assert {module for module in every if "ray" in imported_packages(module)} == with_ray
    for module in every:
        # Inside of a function, where Ray was asked for, it is no import of the module's own.
        top = [node for node in ast.parse(module.read_text()).body if _imports_ours(node, with_ray)]
        assert not top, module


def _imports_ours(node: ast.stmt, ours: set[Path]) -> bool:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ours}
    if isinstance(node, ast.Import):
        return any(alias.name in names for alias in node.names)
    return isinstance(node, ast.ImportFrom) and node.module in names


def test_imports_do_not_go_in_circles() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import training.cli, training.train, app.api.application, app.process.server",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_module_says_what_it_is_for() -> None:
    for package in PACKAGES:
        for module in modules(package):
            assert ast.get_docstring(ast.parse(module.read_text())), module
