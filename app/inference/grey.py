"""A decoded picture of any mode of Pillow's -> brightness, in as few copies as it takes."""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Grey = NDArray[np.uint8]

# A picture of more pixels than this is scaled down before it is converted, in strips: of 50 million
# in four channels, each further copy would take 200 MB.
_MOST_WHOLE_PIXELS = 16_000_000
_STRIP_PIXELS = 2**20


def shrink(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scales a very large picture down, strip by strip: whole, every conversion would copy it."""
    factor = shrink_factor(image)
    if factor == 1:
        return image
    shrunk: PIL.Image.Image | None = None
    bits = _bits(image) if image.mode.startswith("I;16") else 8
    for top, strip in _strips(image, factor):
        small = _averageable(strip, bits).reduce(factor)
        if shrunk is None:
            shrunk = PIL.Image.new(small.mode, (small.width, -(-image.height // factor)))
        shrunk.paste(small, (0, top // factor))
    assert shrunk is not None
    return shrunk


def _strips(image: PIL.Image.Image, factor: int = 1) -> Iterator[tuple[int, PIL.Image.Image]]:
    """Strips of a multiple of `factor` rows, each with the number of its first row."""
    rows = factor * max(1, _STRIP_PIXELS // (factor * image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def shrink_factor(image: PIL.Image.Image) -> int:
    return max(1, math.ceil(math.sqrt(image.width * image.height / _MOST_WHOLE_PIXELS)))


def _averageable(image: PIL.Image.Image, bits: int) -> PIL.Image.Image:
    """The same picture in a mode whose values can be averaged."""
    if image.mode.startswith("I;16"):
        return _highest_eight(image, bits)
    if image.mode == "I":
        return image.convert("F")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("P", "1") else image


def _highest_eight(image: PIL.Image.Image, bits: int) -> PIL.Image.Image:
    """8 of the bits that 16-bit values use; 257 times an 8-bit value is that value again."""
    return PIL.Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))


def _bits(image: PIL.Image.Image) -> int:
    """How many bits 16-bit values use: 8, 10, 12 or 14, the first that none exceeds, or all."""
    return _used_bits(max(int(np.asarray(strip).max()) for _, strip in _strips(image)))


def _used_bits(largest: int) -> int:
    bits = largest.bit_length()
    return max(8, bits + bits % 2)


def use_all_of_range(grey: Grey, *, had_16_bits: bool) -> Grey:
    """Makes white of the largest value that a file of a smaller range has; changes `grey`.

    Args:
        grey: brightness 0 to 255, but 0 and 1 of a mask.
        had_16_bits: these are the high bytes of a picture in colour, whose values may use fewer.
    """
    largest = int(grey.max())
    if had_16_bits:
        grey <<= 16 - _used_bits(256 * largest)
    elif largest == 1:
        grey *= 255
    return grey


def luminance(image: PIL.Image.Image) -> PIL.Image.Image:
    """Any mode of Pillow's -> "L"."""
    mode = image.mode
    if mode == "L" and "transparency" not in image.info:
        return image
    if mode.startswith("I;16"):
        return _highest_eight(image, _bits(image))
    if mode in ("I", "F"):
        return PIL.Image.fromarray(_stretch(np.array(image, dtype=np.float32)))
    if image.has_transparency_data:
        return _lay_on_paper(image)
    if mode == "LAB":
        return image.getchannel("L")
    return image.convert("L")


def as_shown(image: PIL.Image.Image, mode: Literal["L", "RGB"]) -> PIL.Image.Image:
    """Any mode of Pillow's -> "L" or "RGB", as a screen would show it, on white paper."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F", "LAB"):
        image = luminance(image)
    if image.has_transparency_data:
        opaque = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(opaque, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _stretch(values: NDArray[np.float32]) -> Grey:
    """Values whose white is not agreed on -> 0 to 255; changes `values`.

    White is 1 or the largest number of 8, 10, 12, 14 or 16 bits, the first that nothing exceeds.
    With values below 0 or above those, the darkest is black and the lightest white.
    """
    np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    np.clip(values, -1e30, 1e30, out=values)  # so that no difference overflows
    darkest, lightest = float(values.min()), float(values.max())
    black, white = darkest, lightest
    if darkest >= 0 and lightest <= 65535:
        white = 1.0 if lightest <= 1 else 2.0 ** _used_bits(math.ceil(lightest)) - 1
        black = 0.0
    if white == black:
        return np.zeros(values.shape, dtype=np.uint8)
    values -= black
    values /= white - black
    values *= 255
    return np.rint(values, out=values).astype(np.uint8)


def _lay_on_paper(image: PIL.Image.Image) -> PIL.Image.Image:
    """Composites a transparent image over the brightness that makes its ink visible."""
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    alpha = image.getchannel("A")
    grey = image.convert("L")
    if alpha.getextrema() == (255, 255):
        return grey
    paper = PIL.Image.new("L", grey.size, _choose_paper(grey, alpha))
    paper.paste(grey, mask=alpha)
    return paper


def _choose_paper(grey: PIL.Image.Image, alpha: PIL.Image.Image) -> int:
    """The brightness to see through the transparent parts.

    Ink alone, drawn on nothing, gets white or black, whichever is further from it. Where most of
    the picture is opaque and has contrast, its own paper is there, and cut-out corners get its
    colour.
    """
    opaque = alpha.point([0] * 128 + [255] * 128)
    counts = np.array(grey.histogram(opaque))
    if not counts.any():  # nothing but veils
        counts = np.array(grey.histogram(alpha))
    if not counts.any():
        return 255
    present = counts.nonzero()[0]
    covers_most = counts.sum() > grey.width * grey.height / 2
    if covers_most and present[-1] - present[0] >= 64:
        return int((counts.cumsum() >= counts.sum() / 2).argmax())  # the median
    mean = float(counts @ np.arange(256)) / float(counts.sum())
    return 255 if mean < 128 else 0
