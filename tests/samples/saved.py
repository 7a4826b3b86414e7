"""Digits in unusual files: 1 bit, other ranges of values, MNIST's images with borders, any size."""

import cv2
import numpy as np
from PIL import Image

from model.arrays import Pixels
from tests.samples.renderings import encode, write
from tests.samples.scenes import Box, Parameters, Values, blur, fall, lay, put, resize
from tests.samples.strokes import Shares, thicken


def _cover(
    strokes: Shares, parameters: Parameters, low: float, high: float, share: tuple[float, float]
) -> Values:
    side = parameters.on_log_scale(low, high)
    aspect = parameters.between(0.75, 1.33)
    height, width = round(side * max(1, aspect)), round(side * max(1, 1 / aspect))
    digit, box = put(strokes, Box(0, 0, height, width).shrunk(1), parameters, share)
    return lay(digit, box, height, width)


_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])


def _save_bilevel(white: Image.Image, parameters: Parameters) -> bytes:
    image_format = parameters.one_of(["PNG", "PNG", "GIF", "BMP", "TIFF"])
    options = {"compression": "group4"} if image_format == "TIFF" else {}
    return write(white, image_format, **options)


def dithered(strokes: Shares, parameters: Parameters) -> bytes:
    """1 bit a pixel, greys by error diffusion (Floyd, Steinberg) or a pattern (Bayer)."""
    cover = _cover(strokes, parameters, 60, 1000, (0.5, 0.9))
    paper, ink = parameters.between(215, 255), parameters.between(0, 60)
    values = paper + (ink - paper) * cover
    if parameters.chance(0.5):
        values *= fall(cover.shape, parameters, parameters.between(0.9, 1))
    if parameters.chance(0.25):
        height, width = cover.shape
        pattern = np.tile((_BAYER + 0.5) * 16, (height // 4 + 1, width // 4 + 1))
        return _save_bilevel(Image.fromarray(values > pattern[:height, :width]), parameters)
    grey = Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))
    return _save_bilevel(grey.convert("1"), parameters)


def faxed(strokes: Shares, parameters: Parameters) -> bytes:
    """1 bit a pixel, ragged edges, pinholes in the ink and salt on the paper."""
    cover = _cover(strokes, parameters, 60, 1000, (0.4, 0.9))
    noise = blur(parameters.grain(cover.shape, 1), parameters.between(0.4, 1))
    white = cover + noise * parameters.between(0.1, 0.6) < 0.5
    holes = parameters.generator.random(cover.shape, dtype=np.float32)
    white[holes < parameters.on_log_scale(0.0005, 0.03)] = True
    white[holes > 1 - parameters.on_log_scale(0.0005, 0.02)] = False
    return _save_bilevel(Image.fromarray(white), parameters)


