"""Drawings that are no digits: scribbles, signs, shapes, clothes-like silhouettes, textures."""

import cv2
import numpy as np

from model.arrays import Pixels
from training.pool.glyphs import fit_ink
from training.pool.pen import FRACTION, SIDE, Stroke, blank, fit, wander, write

_CIRCLE = np.linspace(0, 2 * np.pi, 33)


def free_writing(generator: np.random.Generator) -> Pixels:
    """One to four strokes of no sign: arcs, hooks, loops and waves near each other."""
    strokes = []
    for _ in range(generator.integers(1, 5)):
        stroke = wander(generator)[: generator.integers(12, 41)]
        strokes.append(stroke + generator.normal(0, 6, size=2))
    return write(strokes, generator)


def sign(generator: np.random.Generator) -> Pixels:
    """Two to five straight lines, arcs and dots on a grid, as the characters of a script have."""
    return write([_element(generator) for _ in range(generator.integers(2, 6))], generator)


def _element(generator: np.random.Generator) -> Stroke:
    start = generator.integers(0, 4, size=2).astype(np.float64)
    kind = generator.random()
    if kind < 0.1:
        return np.stack([start, start + generator.uniform(-0.4, 0.4, size=2)])
    if kind < 0.6:
        step = generator.choice([-3, -2, 0, 0, 2, 3], size=2)
        return np.stack([start, start + (step if step.any() else (0, 3))])
    first, extent = generator.uniform(0, 6.3), generator.uniform(2, 6) * generator.choice([-1, 1])
    angles = np.linspace(first, first + extent, 24)
    radii = generator.uniform(0.5, 1.5, size=(1, 2))
    arc: Stroke = start + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return arc


def runes(generator: np.random.Generator) -> Pixels:
    """Three to six straight strokes at any angle; only calibration sees these."""
    strokes = []
    for _ in range(generator.integers(3, 7)):
        middle, angle = generator.uniform(-2, 2, size=2), generator.uniform(0, np.pi)
        half = generator.uniform(0.8, 2.5) * np.array([np.cos(angle), np.sin(angle)])
        strokes.append(np.stack([middle - half, middle + half]))
    return write(strokes, generator)


def curve(generator: np.random.Generator) -> Pixels:
    """A closed Lissajous curve or a spiral; only calibration sees these."""
    t = np.linspace(0, 2 * np.pi, 120)
    if generator.random() < 0.4:
        turns = generator.uniform(2, 3.5)
        stroke = (0.15 + t / 6)[:, None] * np.stack([np.cos(turns * t), np.sin(turns * t)], axis=1)
    else:
        a, b = generator.choice([(1, 3), (2, 3), (3, 2), (3, 4), (3, 1), (4, 3)])
        stroke = np.stack([np.sin(a * t + generator.uniform(0, 6)), np.sin(b * t)], axis=1)
    return write([stroke], generator)


def scribble(generator: np.random.Generator) -> Pixels:
    """A line to and fro, as something is crossed out or hatched."""
    turns = int(generator.integers(5, 12))
    x = np.arange(turns) + generator.normal(0, 0.4, size=turns)
    y = (np.arange(turns) % 2) * turns * generator.uniform(0.4, 1.2)
    points = np.stack([x, y + generator.normal(0, 0.6, size=turns)], axis=1)
    strokes = [points] if generator.random() < 0.6 else [points, points[:, ::-1] * 0.9]
    return write(strokes, generator)


