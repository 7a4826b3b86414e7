"""MNIST's digits as people photograph, scan and draw them: image files of known digits.

Every kind takes a digit in MNIST's convention and a generator, and gives the bytes of a file.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from model.arrays import Pixels
from tests.samples.strokes import DRAWN, Shares, enlarge, thicken, thin

Generator = np.random.Generator
Render = Callable[[Pixels, Generator], bytes]

# Sheets


def place(
    strokes: Shares,
    generator: Generator,
    *,
    side: int | None = None,
    share: tuple[float, float] = (0.35, 0.85),
    offset: tuple[float, float] | None = None,
) -> Shares:
    """How much of each pixel of a sheet the digit covers.

    Args:
        strokes: the digit's box.
        generator: draws the size, the proportions and the place.
        side: the sheet's shorter side; 100 to 400 by default.
        share: of the digit's longer side in it.
        offset: where the free space is, 0 to 1 from the top and from the left; drawn by default.
    """
    side = side or int(generator.integers(100, 401))
    sheet = [side, round(side * generator.uniform(1, 1.4))]
    generator.shuffle(sheet)
    longer = max(4, side * generator.uniform(*share))
    scale = longer / max(strokes.shape)
    size = tuple(max(1, round(length * scale)) for length in strokes.shape)
    picture = Image.fromarray((strokes * 255).astype(np.float32))
    drawn = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BOX)) / 255
    if scale > 1:
        drawn = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)) / 255
    down, right = generator.random(2) if offset is None else offset
    top, left = round((sheet[0] - size[0]) * down), round((sheet[1] - size[1]) * right)
    cover = np.zeros(sheet)
    cover[top : top + size[0], left : left + size[1]] = np.clip(drawn, 0, 1)
    return cover


def draw(cover: Shares, generator: Generator) -> Shares:
    """Dark ink on light paper, in brightness 0 to 255."""
    ink, paper = generator.uniform(10, 90), generator.uniform(190, 255)
    return paper + (ink - paper) * cover


def _blur(values: Shares, radius: float) -> Shares:
    picture = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=float)


def _grain(shape: tuple[int, ...], deviation: float, generator: Generator) -> Shares:
    return generator.normal(0, deviation, shape)


def light(shape: tuple[int, ...], generator: Generator, darkest: float) -> Shares:
    """Falls off to one side, and to the corners."""
    y, x = np.indices(shape) / np.array(shape)[:, None, None] - 0.5
    angle = generator.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * x + np.sin(angle) * y
    fall = generator.uniform(darkest, 0.8)
    corners = generator.uniform(0, 0.4)
    light = fall + (1 - fall) * (slope - slope.min()) / np.ptp(slope)
    return np.asarray(light * (1 - corners * 2 * (x**2 + y**2)))


def _shadow(shape: tuple[int, ...], generator: Generator) -> Shares:
    """One or two straight shadows with soft or hard edges."""
    shade = np.ones(shape)
    y, x = np.indices(shape) / min(shape)
    for _ in range(int(generator.integers(1, 3))):
        angle = generator.uniform(0, 2 * np.pi)
        along = np.cos(angle) * x + np.sin(angle) * y
        edge = generator.uniform(along.min(), along.max())
        softness = generator.uniform(0.005, 0.1)
        depth = generator.uniform(0.3, 0.6)
        shade *= 1 - depth / (1 + np.exp(-np.clip((along - edge) / softness, -50, 50)))
    return shade


def _lines(shape: tuple[int, ...], digit: float, generator: Generator, *, both: bool) -> Shares:
    """Printed lines, slightly askew: how much of each pixel they cover."""
    y, x = np.indices(shape).astype(float)
    tilt = np.radians(generator.uniform(-3, 3))
    spacing = digit * generator.uniform(0.25, 0.6)
    width = max(1.0, digit * generator.uniform(0.006, 0.02))
    cover = np.zeros(shape)
    directions = ((-np.sin(tilt), np.cos(tilt)), (np.cos(tilt), np.sin(tilt)))
    for to_right, down in directions[: 2 if both else 1]:
        along = (to_right * x + down * y + generator.uniform(0, spacing)) % spacing
        distance = np.minimum(along, spacing - along)
        np.maximum(cover, np.clip(width / 2 - distance + 0.5, 0, 1), out=cover)
    return cover


# Files


def encode(
    values: NDArray[np.floating[Any]], image_format: str = "PNG", **options: object
) -> bytes:
    """Brightness (H, W) or (H, W, 3 or 4), 0 to 255."""
    picture = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
    return write(picture, image_format, **options)


def write(picture: Image.Image, image_format: str, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, image_format, **options)
    return file.getvalue()


# Kinds


def as_it_is(digit: Pixels, generator: Generator) -> bytes:
    """MNIST's own image as a PNG."""
    return encode(digit.astype(float))


def inverted(digit: Pixels, generator: Generator) -> bytes:
    """Dark on light, and now and then MNIST's own 28x28, inverted."""
    if generator.random() < 0.3:
        return encode(255.0 - digit)
    return encode(draw(place(enlarge(digit), generator), generator))


