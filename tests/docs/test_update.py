"""Pages show the saved output of commands, and tables as the code has them."""

import subprocess
from pathlib import Path

import pytest

from docs import update
from tests.pages import PAGES, commands_of, read


def test_pages_are_up_to_date() -> None:
    assert update.outdated() == [], "python docs/update.py brings them up to date"


def test_every_printed_output_is_inserted_and_every_saved_one_shown() -> None:
    shown = set()
    for page in PAGES:
        text = read(page)
        regions = [found[0] for found in update.REGION.finditer(text)]
        shown |= {found["name"] for found in update.REGION.finditer(text)}
        for command, output in commands_of(page):
            assert not output or any(f"$ {command}\n{output}```" in one for one in regions), command
    assert {path.stem for path in update.OUTPUT.iterdir()} | update.TABLES.keys() == shown


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(update, "OUTPUT", tmp_path)
    return tmp_path


def test_an_output_takes_the_place_of_what_was_there(output: Path) -> None:
    (output / "greet.txt").write_text("$ echo hello\nhello\n")
    page = "One.\n\n<!-- output: greet -->\nold\n<!-- end -->\n\nTwo.\n"

    once = update.updated(page)

    block = "```console\n$ echo hello\nhello\n```"
    assert once == f"One.\n\n<!-- output: greet -->\n{block}\n<!-- end -->\n\nTwo.\n"
    assert update.updated(once) == once


def test_a_table_is_a_table_whatever_its_cells_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = iter([("name", "meaning"), ("`a`", "one | two\n<b>")])
    monkeypatch.setitem(update.TABLES, "settings", lambda: rows)

    text = update.updated("<!-- table: settings -->\n<!-- end -->")

    assert text.splitlines()[2:-2] == [
        "| name | meaning |",
        "| --- | --- |",
        r"| `a` | one \| two \<b> |",
    ]


def test_a_command_runs_again_and_is_saved_unless_it_fails(output: Path) -> None:
    saved = output / "one.txt"
    saved.write_text("$ echo $((1 + 1))\n")
    update.rerun("one")
    assert saved.read_text() == "$ echo $((1 + 1))\n2\n"

    saved.write_text("$ echo new; exit 3\nold\n")
    with pytest.raises(subprocess.CalledProcessError):
        update.rerun("one")
    assert saved.read_text() == "$ echo new; exit 3\nold\n"
