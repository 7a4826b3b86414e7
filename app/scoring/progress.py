"""How far a run is: a bar on a terminal, a line now and then in a log."""

import time
from typing import Any, TextIO

from tqdm import tqdm

# In a log.
_SECONDS_BETWEEN_LINES = 30.0
# More than these would bury everything else; the list of failures has them all.
_SHOWN_FAILURES = 10


class Progress:
    """Counts images, says the rate and the time left, and reports the first failures.

    Args:
        stream: standard error.
        total: images of the whole input.
    """

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._total = total
        self._bar: Any = tqdm(
            total=total, unit="image", file=stream, disable=None, smoothing=0.1, dynamic_ncols=True
        )
        self.seconds = 0.0
        self.start_seconds = 0.0  # until the first images were scored
        self.scored = 0  # in this run
        self.done = 0
        self.failed = 0
        self._started = self._last_line = time.monotonic()
        self._shown = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started
        self._bar.close()

    def found(self, rows: int, failed: int) -> None:
        """Images that an earlier run has scored."""
        self.done += rows
        self.failed += failed
        if not self._bar.disable:
            # What it does not count into the rate.
            self._bar.initial += rows
            self._bar.n += rows

    def advance(self, rows: int, failures: list[dict[str, Any]]) -> None:
        """Images that this run has scored."""
        now = time.monotonic()
        if self.scored == 0:
            self.start_seconds = now - self._started
        self.done += rows
        self.scored += rows
        self.failed += len(failures)
        lines = [
            f"dropserve: {failure['source']}: {failure['message']}"
            for failure in failures[: _SHOWN_FAILURES - self._shown]
        ]
        self._shown += len(lines)
        if lines and self._shown == _SHOWN_FAILURES:
            lines.append(
                "dropserve: further failures are only listed, in the file next to the table"
            )
        self._bar.update(rows)
        if self._bar.disable and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = self.scored / (now - self._started)
            left = tqdm.format_interval((self._total - self.done) / rate)
            lines.append(
                f"{self.done:,} of {self._total:,} images, {rate:,.0f}/s, {left} left, "
                f"{self.failed:,} failed"
            )
        if lines:
            tqdm.write("\n".join(lines), file=self._stream)