def coloured(digit: Pixels, generator: Generator) -> bytes:
    """Ink and paper of any two colours, dark on light or light on dark, that differ in brightness.

    By at least 40 of 255: of two colours as bright as each other grey shows nothing.
    """
    weights = np.array([0.299, 0.587, 0.114])
    while True:
        ink, paper = generator.uniform(0, 255, (2, 3))
        if abs((ink - paper) @ weights) >= 40:
            break
    cover = place(enlarge(digit), generator)[:, :, None]
    return encode(paper + (ink - paper) * cover)


def lit(digit: Pixels, generator: Generator) -> bytes:
    """Paper in uneven light."""
    values = draw(place(enlarge(digit), generator), generator)
    values = values * light(values.shape, generator, 0.3)
    return encode(values + _grain(values.shape, 3, generator), "JPEG", quality=85)


def shadowed(digit: Pixels, generator: Generator) -> bytes:
    """Paper with the shadow of a hand or a phone."""
    values = draw(place(enlarge(digit), generator), generator)
    values = values * _shadow(values.shape, generator)
    return encode(values + _grain(values.shape, 3, generator), "JPEG", quality=85)


def _on_lines(digit: Pixels, generator: Generator, *, both: bool) -> bytes:
    strokes = enlarge(digit)
    share = generator.uniform(0.35, 0.7)
    cover = place(strokes, generator, side=int(generator.integers(150, 401)), share=(share, share))
    lines = _lines(cover.shape, min(cover.shape) * share, generator, both=both)
    ink, paper = generator.uniform(10, 80), generator.uniform(200, 255)
    line = generator.uniform(ink + 60, paper - 30)
    values = paper + (line - paper) * lines
    values += (ink - values) * cover
    values = _blur(values, 0.6) + _grain(values.shape, 3, generator)
    return encode(values, "JPEG", quality=85)


def ruled(digit: Pixels, generator: Generator) -> bytes:
    """Writing paper."""
    return _on_lines(digit, generator, both=False)


def squared(digit: Pixels, generator: Generator) -> bytes:
    """Squared paper."""
    return _on_lines(digit, generator, both=True)


def blurred(digit: Pixels, generator: Generator) -> bytes:
    """Out of focus by 2 to 5 % of the digit's height."""
    share, side = generator.uniform(0.35, 0.8), int(generator.integers(100, 401))
    cover = place(enlarge(digit), generator, side=side, share=(share, share))
    values = draw(cover, generator)
    return encode(_blur(values, share * side * generator.uniform(0.02, 0.05)))


def noisy(digit: Pixels, generator: Generator) -> bytes:
    """A sensor's noise, with a deviation of 8 to 40 of 255."""
    values = draw(place(enlarge(digit), generator), generator)
    return encode(values + _grain(values.shape, generator.uniform(8, 40), generator))


def jpeg(digit: Pixels, generator: Generator) -> bytes:
    """JPEG of quality 60, either polarity."""
    values = draw(place(enlarge(digit), generator), generator)
    if generator.random() < 0.5:
        values = 255 - values
    return encode(values, "JPEG", quality=60)


def scaled(digit: Pixels, generator: Generator) -> bytes:
    """Sheets of 20 to 2,000 pixels."""
    side = round(float(np.exp(generator.uniform(np.log(20), np.log(1430)))))
    share = (0.7, 0.95) if side < 60 else (0.3, 0.95)
    cover = place(enlarge(digit), generator, side=side, share=share)
    return encode(draw(cover, generator), compress_level=1)


def shifted(digit: Pixels, generator: Generator) -> bytes:
    """In a corner or at an edge, touching it or nearly; MNIST's own image moved, too."""
    if generator.random() < 0.3:
        rows, columns = np.flatnonzero(digit.any(axis=1)), np.flatnonzero(digit.any(axis=0))
        down = int(generator.integers(-rows[0], 28 - rows[-1]))
        right = int(generator.integers(-columns[0], 28 - columns[-1]))
        return encode(np.roll(digit, (down, right), (0, 1)).astype(float))
    offset = [generator.choice([0, 0.02, 0.98, 1]), generator.random()]
    generator.shuffle(offset)
    cover = place(enlarge(digit), generator, offset=(offset[0], offset[1]))
    return encode(draw(cover, generator))


_EXIF_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def exif_rotated(digit: Pixels, generator: Generator) -> bytes:
    """Stored turned or mirrored, with the orientation in EXIF."""
    values = draw(place(enlarge(digit), generator), generator)
    orientation = int(generator.integers(2, 9))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.rint(values).astype(np.uint8))
    stored = picture.transpose(_EXIF_STORED[orientation])
    image_format = str(generator.choice(["JPEG", "PNG", "WebP"]))
    return write(stored, image_format, quality=90, exif=exif)


