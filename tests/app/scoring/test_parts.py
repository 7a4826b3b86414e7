"""Parts of the table: a run that was killed goes on, and the finished table is not made again."""

from pathlib import Path

import pytest

from app.scoring import parts, sources
from model.files import write_atomically
from tests.app.scoring.inputs import (
    PIXELS,
    write_idx,
)
from tests.app.scoring.runs import failures, rows, score
from tests.conftest import SAMPLES


def test_a_finished_table_is_not_made_again_nor_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "table.parquet"
    assert score(SAMPLES / "7.png", "--passes", "2", output=output) == 0
    before = output.read_bytes()

    assert score(SAMPLES / "7.png", "--passes", "2", output=output) == 0
    assert "is there already" in capsys.readouterr().err
    assert score(SAMPLES / "7.png", "--passes", "3", output=output) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [output]

    assert score(SAMPLES / "7.png", "--passes", "3", "--overwrite", output=output) == 0
    assert output.read_bytes() != before


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", 5)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("writes", [1, 3, 7])
def test_a_run_goes_on_where_it_was_killed(
    small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    plain, output = tmp_path / "plain.parquet", tmp_path / "table.parquet"
    arguments = (source, SAMPLES / "none.png", "--seed", "1", "--passes", "2")
    assert score(*arguments, output=plain) == 1
    written: list[Path] = []

    def write_some(path: Path, content: bytes) -> None:
        if len(written) == writes:
            raise Killed
        written.append(path)
        write_atomically(path, content)

    monkeypatch.setattr(parts, "write_atomically", write_some)
    with pytest.raises(Killed):
        score(*arguments, output=output)
    monkeypatch.setattr(parts, "write_atomically", write_atomically)
    assert not output.exists()
    done = set(output.with_name("table.parquet.parts").glob("*.parquet"))
    assert len(done) == writes - 1  # the first is the manifest

    assert score(*arguments[:-1], "3", output=output) == 2  # other settings
    assert score(*arguments, output=output) == 1

    assert [row["row"] for row in rows(output)] == list(range(len(PIXELS)))
    assert output.read_bytes() == plain.read_bytes()
    assert failures(output) == failures(plain)
