"""Pages show the saved output of commands, and tables as the code has them."""

import sys
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


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> object:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["update.py", *options])
    monkeypatch.setattr(update, "outdated", list)
    with pytest.raises(SystemExit) as ended:
        update.main()
    return ended.value.code


def test_commands_run_again_and_are_saved_unless_they_fail(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails, works = output / "fails.txt", output / "works.txt"
    fails.write_text("$ echo new; exit 3\nold\n")
    works.write_text("$ echo $((1 + 1))\n")

    assert run(monkeypatch, "works") == 0
    assert works.read_text() == "$ echo $((1 + 1))\n2\n"

    works.write_text("$ echo $((1 + 1))\n")
    assert run(monkeypatch, "--all") == 1
    assert capsys.readouterr().out == "fails: exit code 3\n"
    assert works.read_text() == "$ echo $((1 + 1))\n2\n"
    assert fails.read_text() == "$ echo new; exit 3\nold\n"


def test_what_moved_by_more_than_a_tenth_is_printed_and_nothing_saved(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "printf 'EPYC, float32\\nloop  16 1,100 0.50 (0.40-0.60)\\nbatch 16   890 1e-3\\n'"
    before = f"$ {command}\nXeon, float32\nloop 16 1,000 0.50 (0.4-0.7)\nbatch 16 1000 0.001\n"
    table, steady = output / "table.txt", output / "steady.txt"
    table.write_text(before)
    steady.write_text("$ echo 99\n100\n")

    assert run(monkeypatch, "--all", "--compare") == 1
    assert capsys.readouterr().out.splitlines() == [
        "table: gone: Xeon, float32",
        "table: new: EPYC, float32",
        "table: loop 16 1,000 0.50 (0.4-0.7): 0.7 is now 0.60",
        "table: batch 16 1000 0.001: 1000 is now 890",
    ]
    assert (table.read_text(), steady.read_text()) == (before, "$ echo 99\n100\n")
    assert run(monkeypatch, "--compare", "steady") == 0