def transparent(digit: Pixels, generator: Generator) -> bytes:
    """Ink of any colour on nothing, with and without a palette."""
    cover = place(enlarge(digit), generator)
    values = np.empty((*cover.shape, 4))
    values[:, :, :3] = generator.uniform(0, 255, 3)
    values[:, :, 3] = cover * 255
    picture = Image.fromarray(np.rint(values).astype(np.uint8))
    if generator.random() < 0.3:
        indices = np.rint(cover * 15).astype(np.uint8)
        paletted = Image.fromarray(indices).convert("P")
        paletted.putpalette([int(value) for value in values[0, 0, :3]] * 16)
        return write(paletted, "PNG", transparency=bytes(range(0, 256, 17)))
    return write(picture, str(generator.choice(["PNG", "WebP"])), lossless=True)


def sixteen_bit(digit: Pixels, generator: Generator) -> bytes:
    """16 bits a pixel, PNG or TIFF."""
    values = draw(place(enlarge(digit), generator), generator) * 257
    values = np.clip(values + _grain(values.shape, 200, generator), 0, 65535)
    return write(Image.fromarray(values.astype(np.uint16)), str(generator.choice(["PNG", "TIFF"])))


def thin_pen(digit: Pixels, generator: Generator) -> bytes:
    """A pen of 1.5 to 5 % of the digit's height; MNIST's is 8 to 16 %."""
    strokes = thicken(thin(enlarge(digit)), DRAWN * generator.uniform(0.015, 0.05) / 2)
    return encode(draw(place(strokes, generator), generator))


def thick_pen(digit: Pixels, generator: Generator) -> bytes:
    """A felt tip: strokes 5 to 10 % of the digit's height thicker than MNIST's."""
    strokes = thicken(enlarge(digit), DRAWN * generator.uniform(0.025, 0.05))
    return encode(draw(place(strokes, generator), generator))


def specked(digit: Pixels, generator: Generator) -> bytes:
    """Dust and crumbs, up to a fifth of the digit's stroke, anywhere on the sheet."""
    cover = place(enlarge(digit), generator, share=(0.4, 0.7))
    y, x = np.indices(cover.shape)
    for _ in range(int(generator.integers(1, 12))):
        radius = min(cover.shape) * generator.uniform(0.003, 0.012)
        row, column = generator.random(2) * cover.shape
        dust = np.clip(radius - np.hypot(y - row, x - column) + 0.5, 0, 1)
        np.maximum(cover, dust, out=cover)
    return encode(draw(cover, generator))


def photo(digit: Pixels, generator: Generator) -> bytes:
    """All of it: lines or none, uneven light, a shadow, blur, noise, JPEG of quality 75."""
    share, side = generator.uniform(0.3, 0.7), int(generator.integers(300, 701))
    cover = place(enlarge(digit), generator, side=side, share=(share, share))
    ink, paper = generator.uniform(10, 80), generator.uniform(200, 255)
    values = np.full(cover.shape, paper)
    if generator.random() < 0.5:
        both = generator.random() < 0.5
        lines = _lines(cover.shape, side * share, generator, both=both)
        values += (generator.uniform(ink + 60, paper - 30) - paper) * lines
    values += (ink - values) * cover
    values *= light(cover.shape, generator, 0.5)
    if generator.random() < 0.5:
        values *= _shadow(cover.shape, generator)
    values = _blur(values, share * side * generator.uniform(0.003, 0.015))
    values += _grain(values.shape, generator.uniform(2, 8), generator)
    return encode(values, "JPEG", quality=75)


def several_digits(digits: list[Pixels], generator: Generator) -> bytes:
    """A number: digits next to each other, of nearly the same size, that do not touch."""
    height = int(generator.integers(40, 160))
    heights = [round(height * generator.uniform(0.85, 1)) for _ in digits]
    drawn = []
    for digit, tall in zip(digits, heights, strict=True):
        strokes = enlarge(digit)
        size = max(1, round(strokes.shape[1] * tall / strokes.shape[0])), tall
        picture = Image.fromarray((strokes * 255).astype(np.float32))
        drawn.append(np.asarray(picture.resize(size, Image.Resampling.BICUBIC)) / 255)
    gap = round(height * generator.uniform(0.12, 0.5))
    width = sum(part.shape[1] for part in drawn) + gap * (len(drawn) - 1)
    margin = round(height * generator.uniform(0.2, 1))
    cover = np.zeros((height + 2 * margin, width + 2 * margin))
    left = margin
    for part in drawn:
        cover[margin : margin + part.shape[0], left : left + part.shape[1]] = part
        left += part.shape[1] + gap
    return encode(draw(np.clip(cover, 0, 1), generator))


KINDS: Mapping[str, Render] = {
    "inverted": inverted,
    "coloured": coloured,
    "lit paper": lit,
    "shadowed paper": shadowed,
    "ruled": ruled,
    "squared": squared,
    "blurred": blurred,
    "noisy": noisy,
    "JPEG 60": jpeg,
    "20 to 2,000 px": scaled,
    "shifted": shifted,
    "EXIF-rotated": exif_rotated,
    "transparent": transparent,
    "16-bit": sixteen_bit,
    "thin pen": thin_pen,
    "thick pen": thick_pen,
    "specks": specked,
    "photo": photo,
}
