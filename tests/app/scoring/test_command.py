"""`dropserve score`: its options."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.__main__ import main
from tests.app.scoring.runs import score
from tests.conftest import ROOT, SAMPLES


@pytest.mark.parametrize(
    "wrong", [["--passes", "0"], ["--seed", "-1"], ["--checkpoint", "none.safetensors"]]
)
def test_wrong_usage_is_refused(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(SAMPLES / "7.png", *wrong, output=tmp_path / "t.parquet") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_workers_are_a_number_of_at_least_one(
    workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["score", "7.png", "-o", str(tmp_path / "t.parquet"), "--workers", workers])
    assert caught.value.code == 2
    assert "--workers" in capsys.readouterr().err


def test_help_needs_no_package_of_an_extra() -> None:
    code = (
        "import sys; from app.__main__ import main\n"
        "try: main(['score', '--help'])\n"
        "except SystemExit: print(*{'pyarrow', 'ray', 'torch'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.endswith("2 wrong usage,\n130 Ctrl-C\n\n")


@pytest.mark.parametrize(("module", "extra"), [("pyarrow.parquet", "score"), ("ray", "ray")])
def test_a_package_that_is_missing_is_named_with_its_extra(
    module: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> int:
        raise ModuleNotFoundError(name=module)

    monkeypatch.setattr("app.cli.scoring.run_score", fail)

    assert score(SAMPLES / "7.png", output=tmp_path / "t.parquet") == 1
    assert f"pip install 'dropserve[{extra}]'" in capsys.readouterr().err


def test_another_missing_module_is_a_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise ModuleNotFoundError(name="app.none")

    monkeypatch.setattr("app.cli.scoring.run_score", fail)

    with pytest.raises(ModuleNotFoundError):
        main(["score", "7.png", "-o", str(tmp_path / "t.parquet")])
