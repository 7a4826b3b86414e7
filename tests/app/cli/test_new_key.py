"""`dropserve new-key`."""

from pathlib import Path

import pytest

from app.api.auth import ApiKeys
from tests.app.cli.conftest import run


def test_a_new_key_is_shown_once_and_its_line_lets_it_in(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("new-key", "alice and bob") == 0
    line, shown = capsys.readouterr()
    key = shown.split()[-1]
    file = tmp_path / "keys"
    file.write_text(line)

    assert key not in line
    assert line.endswith("  alice and bob\n")
    assert ApiKeys(file).admits(key.encode())
