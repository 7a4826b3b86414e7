"""Digits with marks that are no part of them: frames, tables, lines, circles, ruled paper."""

import numpy as np

from tests.samples.scenes import (
    Box,
    Parameters,
    Point,
    Values,
    draw_line,
    lay,
    paint,
    put,
    save,
    wobble,
)
from tests.samples.strokes import Shares


def _sheet_size(parameters: Parameters, low: float = 60, high: float = 500) -> tuple[int, int]:
    side = parameters.on_log_scale(low, high)
    aspect = parameters.between(0.7, 1.4)
    return round(side * max(1, aspect)), round(side * max(1, 1 / aspect))


def _save_marked(digit: Values, marks: Values, parameters: Parameters) -> bytes:
    """Marks as dark as the ink, or lighter."""
    ink, paper = parameters.between(0, 90), parameters.between(200, 255)
    lightest = paper - 60
    mark = ink if parameters.chance(0.5) else parameters.between(min(ink, lightest), lightest)
    return save(paint(paper, [(marks, mark), (digit, ink)], parameters), parameters)


def _turn(points: list[Point], degrees: float, middle: Point) -> list[Point]:
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = (np.array(points) - middle) @ rotation.T + middle
    return [(float(x), float(y)) for x, y in turned]


def _line_width(parameters: Parameters, side: int) -> float:
    """1 to 8 pixels, and on a small sheet less."""
    return min(parameters.whole(1, 8), max(1.0, side / 14))


def framed(strokes: Shares, parameters: Parameters) -> bytes:
    """A closed frame of 1 to 8 pixels, at the picture's edge or at any distance from it."""
    height, width = _sheet_size(parameters)
    line = _line_width(parameters, min(height, width))
    at_edge = parameters.chance(0.2)
    inset = [
        0 if at_edge else round(side * parameters.on_log_scale(0.005, 0.2))
        for side in (height, width, height, width)
    ]
    top, left = inset[0] + line / 2, inset[1] + line / 2
    bottom, right = height - inset[2] - line / 2, width - inset[3] - line / 2
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    if not at_edge and parameters.chance(0.4):
        corners = _turn(corners, parameters.between(-2, 2), (width / 2, height / 2))
    marks = np.zeros((height, width), np.float32)
    by_hand = 0.004 * min(height, width) if not at_edge and parameters.chance(0.25) else 0
    for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
        draw_line(marks, wobble(start, end, by_hand, parameters), line)
    free = Box(int(top + line), int(left + line), int(bottom - line), int(right - line))
    margin = max(2, round(0.05 * min(free.height, free.width)))
    digit, box = put(strokes, free.shrunk(margin), parameters)
    return _save_marked(lay(digit, box, height, width), marks, parameters)


def in_table(strokes: Shares, parameters: Parameters) -> bytes:
    """A cell of a table, cut out with more or less of the cells around it."""
    height, width = _sheet_size(parameters)
    line = _line_width(parameters, min(height, width))
    top, left = (side * parameters.between(0.02, 0.25) for side in (height, width))
    bottom, right = (side * parameters.between(0.75, 0.98) for side in (height, width))
    marks = np.zeros((height, width), np.float32)
    for y in (top, bottom, 2 * top - bottom, 2 * bottom - top):
        draw_line(marks, [(-9, y), (width + 9, y)], line)
    for x in (left, right, 2 * left - right, 2 * right - left):
        draw_line(marks, [(x, -9), (x, height + 9)], line)
    free = Box(int(top + line), int(left + line), int(bottom - line), int(right - line))
    margin = max(2, round(0.05 * min(free.height, free.width)))
    digit, box = put(strokes, free.shrunk(margin), parameters)
    return _save_marked(lay(digit, box, height, width), marks, parameters)


def cut_frame(strokes: Shares, parameters: Parameters) -> bytes:
    """Two sides of a frame that meet, or three, as is left where a cell was cut out."""
    height, width = _sheet_size(parameters)
    line = _line_width(parameters, min(height, width))
    inset = line / 2 + min(height, width) * parameters.between(0, 0.12)
    # Down the left side and along the bottom; then mirrored at random.
    start = -9 if parameters.chance(0.5) else parameters.between(0, 0.4) * height
    end = width + 9 if parameters.chance(0.5) else parameters.between(0.6, 1) * width
    path: list[Point] = [(inset, start), (inset, height - inset), (end, height - inset)]
    if parameters.chance(0.25):
        path[2:] = [(width - inset, height - inset), (width - inset, start)]
    marks = np.zeros((height, width), np.float32)
    draw_line(marks, path, line)
    if parameters.chance(0.5):
        marks = marks[:, ::-1]
    if parameters.chance(0.5):
        marks = marks[::-1]
    margin = round(inset + line / 2 + max(2, 0.04 * min(height, width)))
    digit, box = put(strokes, Box(0, 0, height, width).shrunk(margin), parameters)
    return _save_marked(lay(digit, box, height, width), marks, parameters)


