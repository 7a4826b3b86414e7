"""Erases the printed lines of ruled or squared paper: lines that go from edge to edge."""

import numpy as np

from model.arrays import Array, Bitmap, Integers
from model.digits.ink import Darkness

# The picture is divided into strips across the lines, each with at least this width, pixels.
_STRIPS = 12
_LEAST_STRIP = 5
# A line is visible in at least this share of the strips.
_LEAST_SHARE = 0.75
# Slopes of lines on a sheet that is held by hand, as tangents: up to 5 degrees.
_SLOPES = np.linspace(-0.09, 0.09, 37)
# Lines are at most this thick, as a share of the picture's longer side.
_THICKEST = 0.015
# Rows on each side of a line's middle that are examined.
_REACH = 6


def remove_lines(darkness: Darkness) -> Darkness:
    """Erases printed lines, except where ink crosses them.

    A single line is kept: it could be the bar of a digit that fills the picture.
    """
    if min(darkness.shape) < _STRIPS * _LEAST_STRIP:
        return darkness
    across, down = _trace_lines(darkness), _trace_lines(darkness.T)
    if len(across) + len(down) < 2:
        return darkness
    return _erase(_erase(darkness, across).T, down).T


def _trace_lines(darkness: Darkness) -> Integers:
    """Returns the row of each roughly horizontal line at each column, (lines, W)."""
    width = darkness.shape[1]
    sharp = _line_profile(darkness)  # (strips, H - 1)
    present = sharp > 0
    if present.any(axis=1).mean() < _LEAST_SHARE:
        return np.empty((0, width), dtype=np.int64)
    present[:, 1:] |= present[:, :-1]  # a tolerance of one row
    middles = (np.arange(_STRIPS) - (_STRIPS - 1) / 2) * (width // _STRIPS)
    starts, slope = _straight_lines(present, middles)
    lines = [_follow(sharp, start + slope * middles, width) for start in starts]
    return np.array(lines, dtype=np.int64).reshape(-1, width)


def _line_profile(darkness: Darkness) -> Darkness:
    """Measures how dark most of a row is against the rows above and below, (strips, H - 1)."""
    height, width = darkness.shape
    strip = width // _STRIPS
    # Pairs of rows hold a line that climbs by one within the strip. Every second column is enough.
    pairs = np.maximum(darkness[:-1], darkness[1:])[:, : strip * _STRIPS]
    profile = np.median(pairs.reshape(height - 1, _STRIPS, strip)[:, :, ::2], axis=2).T
    reach = max(3, round(_THICKEST * max(darkness.shape)))
    around = np.pad(profile, ((0, 0), (reach, reach)), mode="edge")
    sharp: Darkness = profile - np.maximum(around[:, : -2 * reach], around[:, 2 * reach :])
    return sharp


def _straight_lines(present: Bitmap, middles: Array) -> tuple[list[float], float]:
    """Finds the lines that most strips agree on: rows at the middle column, and the slope."""
    length = present.shape[1]
    best: tuple[float, list[float], float] = (0.0, [], 0.0)
    for slope in _SLOPES:
        rows = np.arange(length) + np.rint(slope * middles).astype(np.int64)[:, None]
        inside = (rows >= 0) & (rows < length)
        hits = np.take_along_axis(present, rows.clip(0, length - 1), axis=1) & inside
        seen = inside.sum(axis=0)
        share = hits.sum(axis=0) / np.maximum(seen, _STRIPS / 2)
        is_line = share >= _LEAST_SHARE
        score = float(share[is_line].sum())
        if score > best[0]:
            edges = np.diff(is_line.astype(np.int8), prepend=0, append=0)
            begins, ends = (edges == 1).nonzero()[0], (edges == -1).nonzero()[0]
            best = score, [float(row) for row in (begins + ends - 1) / 2], float(slope)
    return best[1], best[2]


def _follow(sharp: Darkness, expected: Array, width: int) -> Integers:
    """Returns the row of a line at each column; the line may bend a little."""
    strip = width // _STRIPS
    columns, rows = [], []
    for number, row in enumerate(expected):
        top = max(0, round(row) - 3)
        window = sharp[number, top : max(top, round(row) + 4)]
        if window.size and window.max() > 0:
            darkest = (window >= 0.7 * window.max()).nonzero()[0]
            columns.append((number + 0.5) * strip)
            rows.append(top + 0.5 + float(darkest.mean()))  # the middle of a pair of rows
    curve = np.polynomial.Polynomial.fit(columns, rows, min(2, len(rows) - 1))
    line: Integers = np.rint(curve(np.arange(width))).astype(np.int64)
    return line


def _erase(darkness: Darkness, lines: Integers) -> Darkness:
    """Replaces each line by the lighter of the pixels just above and just below it."""
    height, width = darkness.shape
    result = darkness.copy()
    columns = np.broadcast_to(np.arange(width), (2 * _REACH + 1, width))
    ink = float(np.quantile(darkness, 0.995))
    for line in lines:
        rows = line + np.arange(-_REACH, _REACH + 1)[:, None]  # (13, W)
        inside = (rows >= 0) & (rows < height)
        values = np.where(inside, darkness[rows.clip(0, height - 1), columns], 0)
        profile = np.median(values, axis=1)
        level = float(profile.max())
        reach = 1
        sides = profile[:_REACH][::-1], profile[_REACH + 1 :]
        while reach < _REACH - 1 and max(side[reach] for side in sides) > 0.2 * level:
            reach += 1
        above, below = values[_REACH - reach - 1], values[_REACH + reach + 1]
        band = slice(_REACH - reach, _REACH + reach + 1)
        # Ink on a line, or along it, is darker than the line and is kept.
        is_ink = values[band] > max((level + ink) / 2, 1.3 * level)
        kept = np.where(is_ink, values[band], np.minimum(values[band], np.minimum(above, below)))
        where = inside[band]
        result[rows[band][where], columns[band][where]] = kept[where]
    return result
