"""Erases lines that are no ink: printed ones of ruled or squared paper, and underlines."""

import cv2
import numpy as np

from model.arrays import Bitmap, Pixels

# The picture is divided into strips across the lines, each with at least this width, pixels. A line
# is visible in at least this share of the strips.
_STRIPS, _LEAST_STRIP, _LEAST_SHARE = 12, 5, 0.75
# Slopes of lines on a sheet that is held by hand, as tangents: up to 5 degrees.
_SLOPES = np.linspace(-0.09, 0.09, 25)
# Lines are at most this thick, as a share of the picture's longer side, and at least this dark.
_THICKEST, _FAINTEST = 0.03, 6

# A line that the digit stands on or hangs from ends beyond it on both sides, by at least `_BEYOND`,
# and is at least `_LONG` and at most `_THICK`, as shares of the longer side of both together.
_BEYOND, _LONG, _THICK = 0.12, 0.88, 0.16


def remove_lines(darkness: Pixels) -> Pixels:
    """Erases lines from edge to edge, except where ink crosses them.

    A single line is kept: it could be the bar of a digit that fills the picture.
    """
    ends = darkness[0], darkness[-1], darkness[:, 0], darkness[:, -1]
    if min(darkness.shape) < _STRIPS * _LEAST_STRIP or sum(map(np.count_nonzero, ends)) < 4:
        return darkness
    across, down = _trace_lines(darkness), _trace_lines(cv2.transpose(darkness))
    if across[0] + down[0] < 2:
        return darkness
    return cv2.transpose(_erase(cv2.transpose(_erase(darkness, *across)), *down))


def _trace_lines(darkness: Pixels) -> tuple[int, Bitmap, Pixels]:
    """Returns the number of roughly horizontal lines, where they are, and what is left of ink."""
    height, width = darkness.shape
    post = np.ones((max(5, round(_THICKEST * max(height, width)) + 1), 1), dtype=np.uint8)
    opened = cv2.morphologyEx(darkness, cv2.MORPH_OPEN, post, borderType=cv2.BORDER_REPLICATE)
    thin = cv2.threshold(cv2.subtract(darkness, opened), _FAINTEST, 255, cv2.THRESH_BINARY)[1]
    # Three rows hold a line that climbs within the strip.
    thin = cv2.dilate(thin, np.ones((3, 1), np.uint8))
    strip = width // _STRIPS
    covered = cv2.resize(
        thin[:, : strip * _STRIPS], (_STRIPS, height), interpolation=cv2.INTER_AREA
    )
    present = covered > 127
    if np.count_nonzero(present.any(axis=0)) < _LEAST_SHARE * _STRIPS:
        return 0, darkness < 0, opened
    middles = (np.arange(_STRIPS) - (_STRIPS - 1) / 2) * strip
    rows = np.arange(height)[:, None] + np.rint(_SLOPES[:, None, None] * middles).astype(np.int64)
    inside = (rows >= 0) & (rows < height)
    hits = present[rows.clip(0, height - 1), np.arange(_STRIPS)] & inside
    seen = np.maximum(np.count_nonzero(inside, axis=2), _STRIPS // 2)
    is_line = np.count_nonzero(hits, axis=2) >= _LEAST_SHARE * seen
    best = int(np.count_nonzero(is_line, axis=1).argmax())
    edges = np.diff(is_line[best].astype(np.int8), prepend=0, append=0)
    begins, ends = (edges == 1).nonzero()[0], (edges == -1).nonzero()[0]
    where = np.zeros_like(darkness)
    rise = float(_SLOPES[best]) * width / 2
    for begin, end in zip(begins, ends, strict=True):
        row = (begin + end - 1) / 2
        start, stop = (0, round(row - rise)), (width - 1, round(row + rise))
        cv2.line(where, start, stop, 1, len(post) + 2)
    return len(begins), where > 0, opened


def _erase(darkness: Pixels, count: int, where: Bitmap, opened: Pixels) -> Pixels:
    """Replaces lines by what is darker both above and below them."""
    if not count:
        return darkness
    values = np.sort((darkness - opened)[where])
    values = values[values > _FAINTEST]
    level = int(values[len(values) // 2])
    ink = int(np.sort(darkness, axis=None)[-1 - darkness.size // 200])
    # Ink on a line, or along it, is darker than the line and is kept.
    is_line = where & (darkness <= max((level + ink) // 2, level + level // 3))
    return np.where(is_line, opened, darkness)


def strip_line(mask: Pixels) -> None:
    """Erases from a digit a line under it or over it, which it touches."""
    left, top, width, height = cv2.boundingRect(mask)
    if width < _LONG * height:
        return
    side = max(width, height)
    ink = mask[top : top + height, left : left + width]
    counts = ink.sum(axis=0, dtype=np.int64)
    first, last = ink.argmax(axis=0), height - 1 - ink[::-1].argmax(axis=0)
    middle = (first + last) / 2
    y, x = np.arange(height)[:, None], np.arange(width)
    for below in (False, True):
        from_edge = height - 1 - middle if below else middle
        alone = (last - first + 1 <= max(2, _THICK * side)) & (from_edge <= _THICK * side)
        ends = int(np.append(alone, False).argmin()), int(np.append(alone[::-1], False).argmin())
        if min(ends) < max(2, _BEYOND * side) or sum(ends) > 0.95 * width:
            continue
        rows = middle[: ends[0]].mean(), middle[width - ends[1] :].mean()
        slope = (rows[1] - rows[0]) / (width - (ends[0] + ends[1]) / 2)
        line = rows[0] + slope * (x - ends[0] / 2)
        thick = max(counts[: ends[0]].max(), counts[width - ends[1] :].max()) / 2 + 0.5
        beyond = np.rint(line - thick - 0.5 if below else line + thick + 0.5).astype(np.int64)
        crossed = ink[beyond.clip(0, height - 1), x] > 0
        ink[(np.abs(y - line) <= thick) & ~crossed] = 0
