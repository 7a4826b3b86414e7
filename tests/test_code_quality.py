"""Lint, formatting, types, the direction of imports, sizes and words: one command checks all."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "model", "training")

MOST_LINES = {"app": 16_310, "training": 8_115, "model/digits": 600}
MOST_LINES_OF_A_FILE = 400
MOST_ENTRIES = 12
LONGEST_CHAIN = 9

# Words that are not used, as regular expressions, and what is used in their place.
WORDS = {
    "asks? for so": "say what is asked for",
    "beside": "next to, with, or besides",
    "doubts?": "predictive uncertainty, or entropy; only the playground speaks of doubt",
    "(living|silent) (hidden )?units?": "active, inactive unit",
    "so many": "the number, or: that many",
    "tell|tells|telling|told": "say, show, report, identify; know",
    "what is to be": "say what is done",
}
# Where a word is right: what the playground says, and the tests of it.
ALLOWED = {"doubts?": ("app/static/", "tests/browser/")}
# Other people's words, and this table.
NOT_OURS = ("app/static/swagger-ui/", "tests/test_code_quality.py")
WRITTEN = {".css", ".html", ".js", ".lua", ".md", ".py", ".toml", ".yaml"}


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


@pytest.mark.slow
@pytest.mark.timeout(300)  # without a cache it takes a minute, and more on a busy machine
def test_mypy_finds_nothing() -> None:
    run("mypy")


@pytest.mark.slow
def test_bandit_finds_nothing() -> None:
    run("bandit", "--quiet", "--recursive", "--configfile", "pyproject.toml", *PACKAGES)


def test_whatever_bandit_shall_pass_over_has_its_reason() -> None:
    for package in PACKAGES:
        for module in modules(package):
            for line in module.read_text().splitlines():
                if "nosec" in line:
                    assert re.search(r"# nosec B\d{3}: \w+", line), line


def test_imports_keep_their_contracts() -> None:
    program = str(Path(sys.executable).with_name("lint-imports"))
    done = subprocess.run(
        [program, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_model_knows_no_environment() -> None:
    # But for where the user's cache is, and for the processes that compile for all levels.
    compiles = {ROOT / "model" / name for name in ("code_folders.py", "compiling.py")}
    for module in {*modules("model")} - compiles:
        assert "os.environ" not in module.read_text(), module


def test_chains_of_imports_are_short() -> None:
    graph = grimp.build_graph("app", cache_dir=None, exclude_type_checking_imports=True)
    imported = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    chains: dict[str, list[str]] = {}
    for name in TopologicalSorter(imported).static_order():
        longest = max((chains[other] for other in sorted(imported[name])), key=len, default=[])
        chains[name] = [name, *longest]
    longest = max(chains.values(), key=len)
    assert len(longest) <= LONGEST_CHAIN, " -> ".join(longest)


def test_the_top_of_the_server_is_seen_at_a_glance() -> None:
    aside = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}
    entries = {path.name for path in (ROOT / "app").iterdir() if path.suffix != ".md"} - aside
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_no_file_is_long() -> None:
    lines = {
        path: len(path.read_text().splitlines()) for name in PACKAGES for path in modules(name)
    }
    too_long = {path: count for path, count in lines.items() if count > MOST_LINES_OF_A_FILE}
    assert not too_long


@pytest.mark.parametrize("package", MOST_LINES)
def test_a_package_stays_small(package: str) -> None:
    lines = sum(len(path.read_text().splitlines()) for path in modules(package))
    assert lines <= MOST_LINES[package]


def written_files() -> Iterator[tuple[str, str]]:
    """Path and text of everything that people wrote."""
    folders = [ROOT / name for name in (*PACKAGES, "deploy", "docs", "tests")]
    top = [path for path in ROOT.iterdir() if path.is_file()]
    for path in sorted(
        [*top, *(ROOT / ".ci").iterdir(), *(p for f in folders for p in f.rglob("*"))]
    ):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(NOT_OURS) or path.is_symlink():
            continue
        if path.suffix in WRITTEN or name in ("Dockerfile", ".ci/lock", ".ci/run"):
            yield name, path.read_text()


@pytest.mark.parametrize("word", WORDS)
def test_words_are_those_of_the_field(word: str) -> None:
    # A sentence may be broken anywhere, in a comment, too; names have their words between "_".
    pattern = word.replace(" ", r"[\s#_]+")
    forbidden = re.compile(rf"(?<![a-zA-Z])({pattern})(?![a-zA-Z])", re.IGNORECASE)
    found = [
        f"{name}:{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]}"
        for name, text in written_files()
        if not name.startswith(ALLOWED.get(word, ()))
        for hit in forbidden.finditer(text)
    ]
    assert not found, f"{WORDS[word]}\n" + "\n".join(found)


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


def test_every_module_says_what_it_is_for() -> None:
    for package in PACKAGES:
        for module in modules(package):
            assert ast.get_docstring(ast.parse(module.read_text())), module
