"""Writing with a pen: strokes of a soft line, as wide as MNIST's, on a canvas of 112 pixels."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Pixels

SIDE = 112
# What is drawn has this longer side; the rest is margin.
EXTENT = 80
# Widths of strokes, as shares of `EXTENT`: those of MNIST's digits are 0.08 to 0.2 of 20 pixels.
_WIDTHS = (0.05, 0.2)
# Largest turn, radians, and slant of what is written.
_UNSTEADINESS = 0.25
FRACTION = 4  # bits of a coordinate behind the point
# Points of a stroke that is written freely.
_POINTS = 40

Stroke = Array  # points of a line, (N, 2): x and y


def blank() -> Pixels:
    """Returns a canvas without ink."""
    return np.zeros((SIDE, SIDE), np.uint8)


def write(
    strokes: Sequence[Stroke],
    generator: np.random.Generator,
    unsteadiness: float = _UNSTEADINESS,
) -> Pixels:
    """Writes strokes of any size and place, fitted to the canvas, with a pen of random width.

    The hand is unsteady: every stroke is slanted, stretched and bent a little, and its width
    changes along it.
    """
    fitted = fit([bend(stroke, generator) for stroke in strokes], generator, unsteadiness)
    canvas, width = blank(), EXTENT * generator.uniform(*_WIDTHS)
    for stroke in fitted:
        pressure = 1 + 0.25 * np.sin(
            generator.uniform(0, 2 * np.pi) + np.linspace(0, generator.uniform(1, 6), len(stroke))
        )
        points = np.rint(stroke * 2**FRACTION).astype(np.int32)
        for start, stop, share in zip(points, points[1:], pressure, strict=False):
            thickness = max(1, round(width * share))
            cv2.line(canvas, start.tolist(), stop.tolist(), 255, thickness, cv2.LINE_AA, FRACTION)
        if len(points) == 1:
            cv2.circle(canvas, points[0].tolist(), round(width * 8), 255, -1, cv2.LINE_AA, FRACTION)
    return canvas


def bend(stroke: Stroke, generator: np.random.Generator) -> Stroke:
    """Moves the points of a stroke along slow waves; lines between distant points get more."""
    if len(stroke) < 2:
        return stroke
    lengths = np.hypot(*np.diff(stroke, axis=0).T)
    along = np.concatenate([[0], np.cumsum(lengths)])
    if along[-1] == 0:
        return stroke[:1]
    places = np.linspace(0, along[-1], max(len(stroke), 16))
    points = np.stack([np.interp(places, along, axis) for axis in stroke.T], axis=1)
    size = float(np.ptp(points, axis=0).max())
    for axis in range(2):
        waves = generator.uniform(1, 3) * places / along[-1] * np.pi + generator.uniform(0, 6.3)
        points[:, axis] += generator.uniform(0, 0.05) * size * np.sin(waves)
    return points


def fit(
    strokes: Iterable[Stroke],
    generator: np.random.Generator,
    unsteadiness: float = _UNSTEADINESS,
) -> list[Stroke]:
    """Slants and stretches strokes together, and fits them into the middle of the canvas."""
    strokes = list(strokes)
    matrix = random_matrix(generator, unsteadiness)
    moved = [stroke @ matrix.T for stroke in strokes]
    every = np.concatenate(moved)
    low, high = every.min(axis=0), every.max(axis=0)
    scale = EXTENT / max(float((high - low).max()), 1e-6)
    return [(stroke - (low + high) / 2) * scale + SIDE / 2 for stroke in moved]


def random_matrix(
    generator: np.random.Generator, unsteadiness: float = _UNSTEADINESS
) -> NDArray[np.float64]:
    """A turn, a slant and a change of proportions, each small, (2, 2)."""
    angle, slant = generator.uniform(-unsteadiness, unsteadiness, size=2)
    across, down = generator.uniform(0.75, 1.3, size=2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix: NDArray[np.float64] = np.diag([across, down]) @ turn @ np.array([[1, slant], [0, 1]])
    return matrix


def wander(generator: np.random.Generator) -> Stroke:
    """A stroke whose direction changes smoothly and at random: arcs, hooks, loops and waves."""
    turning = generator.normal(0, 0.12) + np.cumsum(generator.normal(0, 0.05, size=_POINTS))
    if generator.random() < 0.4:  # a corner
        turning[generator.integers(8, _POINTS - 8)] += generator.choice([-1, 1]) * 2.2
    angles = generator.uniform(0, 2 * np.pi) + np.cumsum(turning)
    stroke: Stroke = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0)
    return stroke
