"""Handwritten-looking digits from a few strokes each, for tests and for the README.

`python -m tests.samples.draw` writes the committed pictures again.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.arrays import Pixels
from model.digits.preprocessing import find_digits

Point = tuple[float, float]
Stroke = Sequence[Point]
Colour = int | tuple[int, int, int]

FOLDER = Path(__file__).parent
EXAMPLE_STRIP = FOLDER.parents[1] / "app" / "static" / "digits.png"

# Each stroke passes smoothly through its points; x to the right and y down, from 0 to 1 over the
# digit's height. A point given twice is a corner.
DIGITS: tuple[tuple[Stroke, ...], ...] = (
    (
        (
            (0.40, 0.02),
            (0.20, 0.13),
            (0.08, 0.40),
            (0.10, 0.74),
            (0.28, 0.97),
            (0.50, 0.88),
            (0.62, 0.58),
            (0.58, 0.22),
            (0.44, 0.04),
            (0.34, 0.04),
        ),
    ),
    (((0.36, 0.00), (0.35, 0.30), (0.33, 0.66), (0.32, 1.00)),),
    (
        (
            (0.10, 0.22),
            (0.22, 0.05),
            (0.42, 0.02),
            (0.56, 0.16),
            (0.52, 0.38),
            (0.34, 0.64),
            (0.06, 0.95),
            (0.06, 0.95),
            (0.26, 0.92),
            (0.46, 0.96),
            (0.66, 0.94),
        ),
    ),
    (
        (
            (0.12, 0.10),
            (0.32, 0.01),
            (0.52, 0.10),
            (0.52, 0.30),
            (0.28, 0.46),
            (0.28, 0.46),
            (0.50, 0.54),
            (0.60, 0.74),
            (0.46, 0.94),
            (0.22, 0.98),
            (0.06, 0.88),
        ),
    ),
    (
        ((0.14, 0.04), (0.10, 0.28), (0.08, 0.52), (0.08, 0.52), (0.30, 0.55), (0.64, 0.50)),
        ((0.52, 0.02), (0.50, 0.34), (0.47, 0.68), (0.46, 1.00)),
    ),
    (
        (
            (0.20, 0.03),
            (0.17, 0.22),
            (0.14, 0.42),
            (0.14, 0.42),
            (0.32, 0.38),
            (0.52, 0.48),
            (0.58, 0.70),
            (0.46, 0.92),
            (0.24, 0.99),
            (0.06, 0.90),
        ),
        ((0.20, 0.03), (0.40, 0.04), (0.62, 0.01)),
    ),
    (
        (
            (0.48, 0.00),
            (0.28, 0.18),
            (0.13, 0.46),
            (0.10, 0.76),
            (0.26, 0.97),
            (0.48, 0.91),
            (0.56, 0.72),
            (0.44, 0.56),
            (0.26, 0.60),
            (0.12, 0.76),
        ),
    ),
    (
        (
            (0.06, 0.08),
            (0.26, 0.07),
            (0.58, 0.04),
            (0.58, 0.04),
            (0.46, 0.32),
            (0.34, 0.64),
            (0.26, 1.00),
        ),
    ),
    (
        (
            (0.54, 0.12),
            (0.36, 0.01),
            (0.16, 0.10),
            (0.16, 0.30),
            (0.36, 0.48),
            (0.54, 0.66),
            (0.54, 0.88),
            (0.34, 0.99),
            (0.14, 0.88),
            (0.16, 0.66),
            (0.38, 0.46),
            (0.54, 0.28),
            (0.54, 0.12),
        ),
    ),
    (
        (
            (0.54, 0.14),
            (0.36, 0.02),
            (0.16, 0.14),
            (0.12, 0.36),
            (0.26, 0.50),
            (0.46, 0.40),
            (0.56, 0.14),
            (0.56, 0.14),
            (0.54, 0.44),
            (0.50, 0.74),
            (0.46, 1.00),
        ),
    ),
)

# Half way between a four, open at the top, and a nine, closed: people disagree about it.
FOUR_OR_NINE: tuple[Stroke, ...] = (
    (
        (0.308, 0.030),
        (0.176, 0.155),
        (0.095, 0.344),
        (0.190, 0.506),
        (0.410, 0.490),
        (0.570, 0.363),
    ),
    ((0.54, 0.04), (0.54, 0.30), (0.50, 0.66), (0.46, 1.00)),
)

STAR: tuple[Stroke, ...] = (
    (
        (0.10, 1.00),
        (0.45, 0.00),
        (0.45, 0.00),
        (0.80, 1.00),
        (0.80, 1.00),
        (0.00, 0.38),
        (0.00, 0.38),
        (0.90, 0.38),
        (0.90, 0.38),
        (0.10, 1.00),
    ),
)

_POINTS_PER_PIECE = 12


def preprocess_image(picture: Pixels) -> Pixels:
    """The 28x28 pixels that the network sees of a picture; (H, W)."""
    return find_digits(picture).pixels


def draw_digit(
    digit: int,
    *,
    size: int = 140,
    height: float = 0.64,
    thickness: float = 0.1,
    slant: float = 0.12,
    jitter: float = 0.0,
    seed: int = 0,
    ink: Colour = 24,
    paper: Colour = 255,
) -> Image.Image:
    """A digit as a person might write it; see `draw_strokes`."""
    return draw_strokes(
        DIGITS[digit],
        size=size,
        height=height,
        thickness=thickness,
        slant=slant,
        jitter=jitter,
        seed=seed,
        ink=ink,
        paper=paper,
    )


def draw_strokes(
    strokes: Sequence[Stroke],
    *,
    size: int = 140,
    height: float = 0.64,
    thickness: float = 0.1,
    slant: float = 0.12,
    jitter: float = 0.0,
    seed: int = 0,
    ink: Colour = 24,
    paper: Colour = 255,
) -> Image.Image:
    """Draws strokes with a round pen in the middle of a square sheet.

    Args:
        strokes: points in units of the drawing's height, y down.
        size: sides of the sheet, pixels.
        height: of the drawing, as a share of the sheet.
        thickness: of the pen, as a share of the drawing's height; MNIST's is 0.08 to 0.16.
        slant: horizontal shear to the right, as a share of the height.
        jitter: standard deviation by which each point is moved, in units of the height.
        seed: determines the jitter.
        ink: grey level, or red, green and blue.
        paper: the same.

    Returns:
        "L" if both colours are grey levels, else "RGB".
    """
    generator = np.random.default_rng(seed)
    curves = [_smooth(_move(stroke, jitter, generator)) for stroke in strokes]
    curves = [curve + slant * (0.5 - curve[:, 1:]) * (1, 0) for curve in curves]
    extent = np.concatenate(curves)
    middle = (extent.min(axis=0) + extent.max(axis=0)) / 2
    curves = [((curve - middle) * height + 0.5) * size for curve in curves]
    covered = _cover(curves, size, thickness * height * size / 2)
    if isinstance(ink, int) and isinstance(paper, int):
        sheet = paper + (ink - paper) * covered
    else:
        sheet = _rgb(paper) + (_rgb(ink) - _rgb(paper)) * covered[:, :, None]
    return Image.fromarray(np.rint(sheet).astype(np.uint8))


def _rgb(colour: Colour) -> NDArray[np.float64]:
    return np.array((colour,) * 3 if isinstance(colour, int) else colour, dtype=np.float64)


def _cover(curves: Sequence[NDArray[np.float64]], size: int, radius: float) -> NDArray[np.float64]:
    """How much of each pixel a round pen covers, (size, size), from its distance to the curves."""
    distances = np.full((size, size), np.inf)
    for curve in curves:
        for start, end in itertools.pairwise(curve):
            reach = radius + 1
            left, top = np.clip(np.floor(np.minimum(start, end) - reach), 0, size).astype(int)
            right, bottom = np.clip(np.ceil(np.maximum(start, end) + reach), 0, size).astype(int)
            y, x = np.mgrid[top:bottom, left:right] + 0.5
            along = end - start
            length = max(float(along @ along), 1e-12)
            nearest = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length
            nearest = nearest.clip(0, 1)
            distance = np.hypot(
                x - start[0] - nearest * along[0], y - start[1] - nearest * along[1]
            )
            window = distances[top:bottom, left:right]
            np.minimum(window, distance, out=window)
    # A pen finer than a pixel cannot blacken one.
    return (radius - distances + 0.5).clip(0, min(1.0, 2 * radius))


def _move(stroke: Stroke, jitter: float, generator: np.random.Generator) -> Stroke:
    """Each distinct point moved at random; a corner stays a corner."""
    moved: dict[Point, Point] = {}
    for x, y in stroke:
        if (x, y) not in moved:
            dx, dy = generator.normal(0, jitter, 2) if jitter else (0.0, 0.0)
            moved[x, y] = (x + float(dx), y + float(dy))
    return [moved[point] for point in stroke]


def _smooth(stroke: Stroke) -> NDArray[np.float64]:
    """A curve through the points, (points, 2), split at its corners."""
    pieces: list[list[Point]] = [[stroke[0]]]
    for point in stroke[1:]:
        if point == pieces[-1][-1]:
            pieces.append([point])
        else:
            pieces[-1].append(point)
    return np.concatenate([_catmull_rom(np.array(piece)) for piece in pieces])


def _catmull_rom(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Catmull-Rom spline, whose tangent at a point is parallel to its neighbours' chord."""
    if (points[0] == points[-1]).all():  # a loop goes on where it ends
        first, last = points[-2:-1], points[1:2]
    else:
        first, last = 2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1]
    before = np.concatenate([first, points[:-1]])
    after = np.concatenate([points[1:], last])
    tangents = (after - before) / 2
    t = np.linspace(0, 1, _POINTS_PER_PIECE)[:, None, None]
    start, end = points[:-1], points[1:]
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * tangents[:-1]
        + (3 * t**2 - 2 * t**3) * end
        + (t**3 - t**2) * tangents[1:]
    )  # (positions, pieces, 2)
    return np.asarray(curve.transpose(1, 0, 2).reshape(-1, 2))


