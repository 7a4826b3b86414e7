"""What is compiled is found again wherever and whenever it would be compiled as it is."""

import ast
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from numba import config

from model import compiling
from model.code_folders import own_folder
from tests.conftest import ROOT

_MODEL = ROOT / "model"
# In the place of the kernels: as much as takes a second.
_KERNELS = """
import numpy as np
from model.compiling import compiled
from model.elementary import exp

@compiled("void(float64[::1])")
def exponentiate(values):
    for i in range(len(values)):
        values[i] = exp(halve(values[i]))

@compiled("float64(float64)")
def halve(x):
    return x / 2
"""
_START = """
import numba, numpy as np
from model.compiling import compile_all
compile_all()
compile_all()
from model.engines import kernels
values = np.zeros(2)
kernels.exponentiate(values)
functions = kernels.halve, kernels.exponentiate
hits, misses = (
    sum(sum(getattr(function.stats, name).values()) for function in functions)
    for name in ("cache_hits", "cache_misses")
)
assert numba.config.CACHE_LOCATOR_CLASSES == ""  # others' functions are kept as ever
print(values, kernels.halve(3), hits, misses)
"""
LOADED = "[1. 1.] 1.5 2 0\n"
COMPILED = "[1. 1.] 1.5 0 2\n"


def copy_model(folder: Path) -> Path:
    """A package `model` with two kernels."""
    package = folder / "model"
    for module in compiling._MODULES:
        path = package.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in (package, path.parent):
            (parent / "__init__.py").touch()
        path.write_text(_KERNELS if module == "engines.kernels" else "")
    for name in ("compiling.py", "code_folders.py", "elementary.py"):
        shutil.copy(_MODEL / name, package)
    return package


