"""Finds the digits in a picture, and cuts out the clearest."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.arrays import Pixels
from model.digits.components import Components, label
from model.digits.grouping import Group, group_parts
from model.digits.ink import (
    Darkness,
    find_threshold,
    initial_reach,
    is_ink_dark,
    measure_darkness,
    smooth,
)
from model.digits.ruling import remove_lines
from model.digits.strokes import stroke_width, thicken
from model.errors import NoInkError

# Left, top, right and bottom, the last two exclusive.
Box = tuple[int, int, int, int]

# Digits are searched in a picture reduced to at most this longer side. If the digit's longer side
# is then less than `_SMALL_DIGIT`, the search is repeated in the part of the picture around it.
_LOOK_SIDE = 512
_SMALL_DIGIT = 100
# A digit has at least this number of pixels; less is dust.
_LEAST_AREA = 8
# From a digit's edge the darkness falls by at least `_LEAST_STEP` of the ink's darkness within a
# twelfth of the digit's longer side. If a digit is out of focus by 5 % of its height, the darkness
# falls by 0.6; at a shadow's edge it falls by half of that. Marks with more than `_ALONG_EDGE` of
# their outline along the picture's edge, and marks fainter than `_FAINT`, are more often shadows:
# the distance is then shorter.
_EDGE_SHARE = 12
_LEAST_STEP = 0.5
_ALONG_EDGE = 0.25
_FAINT = 0.3
# The strokes of a digit have at most this length, in its longer sides, and at most this number of
# pieces. In 1,000 renderings of digits the longest strokes had 4 longer sides.
_LONGEST_STROKES = 6
_MOST_PIECES = 12
# Strokes up to this width remain ink in the second search, in mean widths of the strokes.
_WIDEST_STROKE = 4
# A digit is cut out with this margin for its soft edges, as a share of its longer side.
_MARGIN = 0.12
# The least width of a stroke that is cut out, pixels.
_FINEST = 1.5
# Soft edges are made steeper by this factor, as a pen's on paper are.
_STEEPNESS = 2.5


@dataclass(frozen=True)
class Look:
    """The digits that were found in a picture, or in a part of it, at reduced size.

    Attributes:
        shade: how dark each pixel is against the paper around it, 0 to 1, (H, W).
        darkness: `shade` where it is ink, 0 elsewhere.
        parts: the connected parts of the ink.
        digits: the parts that make up digits, the clearest digit first; at least one.
        factor: the factor by which the picture was reduced.
    """

    shade: Darkness
    darkness: Darkness
    parts: Components
    digits: list[Group]
    factor: int

    def boxes(self) -> tuple[Box, ...]:
        """Returns the boxes of the digits from left to right, in pixels of the original picture."""
        scaled = (digit.box * self.factor for digit in self.digits)
        return tuple(sorted((int(a), int(b), int(c), int(d)) for a, b, c, d in scaled))

    def cut_out(self, side: int) -> Darkness:
        """Cuts out the first digit alone, with a margin.

        Args:
            side: the longer side of the digit in the result, pixels.

        Returns:
            The share of each pixel that strokes cover, 0 to 1.
        """
        digit = self.digits[0]
        left, top, right, bottom = digit.box
        margin = max(2, round(_MARGIN * digit.side))
        rows = slice(max(0, top - margin), bottom + margin)
        columns = slice(max(0, left - margin), right + margin)
        labels = self.parts.labels[rows, columns]
        is_digit = np.isin(labels, digit.members)
        ink = self.darkness[rows, columns]
        ink = np.where((labels >= 0) & ~is_digit, 0, ink / np.median(ink[is_digit]))
        scale = side / digit.side
        # Strokes much finer than a pixel would fade.
        too_fine = (_FINEST / scale - stroke_width(is_digit.astype(np.float32))) / 2
        if too_fine > 0:
            ink = thicken(np.pad(ink, margin), too_fine)
            is_digit = np.pad(is_digit, margin)
        large = _resize(np.pad(ink, margin), scale, Image.Resampling.BICUBIC)
        cover = np.clip((large - 0.5) * _STEEPNESS + 0.5, 0, 1)
        # Faint marks away from the strokes do not belong to the digit.
        near = _resize(np.pad(is_digit, margin), scale, Image.Resampling.BILINEAR) > 0.05
        alone: Darkness = cover * thicken(near.astype(np.float32), 3)
        return alone


def look_at(image: Pixels) -> Look:
    """Finds the digits in a picture of brightness 0 to 255.

    Raises:
        NoInkError: there is no digit in the picture.
    """
    factor = -(-max(image.shape) // _LOOK_SIDE)
    grey = np.asarray(Image.fromarray(image).reduce(factor)) if factor > 1 else image
    if not is_ink_dark(grey):
        grey = ~grey
    grey, noise = smooth(grey)
    reach = initial_reach(grey)
    look = _look_within(grey, noise, reach, factor)
    # Now that the width of the strokes is known, wider dark areas are left out as shadows.
    narrower = round(_WIDEST_STROKE / 2 * stroke_width(_first_digit(look))) + 2
    if narrower < 0.75 * reach:
        look = _look_within(grey, noise, narrower, factor)
    return look


def look_closer(image: Pixels, look: Look) -> Look:
    """Repeats the search around the first digit if the picture shows it larger than `look` does."""
    digit = look.digits[0]
    if look.factor == 1 or digit.side >= _SMALL_DIGIT:
        return look
    left, top, right, bottom = digit.box
    rows = slice(max(0, top - digit.side) * look.factor, (bottom + digit.side) * look.factor)
    columns = slice(max(0, left - digit.side) * look.factor, (right + digit.side) * look.factor)
    try:
        return look_at(image[rows, columns])
    except NoInkError:
        return look


def _look_within(grey: Pixels, noise: float, reach: int, factor: int) -> Look:
    shade, stands_out = measure_darkness(grey, noise, reach)
    darkness = remove_lines(np.where(stands_out, shade, np.float32(0)))
    if not darkness.any():
        raise NoInkError(
            "no ink: the image is uniform; send a digit that stands out from its background"
        )
    parts = label(darkness > find_threshold(darkness))
    digits = group_parts(parts, darkness)
    if not digits or not _is_simple(Look(shade, darkness, parts, digits, factor)):
        raise NoInkError(
            "no ink: marks are all over the image, as in noise, a texture or a page of text; "
            "send a picture of one digit"
        )
    look = Look(shade, darkness, parts, digits, factor)
    if digits[0].area < _LEAST_AREA or not _has_edges(look):
        raise NoInkError(
            "no ink: nothing but specks or shadows stands out; send a larger or a clearer digit"
        )
    return look


def _is_simple(look: Look) -> bool:
    """Whether a pen could have written the first digit."""
    digit = look.digits[0]
    length = digit.area / stroke_width(_first_digit(look))
    return length <= _LONGEST_STROKES * digit.side and len(digit.members) <= _MOST_PIECES


def _has_edges(look: Look) -> bool:
    """Whether the first digit has sharp edges, as ink has and shadows do not."""
    digit = look.digits[0]
    left, top, right, bottom = digit.box
    reach = max(1, digit.side // _EDGE_SHARE)
    if digit.along_edge > _ALONG_EDGE or digit.mass < _FAINT * digit.area:
        reach = min(reach, max(2, int(min(right - left, bottom - top)) // 6))
    # From the shade, since the darkness ends abruptly where a shadow fades into noise.
    padded = np.pad(look.shade, reach, mode="edge")
    around = padded[top : bottom + 2 * reach, left : right + 2 * reach]
    middle = slice(reach, -reach)
    ink = around[middle, middle][_first_digit(look) > 0]
    nearby = [
        around[: -2 * reach, middle],
        around[2 * reach :, middle],
        around[middle, : -2 * reach],
        around[middle, 2 * reach :],
    ]
    steps = ink - np.minimum.reduce(nearby)[_first_digit(look) > 0]
    return float(np.quantile(steps, 0.8)) >= _LEAST_STEP * float(np.median(ink))


def _first_digit(look: Look) -> Darkness:
    """Returns the pixels of the first digit's box: 1 where they belong to it, 0 elsewhere."""
    left, top, right, bottom = look.digits[0].box
    labels = look.parts.labels[top:bottom, left:right]
    return np.isin(labels, look.digits[0].members).astype(np.float32)


def _resize(values: NDArray[Any], scale: float, resampling: Image.Resampling) -> Darkness:
    height, width = values.shape
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, resampling))
