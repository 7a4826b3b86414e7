"""The instructions of an answer stay within 3 % of what they were."""

import shutil

import pytest

from tests.load import instructions


@pytest.mark.slow
def test_answers_take_as_many_instructions_as_before() -> None:
    if missing := [tool for tool in instructions.TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"{' and '.join(missing)} is not installed")
    baseline = instructions.read_baseline()
    if baseline is None:
        pytest.skip(f"no baseline for {instructions.key()}: tests.load.instructions --refresh")

    counts = instructions.count_instructions()

    assert counts.keys() == baseline.keys()
    for name, change in instructions.changes(counts, baseline).items():
        assert abs(change) <= instructions.MOST_CHANGE, (
            f"{name}: {change:+.1%}; if that is meant, python -m tests.load.instructions --refresh"
        )
