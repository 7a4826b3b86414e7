"""Steps of the preparation against OpenCV and NumPy, one operation at a time."""

import cv2
import numpy as np
import pytest

from model.arrays import Pixels
from model.digits.fitting import BOX, fit, follows_convention
from model.digits.paper import SPECKED, clean, measure_darkness
from model.digits.parts import find_parts
from model.pixels import quantile
from tests.samples.draw import draw_digit

SHAPES = [(1, 1), (1, 2), (2, 1), (1, 60), (60, 1), (2, 55), (55, 3), (28, 28), (70, 54), (90, 120)]

_AROUND = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
_SECOND = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@pytest.fixture(params=SHAPES, ids=str)
def picture(request: pytest.FixtureRequest) -> Pixels:
    """Noise on paper with dark and light areas, (H, W)."""
    generator = np.random.default_rng(request.param)
    areas = generator.integers(0, 240, (4, 4)).astype(np.uint8)
    paper = cv2.resize(areas, request.param[::-1], interpolation=cv2.INTER_NEAREST)
    noise = generator.integers(0, 16, request.param).astype(np.uint8)
    salt = np.where(generator.random(request.param) < 0.05, 255, 0).astype(np.uint8)
    picture: Pixels = cv2.max(cv2.add(paper, noise), salt)
    return picture


def test_specks_and_noise(picture: Pixels) -> None:
    cleaned, noise = clean(picture)

    expected = picture
    if max(picture.shape) >= SPECKED:
        expected = cv2.min(picture, cv2.dilate(picture, _AROUND))
        expected = cv2.max(expected, cv2.erode(picture, _AROUND))
    left = cv2.convertScaleAbs(cv2.filter2D(expected, cv2.CV_16S, _SECOND))
    assert np.array_equal(cleaned, expected)
    assert noise == quantile(left, 0.5) / (6 * 0.6745)


@pytest.mark.parametrize("reach", [1, 2, 7, 18, 40])
def test_darkness(picture: Pixels, reach: int) -> None:
    darkness = measure_darkness(picture, 16, 2.5, reach)

    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    paper = cv2.erode(cv2.dilate(picture, square), square).astype(int)
    contrast = paper - picture
    contrast -= quantile(contrast.astype(np.uint8), 0.2)
    expected = np.where(contrast >= 16, np.rint(255 * contrast / np.maximum(paper, 1)), 0)
    assert np.array_equal(darkness, expected)


@pytest.mark.parametrize("even", [255, 180, 30])
def test_darkness_on_even_paper(picture: Pixels, even: int) -> None:
    darkness = measure_darkness(picture, 16, 0, 1, even)

    contrast = np.maximum(even - picture.astype(int), 0)
    expected = np.where(contrast >= 16, np.rint(255 * contrast / even), 0)
    assert np.array_equal(darkness, expected)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_parts(picture: Pixels, share: float) -> None:
    generator = np.random.default_rng(int(100 * share))
    ink = np.where(generator.random(picture.shape) < share, 255, 0).astype(np.uint8)

    numbers, parts = find_parts(ink)

    height, width = picture.shape
    assert sorted(part.numbers for part in parts) == [[n] for n in range(1, numbers.max() + 1)]
    assert np.array_equal(numbers > 0, ink > 0)
    for part in parts:
        y, x = np.nonzero(numbers == part.numbers[0])
        left, top, right, bottom = part.box
        assert part.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
        assert part.area == len(x)
        edges = (x == 0, y == 0, x == width - 1, y == height - 1)
        outline = 2 * (right - left + bottom - top) * (2 if bottom - top == height else 1)
        assert part.along_edge == np.sum(edges) / outline


def test_mnists_convention() -> None:
    generator, following = np.random.default_rng(0), 0
    for _ in range(500):
        image = np.zeros((28, 28), np.uint8)
        height, width = generator.integers(17, 22, 2)
        top, left = (29 - np.array([height, width])) // 2 + generator.integers(-1, 2, 2)
        shape = image[top : top + height, left : left + width].shape
        image[top : top + height, left : left + width] = generator.integers(0, 256, shape)

        moments = cv2.moments(image)
        centre = [moments[name] / moments["m00"] for name in ("m10", "m01")]
        is_centred = all(13.5 <= each < 14.5 for each in centre)
        follows = is_centred and max(cv2.boundingRect(image)[2:]) in (19, 20)
        assert follows_convention(image) is follows
        following += follows
    assert 20 < following < 450
    assert not follows_convention(np.zeros((28, 28), np.uint8))
    assert not follows_convention(np.full((27, 28), 9, np.uint8))


@pytest.mark.parametrize("thickness", [0.02, 0.05, 0.2])
def test_fitting_is_scaling_widening_scaling_and_centring(thickness: float) -> None:
    for digit in range(10):
        ink = ~np.array(draw_digit(digit, size=110, thickness=thickness, jitter=0.02, seed=digit))
        cover = _scaled(ink, 3 * BOX)
        outlines = cv2.findContours((cover > 127).astype(np.uint8), 1, 2)[0]
        length = sum(cv2.arcLength(outline, True) for outline in outlines)
        missing = 6 - 2 * np.count_nonzero(cover > 127) / length
        wide = cv2.dilate(cover, None, iterations=max(0, round(missing / 2)))
        left, top, width, height = cv2.boundingRect((wide > wide.max() // 2).astype(np.uint8))
        small = _scaled(wide[top : top + height, left : left + width], BOX)
        small = cv2.convertScaleAbs(small, alpha=255 / small.max())
        places = (np.indices(small.shape) * small).sum(axis=(1, 2)) / small.sum()
        y, x = np.ceil(13.5 - places).astype(int)
        expected = np.zeros((28, 28), np.uint8)
        expected[y : y + small.shape[0], x : x + small.shape[1]] = small
        assert np.array_equal(fit(ink), expected)


def _scaled(ink: Pixels, side: int) -> Pixels:
    extent = cv2.boundingRect((ink > ink.max() // 2).astype(np.uint8))[2:]
    scale = side / max(extent)
    size = [max(1, round(length * scale)) for length in ink.shape[::-1]]
    how = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    scaled: Pixels = cv2.resize(ink, size, interpolation=how)
    return scaled
