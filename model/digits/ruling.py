"""Printed lines on paper, ruled or squared: found as what goes from edge to edge, and erased."""

import numpy as np
from numpy.typing import NDArray

from model.digits.ink import Darkness

# A line shows in most of so many strips across the picture, each so many pixels wide or more.
_STRIPS = 12
_LEAST_STRIP = 5
_LEAST_SHARE = 0.75
# Of lines on a sheet held by hand, as a tangent: 5 degrees.
_SLOPES = np.linspace(-0.09, 0.09, 37)
# As a share of the picture's longer side: what is higher is no line.
_THICKEST = 0.015
# Rows around a line's middle that are looked at.
_REACH = 6

Rows = NDArray[np.int64]


def remove_lines(darkness: Darkness) -> Darkness:
    """Takes printed lines away, but for where ink crosses them or is darker.

    A single line is left alone: it could be the bar of a digit that fills the picture.
    """
    if min(darkness.shape) < _STRIPS * _LEAST_STRIP:
        return darkness
    across, down = _trace_lines(darkness), _trace_lines(darkness.T)
    if len(across) + len(down) < 2:
        return darkness
    return _erase(_erase(darkness, across).T, down).T


def _trace_lines(darkness: Darkness) -> Rows:
    """The row of each roughly horizontal line at each column, (lines, W)."""
    width = darkness.shape[1]
    sharp = _line_profile(darkness)  # (strips, H - 1)
    present = sharp > 0
    if present.any(axis=1).mean() < _LEAST_SHARE:
        return np.empty((0, width), dtype=np.int64)
    present[:, 1:] |= present[:, :-1]  # a row of tolerance
    middles = (np.arange(_STRIPS) - (_STRIPS - 1) / 2) * (width // _STRIPS)
    starts, slope = _straight_lines(present, middles)
    lines = [_follow(sharp, start + slope * middles, width) for start in starts]
    return np.array(lines, dtype=np.int64).reshape(-1, width)


def _line_profile(darkness: Darkness) -> Darkness:
    """By strip and row: how dark is most of the row, against the rows a little above and below."""
    height, width = darkness.shape
    strip = width // _STRIPS
    # Pairs of rows hold a line that climbs by one within the strip; every other column will do.
    pairs = np.maximum(darkness[:-1], darkness[1:])[:, : strip * _STRIPS]
    profile = np.median(pairs.reshape(height - 1, _STRIPS, strip)[:, :, ::2], axis=2).T
    reach = max(3, round(_THICKEST * max(darkness.shape)))
    around = np.pad(profile, ((0, 0), (reach, reach)), mode="edge")
    sharp: Darkness = profile - np.maximum(around[:, : -2 * reach], around[:, 2 * reach :])
    return sharp


def _straight_lines(
    present: NDArray[np.bool_], middles: NDArray[np.float64]
) -> tuple[list[float], float]:
    """Rows in the middle of the picture, and the slope, of the lines that most strips agree on."""
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


def _follow(sharp: Darkness, expected: NDArray[np.float64], width: int) -> Rows:
    """The row at each column of a line, which may bend a little around where it is expected."""
    strip = width // _STRIPS
    columns, rows = [], []
    for number, row in enumerate(expected):
        top = max(0, round(row) - 3)
        window = sharp[number, top : max(top, round(row) + 4)]
        if window.size and window.max() > 0:
            darkest = (window >= 0.7 * window.max()).nonzero()[0]
            columns.append((number + 0.5) * strip)
            rows.append(top + 0.5 + float(darkest.mean()))  # of a pair of rows the middle
    curve = np.polynomial.Polynomial.fit(columns, rows, min(2, len(rows) - 1))
    line: Rows = np.rint(curve(np.arange(width))).astype(np.int64)
    return line


def _erase(darkness: Darkness, lines: Rows) -> Darkness:
    """Replaces each line by what is just above and below it, where both are ink."""
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
        beside = profile[:_REACH][::-1], profile[_REACH + 1 :]
        while reach < _REACH - 1 and max(side[reach] for side in beside) > 0.2 * level:
            reach += 1
        above, below = values[_REACH - reach - 1], values[_REACH + reach + 1]
        band = slice(_REACH - reach, _REACH + reach + 1)
        # Of ink on a line, or along it, the colour is the ink's.
        is_ink = values[band] > max((level + ink) / 2, 1.3 * level)
        kept = np.where(is_ink, values[band], np.minimum(values[band], np.minimum(above, below)))
        where = inside[band]
        result[rows[band][where], columns[band][where]] = kept[where]
    return result
