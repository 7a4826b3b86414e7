"""Erases lines that are no ink: printed ones of ruled or squared paper, and underlines."""

import cv2
import numpy as np

from model.arrays import Pixels
from model.digits.paper import quantile
from model.digits.parts import Box, crop

# A line is visible in at least this share of the picture, in a picture of at least this side.
_LEAST_SHARE, _LEAST_SIDE = 0.75, 60
# The steepest line on a sheet that is held by hand, as a tangent: 5 degrees. Steps of 0.4 degrees.
_STEEPEST, _STEP = 0.09, 0.0075
# Lines are at most this thick, as a share of the picture's longer side, and at least this dark.
_THICKEST, _FAINTEST = 0.03, 6
# What is darker than this share of the darkest is ink on a line, or along it.
_LINE = 0.75

# A digit and a line that it stands on or hangs from are at least this wide, as a share of their
# height. The line is all that there is at both sides for at least `_BEYOND` and together at most
# `_MOST_BEYOND` of the width, and within `_THICK` of it from the edge.
# Of 5,000 of MNIST's training images, enlarged, none is like this.
_WIDE, _BEYOND, _MOST_BEYOND, _THICK = 0.88, 0.12, 0.85, 0.16


def remove_lines(darkness: Pixels) -> Pixels:
    """Erases lines from edge to edge, except where ink crosses them.

    A single line is kept: it could be the bar of a digit that fills the picture.
    """
    ends = (min(map(cv2.countNonZero, (each[0], each[-1]))) for each in (darkness, darkness.T))
    if min(darkness.shape) < _LEAST_SIDE or sum(ends) < 2:
        return darkness
    across, cleared = _erase_lines(darkness)
    down, cleared = _erase_lines(cv2.transpose(cleared))
    return cv2.transpose(cleared) if across + down > 1 else darkness


def _erase_lines(darkness: Pixels) -> tuple[int, Pixels]:
    """Erases roughly horizontal lines, where it is not as dark above and below them; their number.

    They are found by a Hough transform of what is thin.
    """
    height, width = darkness.shape
    post = np.ones((max(5, round(_THICKEST * max(height, width)) + 1), 1), np.uint8)
    opened = cv2.morphologyEx(darkness, cv2.MORPH_OPEN, post, borderType=cv2.BORDER_REPLICATE)
    thin = cv2.threshold(cv2.subtract(darkness, opened), _FAINTEST, 255, cv2.THRESH_BINARY)[1]
    angles = {"min_theta": np.pi / 2 - _STEEPEST, "max_theta": np.pi / 2 + _STEEPEST}
    lines = cv2.HoughLines(thin, 1, _STEP, round(_LEAST_SHARE * width), **angles)
    if lines is None:
        return 0, darkness
    where = np.zeros_like(darkness)
    for distance, angle in lines[:, 0].tolist():
        rows = [round((distance - x * np.cos(angle)) / np.sin(angle)) for x in (0, width - 1)]
        cv2.line(where, (0, rows[0]), (width - 1, rows[1]), 1, len(post) - 1)
    count = int(np.count_nonzero(np.diff(where[:, width // 2], prepend=0) == 1))
    is_line = (where > 0) & (darkness <= _LINE * quantile(darkness, 0.995))
    return count, np.where(is_line, opened, darkness)


def strip_line(mask: Pixels, box: Box) -> None:
    """Erases from a digit a line over it or under it, which it touches."""
    upright = crop(mask, box)
    height, width = upright.shape
    if width < _WIDE * height:
        return
    y, x = np.arange(height)[:, None], np.arange(width)
    for ink in (upright, upright[::-1]):
        lowest = height - 1 - ink[::-1].argmax(axis=0)
        is_line = lowest <= max(2, _THICK * width)
        left, right = (int(np.append(side, False).argmin()) for side in (is_line, is_line[::-1]))
        if min(left, right) < max(2, _BEYOND * width) or left + right > _MOST_BEYOND * width:
            continue
        # Between the ends, the lower edge of the line goes straight on.
        edges = lowest[:left].mean(), lowest[width - right :].mean()
        edge = np.interp(x, (left / 2, width - right / 2), edges)
        ink[y <= edge + 1] = 0
        ink[:, :left] = ink[:, width - right :] = 0
