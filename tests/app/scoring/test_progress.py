"""How far a run is, in a log that is no terminal."""

import io
from typing import Any

import pytest

from app.cli.scoring import Progress


def failed(count: int) -> list[dict[str, Any]]:
    return [{"source": f"{number}.png", "message": "no ink"} for number in range(count)]


def test_images_of_earlier_runs_count_as_done_and_not_as_scored() -> None:
    with Progress(io.StringIO(), 100) as shown:
        shown.found(40, 2)
        shown.advance(10, failed(1))

    assert (shown.done, shown.scored, shown.failed) == (50, 10, 3)
    assert 0 <= shown.start_seconds <= shown.seconds


def test_the_first_failures_are_shown_and_then_a_reference_to_the_list() -> None:
    stream = io.StringIO()
    with Progress(stream, 100) as shown:
        shown.advance(8, failed(8))
        shown.advance(8, failed(8))

    lines = stream.getvalue().splitlines()
    assert lines[0] == "dropserve: 0.png: no ink"
    assert len(lines) == 10 + 1
    assert "further failures are only listed" in lines[-1]
    assert shown.failed == 16


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("app.cli.scoring.time.monotonic", lambda: now)
    stream = io.StringIO()
    with Progress(stream, 1000) as shown:
        for seconds in (10, 20, 40, 50):
            now = float(seconds)
            shown.advance(100, [])

    assert stream.getvalue().splitlines() == ["300 of 1,000 images, 8/s, 01:33 left, 0 failed"]