def peppered(strokes: Shares, parameters: Parameters) -> bytes:
    """Single pixels, or a few at once, turned white or black all over the picture."""
    cover = _cover(strokes, parameters, 60, 500, (0.45, 0.9))
    values = parameters.between(210, 255) * (1 - cover) + parameters.between(0, 80) * cover
    speck = 1 if min(cover.shape) < 200 or parameters.chance(0.6) else 2
    coarse = [-(-side // speck) for side in cover.shape]
    chances = parameters.generator.random(coarse, dtype=np.float32)
    chances = chances.repeat(speck, 0).repeat(speck, 1)[: cover.shape[0], : cover.shape[1]]
    share = parameters.on_log_scale(0.003, 0.05)
    values[chances < share] = 0
    values[chances > 1 - share] = 255
    return encode(values, compress_level=1)


# Values in another range


def other_range(strokes: Shares, parameters: Parameters) -> bytes:
    """Masks of 0 and 1, and 8, 10 or 12 bits a pixel in files of 16."""
    cover = _cover(strokes, parameters, 28, 400, (0.5, 0.95))
    light_ink = parameters.chance(0.4)
    kind = parameters.one_of(["mask", "8 of 16", "10 of 16", "12 of 16", "mask of 16"])
    if kind.startswith("mask"):
        ones = (cover > 0.5) == light_ink
        values = ones.astype(np.uint16 if kind.endswith("16") else np.uint8)
    else:
        most = 2 ** int(kind.split()[0]) - 1
        paper, ink = parameters.between(0.8, 1), parameters.between(0, 0.35)
        shares = paper + (ink - paper) * cover
        if light_ink:
            shares = 1 - shares
        shares += parameters.grain(cover.shape, parameters.between(0, 0.01))
        values = np.rint(shares.clip(0, 1) * most).astype(np.uint16)
    return write(Image.fromarray(values), parameters.one_of(["PNG", "TIFF"]))


def cropped(strokes: Shares, parameters: Parameters) -> bytes:
    """Cut to the digit, or to a square around it, with hardly a margin; 1 bit, or grey; bold."""
    if parameters.chance(0.5):
        strokes = thicken(strokes, max(strokes.shape) * parameters.between(0.01, 0.05))
    scale = parameters.on_log_scale(16, 300) / max(strokes.shape)
    height, width = (max(1, round(side * scale)) for side in strokes.shape)
    cover = np.pad(resize(strokes, height, width).clip(0, 1), parameters.whole(0, height // 20))
    if parameters.chance(0.4):
        missing = max(cover.shape) - np.array(cover.shape)
        cover = np.pad(cover, [(each // 2, each - each // 2) for each in missing])
    if parameters.chance(0.5):
        cover = np.rint(cover)
    ink, paper = parameters.between(0, 80), parameters.between(190, 255)
    if parameters.chance(0.5):
        ink, paper = paper, ink
    return encode(paper + (ink - paper) * cover, compress_level=1)


# MNIST's images


def bordered(digit: Pixels, parameters: Parameters) -> bytes:
    """White on black with a border of another brightness, in MNIST's size or enlarged."""
    values = digit.astype(np.float32)
    values = np.pad(values, parameters.whole(0, 3))
    values = _enlarged(values, parameters, 1, 6)
    width = max(1, round(values.shape[0] * parameters.on_log_scale(0.03, 0.25)))
    brightness = parameters.between(60, 255) if parameters.chance(0.6) else 255.0
    return encode(np.pad(values, width, constant_values=brightness))


def figure(digit: Pixels, parameters: Parameters) -> bytes:
    """White on black as a figure with a wide white margin."""
    values = _enlarged(digit.astype(np.float32), parameters, 3, 16)
    side = values.shape[0]
    margins = [round(side * parameters.between(0.15, 1)) for _ in range(4)]
    page = np.full((side + margins[0] + margins[1], side + margins[2] + margins[3]), 255.0)
    page[margins[0] : margins[0] + side, margins[2] : margins[2] + side] = values
    if parameters.chance(0.3):
        return encode(page, "JPEG", quality=parameters.whole(75, 95))
    return encode(page, compress_level=1)


def _enlarged(values: Values, parameters: Parameters, low: float, high: float) -> Values:
    side = round(values.shape[0] * parameters.on_log_scale(low, high))
    method = parameters.one_of([cv2.INTER_NEAREST, cv2.INTER_LINEAR])
    return np.asarray(cv2.resize(values, (side, side), interpolation=method))


# Sizes


def shrunk(strokes: Shares, parameters: Parameters) -> bytes:
    """A canvas that a page has shrunk to MNIST's size, on which somebody has drawn anywhere."""
    if parameters.chance(0.5):
        strokes = thicken(strokes, max(strokes.shape) * parameters.between(0.01, 0.05))
    digit, box = put(strokes, Box(0, 0, 28, 28), parameters, (0.5, 1.0))
    cover = lay(digit, box, 28, 28)
    return encode(255 * (cover if parameters.chance(0.5) else 1 - cover))


def any_size(strokes: Shares, parameters: Parameters) -> bytes:
    """8x8 to 8000x6000; few of the largest."""
    large = parameters.chance(0.06)
    longer = round(parameters.on_log_scale(*((2000, 8000) if large else (8, 2000))))
    shorter = max(8, round(longer * parameters.between(0.75, 1)))
    height, width = (longer, shorter) if parameters.chance(0.5) else (shorter, longer)
    scale = min(1.0, 1500 / longer)
    size = [max(8, round(side * scale)) for side in (height, width)]
    # The smaller the picture, the more of it a digit must fill to be legible.
    share = (0.9, 1.0) if longer < 16 else (0.75, 1.0) if longer < 40 else (0.3, 0.9)
    digit, box = put(strokes, Box(0, 0, *size), parameters, share)
    cover = lay(digit, box, *size)
    if scale < 1:
        cover = resize(cover, height, width).clip(0, 1)
    paper, ink = parameters.between(200, 255), parameters.between(0, 80)
    cover *= ink - paper
    cover += paper
    picture = Image.fromarray(cover.astype(np.uint8))
    if longer > 1000 or parameters.chance(0.3 * (longer > 60)):
        return write(picture, "JPEG", quality=parameters.whole(75, 95))
    return write(picture, "PNG", compress_level=1)
