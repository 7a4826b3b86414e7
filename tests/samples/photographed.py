"""Digits as a camera sees them: shadows, desks, colours, pencil, tilted; and ones with a flag."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.samples.draw import draw_strokes
from tests.samples.renderings import encode, write
from tests.samples.scenes import Box, Parameters, Values, blur, fall, lay, put, resize, save
from tests.samples.strokes import Shares, crop, thicken, thin

_LUMA = np.array([0.299, 0.587, 0.114])


def _pen(strokes: Shares, parameters: Parameters) -> Shares:
    """The digit in MNIST's felt tip, or with a pen of 2.5 to 7 % of its height."""
    if parameters.chance(0.6):
        return strokes
    return thicken(thin(strokes), max(strokes.shape) * parameters.between(0.025, 0.07) / 2)


def _shutter(values: Values, parameters: Parameters) -> bytes:
    """Exposure, a lens, a sensor's noise, JPEG; grey or in the colour of the light."""
    values = blur(values * parameters.between(0.65, 1), parameters.on_log_scale(0.4, 1.5))
    values += parameters.grain(values.shape, parameters.between(1, 5))
    picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if parameters.chance(0.6):
        warmth = parameters.between(0, 0.25)
        shares = (1, 1 - 0.4 * warmth, 1 - warmth)
        picture = Image.merge(
            "RGB", [picture.point([round(v * share) for v in range(256)]) for share in shares]
        )
    return write(picture, "JPEG", quality=parameters.whole(70, 95))


def _light(shape: tuple[int, ...], parameters: Parameters, darkest: float) -> Values:
    """Light that falls off to one side and to the corners."""
    return fall(shape, parameters, parameters.between(darkest, 0.9), parameters.between(0, 0.15))


def _shadow(shape: tuple[int, ...], parameters: Parameters, softness: float) -> Values:
    """What a straight shadow leaves of the light, its edge 15 to 60 degrees off the upright."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    angle = np.radians(parameters.between(15, 60)) * parameters.one_of([-1, 1])
    along = np.cos(angle) * (x - shape[1] / 2) + np.sin(angle) * (y - shape[0] / 2)
    along = along * parameters.one_of([-1, 1]) - min(shape) * parameters.between(-0.45, 0.45)
    depth = parameters.between(0.3, 0.65)
    steps = np.clip(along / softness, -30, 30).astype(np.float32)
    return np.asarray(1 - depth / (1 + np.exp(-steps)))


def _photo_size(parameters: Parameters) -> tuple[int, int]:
    longer = parameters.on_log_scale(240, 1600)
    sides = round(longer), round(longer * parameters.between(0.7, 1))
    return sides if parameters.chance(0.4) else sides[::-1]


def _in_shadow(strokes: Shares, parameters: Parameters, softness: tuple[float, float]) -> bytes:
    height, width = _photo_size(parameters)
    free = Box(0, 0, height, width).shrunk(round(0.08 * min(height, width)))
    digit, box = put(_pen(strokes, parameters), free, parameters, (0.3, 0.85))
    cover = lay(digit, box, height, width)
    paper, ink = parameters.between(205, 255), parameters.between(10, 80)
    values = paper + (ink - paper) * cover
    values *= _light(values.shape, parameters, 0.35)
    soft = min(height, width) * parameters.on_log_scale(*softness)
    return _shutter(values * _shadow(values.shape, parameters, soft), parameters)


def hard_shadow(strokes: Shares, parameters: Parameters) -> bytes:
    """An oblique shadow with a sharp edge, in falling light."""
    return _in_shadow(strokes, parameters, (0.001, 0.005))


def soft_shadow(strokes: Shares, parameters: Parameters) -> bytes:
    """An oblique shadow with a soft edge, in falling light."""
    return _in_shadow(strokes, parameters, (0.008, 0.08))


def _on_desk(strokes: Shares, parameters: Parameters, desk: float, paper: float) -> bytes:
    """A white sheet, a little askew, with or without all its edges in the picture."""
    height, width = _photo_size(parameters)
    tall, wide = (round(side * parameters.between(0.5, 0.85)) for side in (height, width))
    margin = round(0.14 * min(tall, wide))
    share = (0.35, 0.9)
    digit, box = put(
        _pen(strokes, parameters), Box(0, 0, tall, wide).shrunk(margin), parameters, share
    )
    sheet = lay(digit, box, tall, wide)
    angle = parameters.between(-10, 10)
    matrix = cv2.getRotationMatrix2D((wide / 2, tall / 2), angle, 1)
    matrix[0, 2] += (width - wide) * parameters.between(-0.05, 1.05)
    matrix[1, 2] += (height - tall) * parameters.between(-0.05, 1.05)
    size = (width, height)
    cover = np.asarray(cv2.warpAffine(sheet, matrix, size, flags=cv2.INTER_LINEAR))
    on_sheet = np.asarray(
        cv2.warpAffine(np.ones((tall, wide), np.float32), matrix, size, flags=cv2.INTER_LINEAR)
    )
    wood = resize(parameters.grain((height, -(-width // 16)), 1), height, width)
    values = desk + desk * parameters.between(0, 0.1) * wood
    # The sheet's own shadow on the desk.
    offset = round(0.01 * min(height, width)) + 1
    values *= 1 - parameters.between(0, 0.4) * blur(np.roll(on_sheet, offset, (0, 1)), offset)
    values += (paper - values) * on_sheet
    values += (parameters.between(10, 80) - values) * cover
    values *= _light(values.shape, parameters, 0.65)
    return _shutter(values, parameters)


def on_dark_desk(strokes: Shares, parameters: Parameters) -> bytes:
    """A white sheet on a dark desk."""
    return _on_desk(strokes, parameters, parameters.between(20, 110), parameters.between(205, 250))


def on_light_desk(strokes: Shares, parameters: Parameters) -> bytes:
    """A white sheet on a light desk."""
    paper = parameters.between(225, 255)
    return _on_desk(strokes, parameters, paper - parameters.between(25, 90), paper)


def equally_bright(strokes: Shares, parameters: Parameters) -> bytes:
    """Red on green, or two other colours of the same brightness."""
    height, width = (parameters.whole(80, 400) for _ in range(2))
    digit, box = put(strokes, Box(0, 0, height, width).shrunk(3), parameters, (0.5, 0.9))
    cover = lay(digit, box, height, width)[:, :, None]
    red, green = np.array([1, 0.1, 0.1]), np.array([0.1, 1, 0.1])
    blue, yellow = np.array([0.15, 0.3, 1]), np.array([0.9, 0.8, 0.05])
    ink, paper = red, green
    if parameters.chance(0.4):
        ink, paper = parameters.one_of([(green, red), (blue, yellow), (red, blue), (blue, green)])
    brightness = parameters.between(60, 75)
    ink = ink * (brightness + parameters.between(-8, 8)) / (ink @ _LUMA)
    paper = paper * brightness / (paper @ _LUMA)
    values = (paper + (ink - paper) * cover).astype(np.float32)
    return save(values, parameters)


def pencil(strokes: Shares, parameters: Parameters) -> bytes:
    """Faint pencil: 15 to 45 of 255 darker than the paper, grainy, with a thin point."""
    height, width = _photo_size(parameters)
    radius = max(strokes.shape) * parameters.between(0.03, 0.08) / 2
    digit, box = put(
        thicken(thin(strokes), radius), Box(0, 0, height, width).shrunk(4), parameters, (0.3, 0.85)
    )
    cover = lay(digit, box, height, width)
    grain = blur(parameters.grain(cover.shape, 1), 0.8)
    cover *= (1 + parameters.between(0.1, 0.5) * grain).clip(0.3, 1.3)
    values = parameters.between(200, 250) - parameters.between(15, 45) * cover
    values *= _light(values.shape, parameters, 0.8)
    values += parameters.grain(values.shape, parameters.between(0.5, 2))
    return encode(values, "JPEG", quality=parameters.whole(80, 95))


def tilted(strokes: Shares, parameters: Parameters) -> bytes:
    """Turned by up to 18 degrees either way."""
    height, width = (parameters.whole(100, 400) for _ in range(2))
    angle = parameters.between(-18, 18)
    tall, wide = strokes.shape
    reach = int(np.ceil(np.hypot(tall, wide)))
    matrix = cv2.getRotationMatrix2D((wide / 2, tall / 2), angle, 1)
    matrix[:, 2] += (reach - wide) / 2, (reach - tall) / 2
    turned = crop(np.asarray(cv2.warpAffine(strokes, matrix, (reach, reach))))
    digit, box = put(turned, Box(0, 0, height, width).shrunk(3), parameters, (0.4, 0.9))
    paper, ink = parameters.between(200, 255), parameters.between(0, 90)
    values = paper + (ink - paper) * lay(digit, box, height, width)
    return save(values, parameters)


# Ones with a flag


def _fonts() -> list[Path]:
    """Matplotlib's."""
    found = find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    names = "DejaVuSans* DejaVuSerif* STIXGeneral* cmr10* cmss10* cmtt10* cmb10*"
    fonts = {font for name in names.split() for font in folder.glob(f"{name}.ttf")}
    return sorted(font for font in fonts if "Display" not in font.name)


