"""Pictures without a digit, as image files: each kind takes a generator."""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tests.samples.draw import draw_strokes
from tests.samples.renderings import Generator, encode, light
from tests.samples.strokes import Shares

Draw = Callable[[Generator], bytes]

# Without those that are written as a digit is: B 8, D O Q 0, G 6, I J L 1, S 5, Z 2.
_LETTERS = "ACEFHKMNPRTUVWXY"


def _sheet(generator: Generator) -> Shares:
    """A brightness that is the same everywhere, but for light and grain."""
    shape = tuple(int(side) for side in generator.integers(28, 400, 2))
    sheet = generator.uniform(60, 255) * light(shape, generator, 0.6)
    return np.asarray(sheet + generator.normal(0, generator.uniform(0, 4), shape))


def no_ink(generator: Generator) -> bytes:
    """An empty sheet in uneven light."""
    return encode(_sheet(generator), "JPEG", quality=80)


def all_ink(generator: Generator) -> bytes:
    """A sheet painted all over."""
    return encode(255 - _sheet(generator) * 0.9)


def noise(generator: Generator) -> bytes:
    """Pure noise: of every grey, of black and white, or of a normal distribution."""
    shape = tuple(int(side) for side in generator.integers(20, 300, 2))
    kind = generator.integers(3)
    if kind == 0:
        return encode(generator.uniform(0, 255, shape))
    if kind == 1:
        return encode(255.0 * (generator.random(shape) < generator.uniform(0.1, 0.9)))
    return encode(generator.normal(128, generator.uniform(15, 60), shape))


def texture(generator: Generator) -> bytes:
    """Waves, clouds, or a chequered cloth."""
    height, width = (int(side) for side in generator.integers(100, 400, 2))
    y, x = np.indices((height, width))
    kind = generator.integers(3)
    if kind == 0:
        waves = [
            np.sin((x * generator.normal() + y * generator.normal()) / generator.uniform(3, 20))
            for _ in range(5)
        ]
        return encode(128 + 25 * np.sum(waves, axis=0), "JPEG", quality=80)
    if kind == 1:
        grain = Image.fromarray(generator.integers(0, 256, (height, width), dtype=np.uint8))
        clouds = np.asarray(
            grain.filter(ImageFilter.GaussianBlur(generator.uniform(2, 8))), dtype=float
        )
        return encode(128 + (clouds - clouds.mean()) * 40 / clouds.std(), "JPEG", quality=80)
    cell = int(generator.integers(5, 30))
    return encode(60.0 + 140 * ((x // cell + y // cell) % 2))


def page_of_text(generator: Generator) -> bytes:
    """Lines of print that fill the picture."""
    size = int(generator.integers(12, 30))
    width, height = (int(side) for side in generator.integers(200, 600, 2))
    page = Image.new("L", (width, height), 245)
    pen = ImageDraw.Draw(page)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz    "))
    for top in range(size, height - size, round(1.5 * size)):
        line = "".join(generator.choice(letters, 2 * width // size))
        pen.text((size, top), line, fill=20, font=ImageFont.load_default(size))
    return encode(np.asarray(page, dtype=float))


def letter(generator: Generator) -> bytes:
    """A printed capital that is no digit's likeness."""
    side = int(generator.integers(60, 300))
    page = Image.new("L", (side, side), 240)
    pen = ImageDraw.Draw(page)
    capital = str(generator.choice(list(_LETTERS)))
    font = ImageFont.load_default(round(side * generator.uniform(0.4, 0.8)))
    pen.text(
        (side / 2, side / 2),
        capital,
        fill=int(generator.integers(0, 80)),
        font=font,
        anchor="mm",
        stroke_width=round(side * generator.uniform(0, 0.02)),
    )
    return encode(np.asarray(page, dtype=float))


def scribble(generator: Generator) -> bytes:
    """A pen moved about at random."""
    points = generator.random((int(generator.integers(12, 40)), 2))
    stroke = [(float(x), float(y)) for x, y in points]
    size = int(generator.integers(80, 300))
    thickness = generator.uniform(0.02, 0.08)
    return encode(np.asarray(draw_strokes([stroke], size=size, thickness=thickness), dtype=float))


KINDS: Mapping[str, Draw] = {
    "no ink": no_ink,
    "all ink": all_ink,
    "noise": noise,
    "texture": texture,
    "page of text": page_of_text,
    "letter": letter,
    "scribble": scribble,
}
