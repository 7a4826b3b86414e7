"""Makes the pool: pictures of every kind as they are and as the server's preparation leaves them.

With `preprocess=auto` a server scales and centres what it finds, so that a letter comes to look
like a digit's writing. Training needs outliers of that look; calibration needs others.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.arrays import Floats, Pixels
from model.digits.preprocessing import find_digits
from model.errors import NoInkError
from model.literals import Preprocess
from training.config import PoolOptions
from training.data import Images
from training.pool import Pool, digits, drawings, glyphs
from training.pool.pen import SIDE

Picture = Callable[[np.random.Generator], Pixels]
# Shares of the kinds in training, of any sum.
SHOWN: Mapping[Picture, float] = {
    glyphs.letter: 30,
    glyphs.written_letter: 18,
    drawings.free_writing: 14,
    drawings.sign: 14,
    drawings.scribble: 4,
    drawings.shape: 5,
    drawings.silhouette: 6,
    drawings.texture: 4,
}
KEPT_BACK: tuple[Picture, ...] = (
    glyphs.script_letter,
    glyphs.foreign_letter,
    drawings.runes,
    drawings.curve,
    drawings.blob,
)
# Shares of the kinds of digits, of any sum, with their labels.
DIGITS: Mapping[Picture, tuple[float, int]] = {
    digits.flagged_one: (2, 1),
    digits.barred_seven: (1, 7),
}
TURNED_SEVENS = 2
# Longer sides of pictures that are not prepared, pixels of 28.
_SIDES = (14, 28)
# A picture resembles a digit if a training digit is as near to it as to this share of the
# validation digits.
_RESEMBLANCE = 0.75
_COMPARED = 20_000
_CHUNK = 500


def make_pool(images: Images, options: PoolOptions) -> Pool:
    """Draws the pool.

    Args:
        images: the training set; the last of them are for validation.
        options: how many images, and the seed.

    Raises:
        TrainingError: a package of fonts is not installed.
    """
    generator = np.random.default_rng(options.seed)
    held_out = len(images) - options.validation_images
    training, validation = images[:held_out], images[held_out:]
    resembles = Resemblance(training, validation)
    pixels = training.pixels
    shown = dict(SHOWN)
    shown |= {partial(cut, pixels): 3, partial(joined, pixels): 3}
    total = sum(shown.values())
    wanted = [(kind, round(options.count * share / total / 2)) for kind, share in shown.items()]
    wanted += [(kind, options.kept_back) for kind in KEPT_BACK]
    drawn: dict[tuple[str, str], Pixels] = {}
    for kind, count in tqdm(wanted, "outliers", unit="kind"):
        for form in get_args(Preprocess):
            drawn[name_of(kind), form] = draw(kind, count, generator, resembles, form)
    turned = partial(digits.turned_seven, pixels[training.labels == 7])
    shares: dict[Picture, tuple[float, int]] = {**DIGITS, turned: (TURNED_SEVENS, 7)}
    each = options.digits / sum(share for share, _ in shares.values())
    written = {
        (name_of(kind), str(label)): draw_digits(kind, round(each * share), generator)
        for kind, (share, label) in shares.items()
        if options.digits
    }
    kept_back = {name_of(kind) for kind in KEPT_BACK}
    return Pool(
        {key: pixels for key, pixels in drawn.items() if key[0] not in kept_back},
        {key: pixels for key, pixels in drawn.items() if key[0] in kept_back},
        written,
    )


def name_of(kind: Picture) -> str:
    function = kind.func if isinstance(kind, partial) else kind
    return function.__name__


def draw(
    kind: Picture,
    count: int,
    generator: np.random.Generator,
    resembles: "Resemblance",
    form: Preprocess,
) -> Pixels:
    """Draws images of one kind, (count, 28, 28), without those that resemble a digit."""
    kept: list[Pixels] = []
    while len(kept) < count:
        drawn: list[Pixels] = []
        while len(drawn) < count - len(kept):
            picture = kind(generator)
            image = prepare(picture) if form == "auto" else shrink(picture, generator)
            if image is not None:
                drawn.append(image)
        batch = np.stack(drawn)
        kept.extend(batch[~resembles(batch)])
    return np.stack(kept) if kept else np.zeros((0, 28, 28), np.uint8)


def draw_digits(kind: Picture, count: int, generator: np.random.Generator) -> Pixels:
    """Digits of one kind as a server prepares them, (count, 28, 28)."""
    kept: list[Pixels] = []
    while len(kept) < count:
        image = prepare(kind(generator))
        if image is not None:
            kept.append(image)
    return np.stack(kept) if kept else np.zeros((0, 28, 28), np.uint8)


def prepare(picture: Pixels) -> Pixels | None:
    """Brings a picture with white ink into MNIST's convention, as a server does.

    Returns:
        Ink, (28, 28), or None where the server finds no digit or several.
    """
    try:
        found = find_digits(~picture)
    except NoInkError:
        return None
    return None if found.boxes else found.pixels


def shrink(picture: Pixels, generator: np.random.Generator) -> Pixels | None:
    """A picture in 28x28 pixels: its ink of any size, anywhere; None without ink."""
    left, top, width, height = cv2.boundingRect(picture)
    if not width:
        return None
    ink = picture[top : top + height, left : left + width]
    scale = generator.integers(*_SIDES, endpoint=True) / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = np.zeros((28, 28), np.uint8)
    x, y = (int(generator.integers(0, 29 - each)) for each in size)
    image[y : y + size[1], x : x + size[0]] = cv2.resize(ink, size, interpolation=cv2.INTER_AREA)
    return image


def cut(digits: Pixels, generator: np.random.Generator) -> Pixels:
    """Half of a digit."""
    pixels = _enlarge(digits[generator.integers(len(digits))], 4)
    half = SIDE // 2 + int(generator.integers(-8, 9))
    turned = np.rot90(pixels, int(generator.integers(4))).copy()
    turned[half:] = 0
    return turned


def joined(digits: Pixels, generator: np.random.Generator) -> Pixels:
    """Two or three digits that touch, as a hurried hand writes them."""
    chosen = generator.integers(len(digits), size=generator.integers(2, 4))
    several = [digits[each] for each in chosen]
    canvas = np.zeros((28, 28 * len(several)), np.uint8)
    right = 0
    for digit in several:
        left, _, width, _ = cv2.boundingRect(digit)
        place = max(0, right - int(generator.integers(1, 4)))
        window = canvas[:, place : place + width]
        np.maximum(window, digit[:, left : left + width], out=window)
        right = place + width
    return _enlarge(canvas[:, :right], 4)


def _enlarge(pixels: Pixels, factor: int) -> Pixels:
    size = pixels.shape[1] * factor, pixels.shape[0] * factor
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC))


class Resemblance:
    """Finds images that resemble a digit: those near a training digit.

    Near is what has edges in the same places, in the same directions.
    """

    def __init__(self, training: Images, validation: Images) -> None:
        self._digits = _edges(training.pixels[:_COMPARED])
        self._limit = -1.0
        nearness = self.nearness(validation.pixels[:2000])
        self._limit = float(np.quantile(nearness, 1 - _RESEMBLANCE))

    def nearness(self, images: Pixels) -> Floats:
        """Cosine of the angle to the nearest training digit, (N,)."""
        chunks = np.split(_edges(images), range(_CHUNK, len(images), _CHUNK))
        return np.concatenate([(each @ self._digits.T).max(axis=1) for each in chunks])

    def __call__(self, images: Pixels) -> NDArray[np.bool_]:
        near: NDArray[np.bool_] = self.nearness(images) >= self._limit
        return near


def _edges(images: Pixels) -> Floats:
    """The direction of each image's blurred gradients, unit vectors, (N, 2 H W)."""
    soft = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0) for image in images]
    slopes = [
        np.concatenate([cv2.Sobel(each, -1, 1, 0).ravel(), cv2.Sobel(each, -1, 0, 1).ravel()])
        for each in soft
    ]
    vectors: Floats = np.stack(slopes)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)
    return vectors