def committed_samples() -> dict[str, Image.Image]:
    """Every picture of this folder, by its file name."""
    samples = {f"{digit}.png": draw_digit(digit, jitter=0.012, seed=digit) for digit in range(10)}
    samples["doubtful.png"] = draw_strokes(FOUR_OR_NINE)
    samples["not_a_digit.png"] = draw_strokes(STAR)
    return samples


def example_strip() -> Image.Image:
    """32 varied digits in MNIST's convention, one below the other, in the order 0 to 9 repeated.

    They are part of the product: the API docs, the first curl and the benchmark use them.
    """
    generator = np.random.default_rng(0)
    digits = []
    for number in range(32):
        picture = draw_digit(
            number % 10,
            jitter=0.012,
            seed=number,
            thickness=generator.uniform(0.08, 0.14),
            slant=generator.uniform(-0.05, 0.3),
        )
        digits.append(preprocess_image(np.array(picture.convert("L"))))
    return Image.fromarray(np.concatenate(digits))


def main() -> None:
    """Writes the pictures of `committed_samples` next to this file, and the product's examples."""
    for name, picture in committed_samples().items():
        picture.save(FOLDER / name, optimize=True)
    example_strip().save(EXAMPLE_STRIP, optimize=True)


if __name__ == "__main__":
    main()
