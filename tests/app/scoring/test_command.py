"""`dropserve score`: its options."""

from pathlib import Path

import pytest

from tests.app.scoring.runs import score
from tests.conftest import SAMPLES


@pytest.mark.parametrize(
    "wrong", [["--passes", "0"], ["--seed", "-1"], ["--checkpoint", "none.safetensors"]]
)
def test_wrong_usage_is_refused(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(SAMPLES / "7.png", *wrong, output=tmp_path / "t.parquet") == 2
    assert capsys.readouterr().err.count("\n") == 1