def printed_one(parameters: Parameters) -> Shares:
    """A 1 of a typeface, with its flag, and mostly a foot; each half has typefaces of its own."""
    page = Image.new("L", (240, 240))
    font = ImageFont.truetype(parameters.own_one_of(_fonts()), 180)
    ImageDraw.Draw(page).text((120, 120), "1", 255, font, anchor="mm")
    return crop(np.asarray(page, dtype=float) / 255)


def drawn_one(parameters: Parameters) -> Shares:
    """A drawn 1 with a flag that falls off clearly, which no 7's does."""
    angle = np.radians(parameters.between(30, 60))  # off the upright
    flag = parameters.between(0.18, 0.45)
    tip = (0.5, 0.0)
    start = (0.5 - flag * np.sin(angle), flag * np.cos(angle))
    strokes = [[start, tip, tip, (0.5, 1.0)]]
    if parameters.chance(0.25):
        foot = parameters.between(0.12, 0.3)
        strokes.append([(0.5 - foot, 1.0), (0.5 + foot, 1.0)])
    picture = draw_strokes(
        strokes,
        size=200,
        height=0.7,
        thickness=parameters.between(0.05, 0.14),
        slant=parameters.between(-0.05, 0.2),
        jitter=0.008,
        seed=int(parameters.generator.integers(2**31)),
        ink=0,
    )
    return crop(1 - np.asarray(picture, dtype=float) / 255)


def plain(strokes: Shares, parameters: Parameters) -> bytes:
    """Ink on paper, nothing else."""
    height, width = (parameters.whole(60, 400) for _ in range(2))
    digit, box = put(strokes, Box(0, 0, height, width).shrunk(3), parameters, (0.4, 0.9))
    paper, ink = parameters.between(200, 255), parameters.between(0, 90)
    return save(paper + (ink - paper) * lay(digit, box, height, width), parameters)
