"""Scoring on threads: a run that was stopped is continued by another."""

import random
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from app.scoring import sources
from tests.app.scoring.inputs import PIXELS, write_idx
from tests.app.scoring.runs import score, start, until

BLOCK_ROWS = 64  # small, so that a run of few images has ten


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_ROWS", BLOCK_ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_ends_and_another_continues(how: signal.Signals, tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", np.concatenate([PIXELS] * 20))
    output = tmp_path / "table.parquet"
    arguments = (source, "-o", output, "--passes", "50", "--seed", "1", "--workers", "2")
    process = start(*arguments, block_rows=BLOCK_ROWS)
    parts = output.with_name("table.parquet.parts")
    until(lambda: any(parts.glob("*.arrow")), process)
    process.send_signal(how)

    _, errors = process.communicate(timeout=60)

    assert not output.exists(), errors
    if how is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert errors.endswith("\ndropserve: interrupted; run the same command again to continue\n")
        assert "Traceback" not in errors
    assert score(*arguments[:1], *arguments[3:], output=output) == 0
    table = pq.read_table(output)
    assert table["row"].to_pylist() == list(range(32 * 20))


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", np.concatenate([PIXELS] * 20))
    plain, output = tmp_path / "plain.parquet", tmp_path / "table.parquet"
    arguments = (source, "--seed", "1", "--passes", "100")
    manifest = output.with_name("table.parquet.parts") / "manifest.json"
    for _ in range(2):
        process = start(*arguments, "-o", output, "--workers", "2", block_rows=BLOCK_ROWS)
        until(manifest.exists, process)
        time.sleep(random.uniform(0, 3))
        process.kill()
        process.communicate(timeout=60)

    assert score(*arguments, output=output) == 0

    assert score(*arguments, output=plain) == 0
    assert output.read_bytes() == plain.read_bytes()
    assert pq.read_table(output)["row"].to_pylist() == list(range(32 * 20))