def shape(generator: np.random.Generator) -> Pixels:
    """A polygon, a star, a cross or an arrow, filled or as an outline."""
    kind, corners = generator.random(), int(generator.integers(3, 8))
    if kind < 0.25:
        outline = _mirrored([(0, 0), (0.5, 0), (0.5, 1), (1.5, 1), (1.5, 2), (0.5, 2), (0.5, 3)])
    elif kind < 0.5:
        outline = _mirrored([(0, 0), (1.5, 1.8), (0.5, 1.8), (0.5, generator.uniform(2.5, 4))])
    else:
        inner = np.cos(np.pi / corners) if kind < 0.75 else generator.uniform(0.35, 0.6)
        angles = np.pi / corners * np.arange(2 * corners)
        radii = np.where(np.arange(2 * corners) % 2, inner, 1.0)
        outline = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    angle = generator.choice([0, np.pi / 2, np.pi, generator.uniform(0, 6.3)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = outline @ turn.T
    if generator.random() < 0.5:
        return write([np.concatenate([outline, outline[:1]])], generator)
    return _fill(outline, generator)


def silhouette(generator: np.random.Generator) -> Pixels:
    """A filled outline as of clothes, shoes and bags, of even or changing brightness."""
    u, kind = generator.uniform, generator.integers(4)
    if kind == 0:  # with sleeves
        shoulder, sleeve = u(0.5, 1.0), u(0.3, 2.2)
        arm = [(shoulder + 0.5, sleeve), (shoulder + u(0.2, 0.45), sleeve)]
        hem = [(u(0.4, 0.9), u(0.5, 0.8)), (u(0.4, 1.2), u(1.6, 2.6))]
        outline = _mirrored([(u(0.1, 0.4), 0), (shoulder, 0.1), *arm, *hem])
    elif kind == 1:  # with legs
        outside = [(u(0.4, 0.9), 0), (u(0.4, 1.2), u(2, 3))]
        outline = _mirrored([*outside, (u(0.1, 0.3), 3), (0.05, u(0.5, 1.2))])
    elif kind == 2:  # with a handle
        side = [(0.7, -u(0.3, 1.5)), (0.7, 0), (1.5, 0), (u(1.2, 1.5), 2)]
        outline = _mirrored(side)
    else:  # with a toe
        upper = [(0, 0), (u(0.6, 1), 0), (u(1, 1.5), u(0.6, 1)), (3, u(1, 1.6))]
        outline = np.array([*upper, (3, 1.8), (0, 1.8)]) * generator.choice([(-1, 1), (1, 1)])
    return _shade(_fill(outline, generator), generator)


def blob(generator: np.random.Generator) -> Pixels:
    """A filled smooth outline of no object; only calibration sees these."""
    orders = np.arange(1, 6)[:, None]
    waves = np.cos(orders * _CIRCLE + generator.uniform(0, 6.3, size=(5, 1)))
    radii = 1 + (generator.normal(0, 0.35 / orders) * waves).sum(axis=0)
    outline = radii[:, None] * np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=1)
    return _shade(_fill(outline, generator), generator)


def texture(generator: np.random.Generator) -> Pixels:
    """Gratings, checks, clouds and boxes that fill the picture."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    kind, angle = generator.integers(4), generator.uniform(0, np.pi)
    frequency = generator.uniform(2, 14)
    wave = np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)))
    if kind == 1:
        wave = wave * np.sin(2 * np.pi * frequency * (y * np.cos(angle) - x * np.sin(angle)))
    elif kind == 2:
        noise = generator.normal(size=(SIDE, SIDE)).astype(np.float32)
        wave = cv2.GaussianBlur(noise, (0, 0), generator.uniform(1.5, 14))
        wave = wave / (2 * wave.std())
    elif kind == 3:
        wave = np.full((SIDE, SIDE), -1.0)
        for _ in range(generator.integers(2, 7)):
            (a, b), (c, d) = np.sort(generator.integers(0, SIDE, size=(2, 2)), axis=1)
            wave[a : b + 8, c : d + 8] = generator.uniform(-0.5, 1)
    if generator.random() < 0.5:
        wave = np.sign(wave)
    picture: Pixels = np.clip(127.5 * (1 + wave), 0, 255).astype(np.uint8)
    return picture


def _mirrored(side: list[tuple[float, float]]) -> Stroke:
    """The outline of a symmetric figure from its right side, from above to below."""
    return np.array([*side, *((-x, y) for x, y in reversed(side))])


def _fill(outline: Stroke, generator: np.random.Generator) -> Pixels:
    canvas = blank()
    points = np.rint(fit([outline], generator)[0] * 2**FRACTION).astype(np.int32)
    cv2.fillPoly(canvas, [points], 255, cv2.LINE_AA, FRACTION)
    return fit_ink(canvas)


def _shade(filled: Pixels, generator: np.random.Generator) -> Pixels:
    """Gives ink another brightness, which may change across the picture."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    change = generator.uniform(-0.8, 0.8) * x + generator.uniform(-0.8, 0.8) * y
    if generator.random() < 0.4:
        change = change + 0.3 * np.sin(2 * np.pi * generator.uniform(3, 12) * (x + y))
    level = np.clip(generator.uniform(0.4, 1) + change, 0.1, 1)
    picture: Pixels = (filled * level).astype(np.uint8)
    return picture
