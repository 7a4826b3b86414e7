"""Pages: their links and addresses lead somewhere, their words and figures are right."""

import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from app.errors import ErrorCode
from docs.update import OUTPUT, REGION
from tests.conftest import ROOT
from tests.pages import ALL_PAGES, PAGES, read

MODEL_CARD = "model/checkpoints/README.md"
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r'\]\(([^)\s]+)\)|(?:src|srcset)="([^"]+)"')
_PATH = re.compile(r"`((?:app|model|training|tests|deploy|docs)/[\w./-]*)`")
# Numbers that a page repeats from the saved output of a command.
FIGURES = {
    ("README.md", "bench-engine"): ["87.1"],
    ("README.md", "evaluate"): ["0.42"],
    ("docs/quality.md", "evaluate"): ["0.42", "96.66", "0.02"],
    ("docs/performance.md", "bench-engine"): ["87.1"],
    ("docs/capacity.md", "capacity"): ["25"],
    ("docs/comparison.md", "comparison"): ["5.1", "7.0", "4.1", "4.9", "5.9", "3.6", "2.5"],
    ("docs/protocol.md", "v2-mutations"): ["20,000"],
    ("docs/experiments.md", "compare-relu"): ["0.0002"],
    ("docs/experiments.md", "regularisers"): ["1.52", "1.45", "0.07", "0.06", "0.02", "0.21"],
    ("docs/experiments.md", "rotate"): ["0.01", "0.99"],
    ("docs/experiments.md", "sweep"): ["3.69", "2.69", "3.55", "3.67"],
}


def prose_of(page: str) -> str:
    """What people wrote: without generated regions, blocks of code and inline code."""
    text = _FENCE.sub("", REGION.sub("", read(page)))
    return re.sub(r"`[^`]*`", "", text)


def anchors_of(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[str, str]]:
    for page in [*ALL_PAGES, MODEL_CARD]:
        for found in _LINK.finditer(_FENCE.sub("", read(page))):
            yield page, found[1] or found[2]


def test_the_page_of_refusals_names_every_error_code_and_its_status() -> None:
    page = read("docs/refusals.md")

    missing = {code.text for code in ErrorCode if f"{code.status} `{code.text}`" not in page}

    assert not missing


def test_links_lead_to_files_and_headings() -> None:
    for page, link in links():
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{page}: {link}"


def test_the_index_lists_every_page() -> None:
    listed = {Path(link).name for page, link in links() if page == "docs/README.md"}
    assert {Path(page).name for page in PAGES} <= {*listed, "README.md"}


def test_the_changelog_has_the_version_first() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    versions = re.findall(r"^## \[(.*)\]$", read("CHANGELOG.md"), re.MULTILINE)
    assert versions[:2] == ["Unreleased", project["version"]]


def test_the_readme_is_a_landing_page() -> None:
    assert len(read("README.md").splitlines()) <= 160


@pytest.mark.parametrize("page", ALL_PAGES)
def test_paths_and_commands_that_a_page_names_exist(page: str) -> None:
    for path in _PATH.findall(read(page)):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ([\w.]+)|`(tests\.[\w.]+)`", read(page)):
        assert find_spec(module[0] or module[1]), module


def test_every_test_that_a_page_names_exists() -> None:
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    for page, least in (("docs/threat-model.md", 90), ("docs/promises.md", 15)):
        assert len(re.findall(r"`test_\w+`", read(page))) > least
    for page in ALL_PAGES:
        assert set(re.findall(r"`(test_\w+)`", read(page))) <= defined, page


@pytest.mark.parametrize(("page", "name"), FIGURES)
def test_figures_in_prose_are_those_of_the_output(page: str, name: str) -> None:
    prose, output = prose_of(page), Path(OUTPUT, f"{name}.txt").read_text()
    for figure in FIGURES[page, name]:
        number = re.compile(rf"(?<![\d.,]){re.escape(figure)}(?![\d]|[.,]\d)")
        assert number.search(prose), figure
        assert number.search(output), figure


@pytest.mark.parametrize("page", ["docs/api.md", "docs/protocol.md"])
async def test_addresses_that_a_page_names_are_served(client: httpx.AsyncClient, page: str) -> None:
    addresses = re.findall(r"`(GET|POST) (/\S*)`", read(page))
    assert len(addresses) > 8
    for method, path in addresses:
        answer = await client.request(method, path.replace("NAME", "mnist-mc"))
        is_off = "is off; DROPSERVE_" in answer.text  # until a setting turns it on
        assert answer.status_code not in (404, 405) or is_off, path