def _lined(strokes: Shares, parameters: Parameters, *, above: bool, touching: bool) -> bytes:
    height, width = _sheet_size(parameters, 80)
    side = min(height, width)
    free = Box(0, 0, height, width).shrunk(max(2, round(side * 0.2)))
    digit, box = put(strokes, free, parameters, (0.45, 0.95))
    size = max(box.height, box.width)
    cover = lay(digit, box, height, width)
    pen = size * parameters.between(0.03, 0.12)
    # A touching line ends well beyond the digit, or nobody could say that it is none of it.
    low, high = (1.5, 2.5) if touching else (0.7, 2.2)
    length = max(box.width * parameters.between(low, high), size * (0.9 if touching else 0.35))
    middle = (box.left + box.right) / 2 + box.width * parameters.between(-0.15, 0.15)
    gap = pen / 2 + 1 + size * parameters.between(0.04, 0.25)
    if touching:
        gap = pen * parameters.between(-0.4, 0.5)
    y = box.top - gap if above else box.bottom + gap
    slope = length * parameters.between(-0.04, 0.04)
    marks = np.zeros((height, width), np.float32)
    for number in range(1 if touching or parameters.chance(0.85) else 2):
        down = number * (2 * pen + 2) * (-1 if above else 1)
        start, end = (
            (middle - length / 2, y - slope + down),
            (middle + length / 2, y + slope + down),
        )
        draw_line(marks, wobble(start, end, size * 0.006, parameters), pen)
    ink, paper = parameters.between(0, 90), parameters.between(200, 255)
    return save(paint(paper, [(marks, ink), (cover, ink)], parameters), parameters)


def underlined(strokes: Shares, parameters: Parameters) -> bytes:
    """A line, or two, under the digit."""
    return _lined(strokes, parameters, above=False, touching=False)


def touching_underline(strokes: Shares, parameters: Parameters) -> bytes:
    """A long line that the digit stands on."""
    return _lined(strokes, parameters, above=False, touching=True)


def bar_above(strokes: Shares, parameters: Parameters) -> bytes:
    """A line above the digit."""
    return _lined(strokes, parameters, above=True, touching=False)


def touching_bar(strokes: Shares, parameters: Parameters) -> bytes:
    """A long line that the digit hangs from."""
    return _lined(strokes, parameters, above=True, touching=True)


def circled(strokes: Shares, parameters: Parameters) -> bytes:
    """A circle or an ellipse around the digit, drawn by a compass or by hand."""
    height, width = _sheet_size(parameters, 80)
    radius = min(height, width) * parameters.between(0.33, 0.47)
    middle = np.array([width, height]) / 2
    middle += (np.array([width, height]) / 2 - radius - 2) * parameters.between(-0.8, 0.8)
    pen = max(1.0, radius * parameters.between(0.01, 0.08))
    angles = np.linspace(0, 2 * np.pi, 61) + parameters.between(0, 2 * np.pi)
    rounds = np.ones(61)
    stretched = np.array([1.0, 1.0])
    if parameters.chance(0.5):
        phase = parameters.between(0, 2 * np.pi)
        rounds = 1 + 0.04 * np.cos(2 * angles + phase) + np.linspace(-0.02, 0.02, 61)
        stretched[parameters.whole(0, 1)] = parameters.between(0.8, 1)
    points = (
        middle
        + stretched * np.stack([np.cos(angles), np.sin(angles)], 1) * (radius * rounds)[:, None]
    )
    marks = np.zeros((height, width), np.float32)
    draw_line(marks, [(float(x), float(y)) for x, y in points], pen)
    # The digit's corners stay inside.
    reach = radius * float(stretched.min()) * 0.92 - pen
    diagonal = float(np.hypot(*strokes.shape))
    half = np.array(strokes.shape) / diagonal * reach
    free = Box(
        round(middle[1] - half[0]),
        round(middle[0] - half[1]),
        round(middle[1] + half[0]),
        round(middle[0] + half[1]),
    )
    digit, box = put(strokes, free, parameters, (0.6, 0.95))
    return _save_marked(lay(digit, box, height, width), marks, parameters)


def _on_lines(strokes: Shares, parameters: Parameters, *, both: bool) -> bytes:
    height, width = _sheet_size(parameters, 90, 600)
    digit, box = put(strokes, Box(0, 0, height, width).shrunk(2), parameters, (0.4, 0.8))
    size = max(box.height, box.width)
    spacing = size * parameters.between(0.2, 1.3)
    spacing = max(6.0, spacing)
    line = min(max(1.0, size * parameters.between(0.005, 0.03)), spacing / 5)
    tilt = parameters.between(-5, 5)
    marks = np.zeros((height, width), np.float32)
    middle, reach = (width / 2, height / 2), max(height, width)
    for turned in (0, 90)[: 2 if both else 1]:
        offset = parameters.between(0, spacing)
        for number in range(-round(reach / spacing), round(reach / spacing) + 1):
            y = height / 2 + offset + number * spacing
            ends: list[Point] = [(middle[0] - reach, y), (middle[0] + reach, y)]
            draw_line(marks, _turn(ends, tilt + turned, middle), line)
    ink, paper = parameters.between(0, 80), parameters.between(205, 255)
    mark = parameters.between(ink + 40, paper - 25)
    cover = lay(digit, box, height, width)
    return save(paint(paper, [(marks, mark), (cover, ink)], parameters), parameters)


def ruled(strokes: Shares, parameters: Parameters) -> bytes:
    """Ruled paper, the lines nearly as dark as ink or nearly as light as paper."""
    return _on_lines(strokes, parameters, both=False)


def squared(strokes: Shares, parameters: Parameters) -> bytes:
    """Squared paper."""
    return _on_lines(strokes, parameters, both=True)
