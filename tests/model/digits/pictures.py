"""Pictures of digits, and measures of the 28x28 images that they become."""

import itertools

import numpy as np

from model.arrays import Array, Pixels
from tests.samples.draw import draw_digit


def draw(digit: int, *, size: int = 140, ink: int = 0, paper: int = 255, seed: int = 0) -> Pixels:
    """A drawn digit, dark on light by default."""
    picture = draw_digit(digit, size=size, ink=ink, paper=paper, jitter=0.012, seed=seed)
    return np.array(picture)


def draw_varied() -> list[Pixels]:
    """Digits of many sizes, pens and slants, light on dark and dark on light, on larger sheets."""
    generator = np.random.default_rng(0)
    pictures = []
    for number in range(200):
        shades = generator.permutation([int(generator.integers(0, 90)), 255])
        picture = draw_digit(
            number % 10,
            size=int(generator.integers(20, 300)),
            height=generator.uniform(0.3, 0.95),
            thickness=generator.uniform(0.04, 0.25),
            slant=generator.uniform(-0.3, 0.5),
            jitter=0.02,
            seed=number,
            ink=int(shades[0]),
            paper=int(shades[1]),
        )
        margins = generator.integers(0, 60, (2, 2))
        pictures.append(np.pad(np.array(picture), margins, constant_values=shades[1]))
    return pictures


def ink_extent(pixels: Pixels) -> tuple[int, int]:
    """Height and width of what is not black."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def centre_of_mass(pixels: Pixels) -> Array:
    """Row and column."""
    weights = pixels / pixels.sum(dtype=np.float64)
    return np.array([(weights * positions).sum() for positions in np.indices(pixels.shape)])


def distance(some: Pixels, others: Pixels) -> float:
    """Mean difference of the pixels, 0 to 255, at the best shift by at most one pixel."""
    shifts = itertools.product((-1, 0, 1), repeat=2)
    moved = (np.roll(some, shift, (0, 1)).astype(float) for shift in shifts)
    return float(min(np.abs(image - others).mean() for image in moved))


def bar(height: int, width: int, top: int, left: int, side: int = 28) -> Pixels:
    image = np.zeros((side, side), dtype=np.uint8)
    image[top : top + height, left : left + width] = 200
    return image


def row_of(*digits: int, gap: int = 10) -> Pixels:
    """Digits side by side, 140 pixels high, on one sheet."""
    drawn = []
    for digit in digits:
        picture = draw(digit)
        inked = np.flatnonzero((picture < 128).any(axis=0))
        drawn.append(picture[:, inked[0] : inked[-1] + 1])
    spaced = [np.pad(part, ((0, 0), (0, gap)), constant_values=255) for part in drawn]
    return np.pad(np.concatenate(spaced, axis=1), ((0, 0), (30, 20)), constant_values=255)