def start(package: Path, cache: Path, *command: str, **environ: str) -> subprocess.Popen[str]:
    """Starts a process without a home."""
    kept = {k: v for k, v in os.environ.items() if k != "HOME" and not k.startswith("NUMBA_")}
    ours = {"PYTHONPATH": str(package.parent), "XDG_CACHE_HOME": str(cache)}
    return subprocess.Popen(
        [sys.executable, *(command or ("-c", _START))],
        cwd=package.parent,
        env={**kept, **ours, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """The package after two processes have started at once, and their answers."""
    folder = tmp_path_factory.mktemp("first")
    package = copy_model(folder)
    processes = [start(package, folder / "cache") for _ in range(2)]
    return package, sorted(map(answer, processes))


@pytest.fixture
def package(first: tuple[Path, list[tuple[str, str]]], tmp_path: Path) -> Path:
    """A copy of the package, and of its cache next to it."""
    shutil.copytree(first[0].parent, tmp_path / "copy")
    return tmp_path / "copy" / "model"


def kept(package: Path) -> Path:
    """The folder of the only level."""
    (folder,) = package.parent.glob("cache/dropserve/*")
    return folder


@pytest.mark.slow
def test_of_processes_that_start_together_one_compiles_and_says_so(
    first: tuple[Path, list[tuple[str, str]]],
) -> None:
    package, answers = first
    assert [out for out, _ in answers] == [LOADED, LOADED]  # compiled in a process of its own
    silent, said = sorted(err for _, err in answers)
    assert silent == ""
    assert said.startswith(f"compiling the engine for {compiling._level()} CPUs, once ")
    assert said.endswith(f" s; kept in {kept(package)}\n")
    assert stat.S_IMODE(kept(package).stat().st_mode) == 0o700


@pytest.mark.slow
def test_only_the_contents_of_the_sources_count_and_all_of_them(package: Path) -> None:
    for source in package.rglob("*.py"):
        os.utime(source, (1, 1))
    assert answer(start(package, package.parent / "cache")) == (LOADED, "")
    with (package / "elementary.py").open("a") as file:
        file.write("\n")
    out, err = answer(start(package, package.parent / "cache"))
    assert out == LOADED
    assert err.startswith("compiling ")


@pytest.mark.slow
def test_the_installation_has_all_levels_and_needs_no_place_to_write(package: Path) -> None:
    shutil.rmtree(package.parent / "cache")
    nowhere = package / "compiling.py"
    answer(start(package, nowhere, "-m", "model.compiling"))
    levels = list((package / "compiled").iterdir())
    assert {level.name.rpartition("-")[0] for level in levels} == set(compiling.LEVELS)
    for path in (*levels, *(file for level in levels for file in level.iterdir())):
        assert path.stat().st_mode & 0o055 >= 0o044  # whoever runs it
        path.chmod(path.stat().st_mode & 0o555)
    before = sorted((path, path.stat().st_mtime_ns) for path in package.rglob("*"))
    unused = package.parent / "unused"
    starts = [
        start(package, unused, PYTHONDONTWRITEBYTECODE="1", NUMBA_CPU_NAME=level)
        for level in compiling.LEVELS
    ]
    assert [answer(process) for process in starts] == [(LOADED, "")] * len(starts)
    assert sorted((path, path.stat().st_mtime_ns) for path in package.rglob("*")) == before
    assert not unused.exists()


@pytest.mark.slow
def test_without_a_place_to_write_every_start_compiles_and_says_so(
    package: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    out, err = answer(start(package, package / "compiling.py", TMPDIR=str(temporary)))
    assert out == COMPILED
    assert err.endswith("; not kept: set NUMBA_CACHE_DIR to a folder that this user can write\n")
    assert not list(temporary.iterdir())


def interrupt(folder: Path) -> None:
    (folder / "complete").unlink()
    next(folder.glob("*.nbi")).write_bytes(b"")


def damage(folder: Path) -> None:
    file = next(folder.glob("*.nbc"))
    file.write_bytes(file.read_bytes()[:100])


def lose(folder: Path) -> None:
    next(folder.glob("*.nbi")).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [interrupt, damage, lose])
def test_a_spoilt_folder_is_compiled_again(package: Path, spoil: Callable[[Path], None]) -> None:
    spoil(kept(package))
    out, err = answer(start(package, package.parent / "cache"))
    assert out == LOADED
    assert f"kept in {kept(package)}" in err
    assert answer(start(package, package.parent / "cache")) == (LOADED, "")


def open_to_others(folder: Path) -> None:
    folder.chmod(0o777)


def give_away(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    os.chown(folder, 12345, 12345)


def replace_by_link(folder: Path) -> None:
    folder.symlink_to(folder.rename(folder.with_name("elsewhere")))


@pytest.mark.slow
@pytest.mark.parametrize("expose", [open_to_others, give_away, replace_by_link])
def test_code_that_another_user_could_have_written_is_not_loaded(
    package: Path, expose: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = kept(package)
    assert own_folder(str(folder.parent), folder.name) == folder
    expose(folder)
    assert own_folder(str(folder.parent), folder.name) is None


@pytest.mark.parametrize("cache_home", ["", "relative/cache"])
def test_the_cache_is_never_where_the_process_happens_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_home: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", cache_home)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert own_folder("", "name") == tmp_path / "home" / ".cache" / "dropserve" / "name"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no home is known
    assert own_folder("", "name") is None
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_level_is_by_features(monkeypatch: pytest.MonkeyPatch) -> None:
    features = dict.fromkeys(compiling._V3, True)
    monkeypatch.setattr(compiling, "LEVELS", ("x86-64-v3", "generic"))
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: features)
    assert compiling._level() == "x86-64-v3"
    features["fma"] = False
    assert compiling._level() == "generic"


@pytest.mark.parametrize(
    ("name", "value"), [("CPU_FEATURES", "+avx"), ("OPT", 0), ("BOUNDSCHECK", 1)]
)
def test_what_changes_the_code_changes_the_folder(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    before = compiling._folder_name()
    monkeypatch.setattr(config, name, value)
    assert compiling._folder_name() != before


def _decorators(tree: ast.Module) -> list[ast.Call]:
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    calls = [call for each in functions for call in each.decorator_list]
    return [
        call
        for call in calls
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "compiled"
    ]


def test_every_module_with_compiled_functions_is_known() -> None:
    found = set()
    for path in _MODEL.rglob("*.py"):
        if any(call.args for call in _decorators(ast.parse(path.read_text()))):
            found.add(".".join(path.relative_to(_MODEL).with_suffix("").parts))
    assert found == set(compiling._MODULES)


def test_numbers_that_a_compiled_function_has_from_another_file_name_the_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ("RATE_STEPS", 256) in compiling._constants
    before = compiling._folder_name()
    monkeypatch.setattr(compiling, "_constants", {("RATE_STEPS", 128)})
    assert compiling._folder_name() != before


def test_other_constants_of_a_compiled_function_are_from_files_that_name_the_folder() -> None:
    with_code = {path for path in _MODEL.rglob("*.py") if "@compiled(" in path.read_text()}
    numbers = {name for name, _ in compiling._constants}
    for path in with_code:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("model"):
                source = ROOT.joinpath(*str(node.module).split(".")).with_suffix(".py")
                constants = {alias.name for alias in node.names if alias.name.isupper()} - numbers
                assert not constants or source in with_code, (path, constants)
