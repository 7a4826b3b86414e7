"""Rows of numbers that several processes share."""

from pathlib import Path

import numpy as np
import pytest

from app.telemetry.shared_memory import SharedCounts


@pytest.fixture(params=["in this process", "in a file"])
def counts(request: pytest.FixtureRequest, tmp_path: Path) -> SharedCounts:
    if request.param == "in this process":
        return SharedCounts(3, 4)
    SharedCounts.create_file(tmp_path / "counts", 3, 4)
    return SharedCounts(3, 4, tmp_path / "counts")


def test_the_total_is_the_sum_over_the_rows(counts: SharedCounts) -> None:
    for index in range(3):
        row = counts.row(index)
        row[index] += 1.5
        row[3] = 10**index

    assert np.array_equal(counts.total(), [1.5, 1.5, 1.5, 111])


def test_texts_do_not_touch_the_numbers(counts: SharedCounts) -> None:
    counts.row(0)[3] = counts.row(1)[0] = 1
    counts.write_text(1, "x" * 1000)
    counts.write_text(2, "short")
    counts.write_text(2, "s")

    assert counts.texts() == ["x" * 256, "s"]
    assert np.array_equal(counts.total(), [1, 0, 0, 1])


def test_a_text_may_be_cut_within_a_character(counts: SharedCounts) -> None:
    counts.write_text(0, "x" + "\N{SNOWMAN}" * 100)

    assert counts.texts() == ["x" + "\N{SNOWMAN}" * 85]


def test_what_one_process_counts_another_reads(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    SharedCounts.create_file(path, 2, 1)
    one, other = SharedCounts(2, 1, path), SharedCounts(2, 1, path)
    one.row(0)[0] = 7
    one.write_text(0, "seven")

    assert other.total().tolist() == [7]
    assert other.texts() == ["seven"]
