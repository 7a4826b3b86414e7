"""Glyphs: characters of the fonts that packages bring, and those of Hershey's single-stroke fonts.

The fonts' licences allow this use: see docs/training.md. What resembles a digit once it is centred
(O, l, S, Z, B, q, ...) is left out.
"""

from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.arrays import Pixels
from training.errors import TrainingError
from training.pool.pen import EXTENT, SIDE, blank, random_matrix, write

# Folders of fonts in packages, and which of their files are used.
FONTS = {
    "matplotlib": ("mpl-data/fonts/ttf", ("DejaVuS*", "STIXGeneral*", "cm[rbst]*10*", "cmtt*")),
    "font_amatic_sc": ("files", ("*",)),
    "font_caladea": ("files", ("*",)),
    "font_fredoka_one": ("files", ("*",)),
    "font_hanken_grotesk": ("files", ("*",)),
    "font_intuitive": ("files", ("*",)),
    "font_lato": ("files", ("*",)),
    "font_source_serif_pro": ("files", ("*.ttf",)),
    "ttf_opensans": ("ttf", ("*",)),
}
KEPT_BACK_FONTS = {
    "fontpkg_dancing_script": ("files", ("*",)),
    "fontpkg_oleo_script": ("files", ("*",)),
}
_DIGIT_LIKE = set("OoQ0DIl|1iSsZzBqgbyTt23456789!'\"`.,:;-_()[]/\\ОоЗзбвВтТуУΟοΘθΦφОІΙι")
LATIN = [chr(code) for code in (*range(65, 91), *range(97, 123)) if chr(code) not in _DIGIT_LIKE]
OTHER = [
    *(chr(code) for code in (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA), *range(0x410, 0x450))),
    *"&@#?%+=*{}$€<>§¶ßæøđþ∑√∞≈≠∂∫",
]
OTHER = [character for character in OTHER if character not in _DIGIT_LIKE]
# Armenian, Hebrew, Arabic and Georgian: scripts that only calibration sees.
FOREIGN = [
    chr(code)
    for first, last in ((0x531, 0x586), (0x5D0, 0x5EA), (0x621, 0x64A), (0x10D0, 0x10F5))
    for code in range(first, last + 1)
]
HERSHEY = ("futural", "scripts", "cursive", "greeks", "cyrilc_1", "gothgbt", "timesi", "mathlow")
_SIZE = 72
_LATIN_SHARE = 0.6


def letter(generator: np.random.Generator) -> Pixels:
    """A letter or sign of a font, sheared, thickened or thinned, sometimes as an outline."""
    characters = LATIN if generator.random() < _LATIN_SHARE else OTHER
    return _style(_draw(_files(False), characters, generator), generator)


def script_letter(generator: np.random.Generator) -> Pixels:
    """A letter of a kept-back font: connected handwriting."""
    return _style(_draw(_files(True), LATIN, generator), generator)


def foreign_letter(generator: np.random.Generator) -> Pixels:
    """A letter of a script that training does not show."""
    return _style(_draw(_files(False), FOREIGN, generator), generator)


def written_letter(generator: np.random.Generator) -> Pixels:
    """A letter or sign of a Hershey font, written with a pen."""
    strokes: list[np.ndarray] = []
    while not strokes:
        font = _hershey(str(generator.choice(HERSHEY)))
        strokes = [np.array(stroke, np.float64) for stroke in font[generator.integers(len(font))]]
    return write(strokes, generator)


@lru_cache(maxsize=2)
def _files(kept_back: bool) -> tuple[Path, ...]:
    found: list[Path] = []
    for package, (folder, patterns) in (KEPT_BACK_FONTS if kept_back else FONTS).items():
        if (spec := find_spec(package)) is None or spec.origin is None:
            raise TrainingError(
                f"the fonts of {package} are not installed; pip install 'dropserve[outliers]'"
            )
        root = Path(spec.origin).parent / folder
        found += [path for each in patterns for path in sorted(root.glob(f"{each}.[ot]tf"))]
        found += [path for each in patterns if "." in each for path in sorted(root.glob(each))]
    return tuple(dict.fromkeys(found))


@cache
def _font(path: Path) -> tuple[ImageFont.FreeTypeFont, frozenset[int]]:
    from fontTools.ttLib import TTFont

    with TTFont(path) as tables:
        return ImageFont.truetype(path, _SIZE), frozenset(tables.getBestCmap() or ())


@cache
def _hershey(name: str) -> list[list[list[tuple[float, float]]]]:
    """The strokes of each character of a font that does not resemble a digit."""
    from HersheyFonts import HersheyFonts

    fonts = HersheyFonts()
    fonts.load_default_font(name)
    return [
        [list(stroke) for stroke in fonts.strokes_for_text(character)]
        for character in map(chr, range(33, 127))
        if character not in _DIGIT_LIKE
    ]


def _draw(files: tuple[Path, ...], characters: list[str], generator: np.random.Generator) -> Pixels:
    while True:
        font, known = _font(files[generator.integers(len(files))])
        character = characters[generator.integers(len(characters))]
        if ord(character) not in known:
            continue
        image = Image.new("L", (2 * SIDE, 2 * SIDE))
        ImageDraw.Draw(image).text((SIDE, SIDE), character, fill=255, font=font, anchor="mm")
        if image.getbbox() is not None:
            return np.asarray(image)


def _style(glyph: Pixels, generator: np.random.Generator) -> Pixels:
    """Another weight, slant and proportion; now and then an outline, or a hole in a field."""
    size = int(generator.choice([0, 0, 0, 3, 5, 7, 9]))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size or 1, size or 1))
    thinner = generator.random() < 0.3 and size <= 5
    weighted = cv2.erode(glyph, kernel) if thinner else cv2.dilate(glyph, kernel)
    if generator.random() < 0.08:
        weighted = cv2.morphologyEx(weighted, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    matrix = random_matrix(generator)
    shift = SIDE - matrix @ (SIDE, SIDE)
    fitted = fit_ink(cv2.warpAffine(weighted, np.column_stack([matrix, shift]), glyph.shape[::-1]))
    if generator.random() < 0.05:
        margin = SIDE // 8
        fitted[margin:-margin, margin:-margin] ^= 255
    return fitted


def fit_ink(picture: NDArray[Any]) -> Pixels:
    """Scales the ink of a picture to a longer side of `EXTENT`, in the middle of the canvas."""
    left, top, width, height = cv2.boundingRect(picture)
    if not width:
        return blank()
    ink = picture[top : top + height, left : left + width]
    scale = EXTENT / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    x, y = ((SIDE - each) // 2 for each in size)
    canvas, how = blank(), cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[y : y + size[1], x : x + size[0]] = cv2.resize(ink, size, interpolation=how)
    return canvas
