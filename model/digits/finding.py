"""Finds the digits in a picture, and cuts out the clearest: the recipe of the preparation."""

from typing import NamedTuple

import cv2
import numpy as np

from model.arrays import Pixels
from model.digits.fitting import disc, fit, stroke_width
from model.digits.parts import (
    ALONG_EDGE,
    Box,
    Group,
    Parts,
    find_parts,
    group_parts,
    pixels_of,
)
from model.digits.paper import Paper, find_paper
from model.digits.ruling import remove_lines
from model.digits.sheet import find_threshold, is_ink_dark, measure_darkness, reduce, smooth
from model.errors import NoInkError

# Small pictures of the steps, by name.
Steps = dict[str, Pixels]

# Digits are searched in a picture reduced to at most this longer side, and then looked at closer,
# reduced so that their own longer side is at most this.
_LOOK_SIDE = 128
_DIGIT_SIDE = 160
# Around a digit that is looked at closer, as a share of its longer side.
_AROUND = 0.4
# The widest strokes that are searched, as shares of the picture's longer side.
_REACHES = 0.25, 0.1, 0.04
# Strokes up to this width remain ink in the second search, in mean widths of the strokes.
_WIDEST_STROKE = 4
# A digit has at least this number of pixels; less is dust.
_LEAST_AREA = 8
# From a digit's edge the darkness falls by at least `_LEAST_STEP` of the ink's darkness within a
# twelfth of the digit's longer side. If a digit is out of focus by 5 % of its height, the darkness
# falls by 0.6; at a shadow's edge it falls by half of that. Marks with more than `_ALONG_EDGE` of
# their outline along the picture's edge, and marks fainter than `_FAINT`, are more often shadows:
# the distance is then shorter.
_EDGE_SHARE = 12
_LEAST_STEP = 0.5
_FAINT = 0.3 * 255
# The strokes of a digit have at most this length, in its longer sides, and at most this number of
# pieces. In 1,000 renderings of digits the longest strokes had 4 longer sides.
_LONGEST_STROKES = 6
_MOST_PIECES = 12
# A digit is cut out with this margin for its soft edges, as a share of its longer side.
_MARGIN = 0.12


class Look(NamedTuple):
    """The digits that were found in a picture, or in a part of it, at reduced size.

    Attributes:
        grey: brightness of dark ink on light paper, (H, W).
        darkness: how dark ink is against the paper, 0 elsewhere, (H, W).
        parts: the connected parts of the ink.
        digits: the parts that make up digits, the clearest digit first; at least one.
    """

    grey: Pixels
    darkness: Pixels
    parts: Parts
    digits: list[Group]


def find_and_fit(image: Pixels, steps: Steps | None = None) -> tuple[Pixels, tuple[Box, ...]]:
    """Finds the digits in a picture of brightness 0 to 255.

    Returns:
        The clearest one in MNIST's convention; and the boxes of all, from left to right.

    Raises:
        NoInkError: there is no digit in the picture.
    """
    small, factor = reduce(image, _LOOK_SIDE)
    paper = find_paper(small)
    look = None
    if paper is not None:
        is_dark = paper.is_light
        try:
            look = search(cover_up(small, paper), is_dark)
        except NoInkError:
            paper = None
    if look is None:
        is_dark = is_ink_dark(small)
        try:
            look = search(small, is_dark)
        except NoInkError as error:
            try:
                look, is_dark = search(small, not is_dark), not is_dark
            except NoInkError:
                raise error from None
    boxes = sorted(tuple(factor * side for side in digit.box) for digit in look.digits)
    closer = look_closer(image, look, factor, is_dark, paper)
    ink = cut_out(closer)
    pixels = fit(ink)
    if steps is not None:
        steps |= {"paper": look.grey, "ink": closer.darkness, "digit": ink}
    return pixels, tuple(boxes)


def cover_up(grey: Pixels, paper: Paper) -> Pixels:
    """Covers what is around the paper."""
    if paper.inside is None:
        return grey
    return np.where(paper.inside, grey, np.uint8(paper.brightness))


def search(grey: Pixels, is_dark: bool) -> Look:
    grey, noise = smooth(grey if is_dark else ~grey)
    first = None
    for share in _REACHES:
        reach = max(1, round(share * max(grey.shape)))
        try:
            look = look_at(grey, noise, reach)
            check_pen(look)
            return look
        except NoInkError as error:
            first = first or error
    raise first


def look_closer(image: Pixels, look: Look, factor: int, is_dark: bool, paper: Paper | None) -> Look:
    """Repeats the search around the first digit, at the size that the digit is fitted from."""
    digit = look.digits[0]
    left, top, right, bottom = digit.box
    width = stroke_width(pixels_of(digit, look.parts).astype(np.uint8))
    around = max(2, round(_AROUND * digit.side)) * factor
    rows = slice(max(0, top * factor - around), bottom * factor + around)
    columns = slice(max(0, left * factor - around), right * factor + around)
    within = image[rows, columns]
    part, closer_factor = reduce(within, int(_DIGIT_SIDE * (1 + 2 * _AROUND)))
    scale = factor / closer_factor
    if paper is not None and paper.inside is not None:
        y, x = np.arange(part.shape[0]) * closer_factor + rows.start, np.arange(part.shape[1]) * closer_factor + columns.start
        y, x = np.minimum(y // factor, paper.inside.shape[0] - 1), np.minimum(x // factor, paper.inside.shape[1] - 1)
        part = np.where(paper.inside[y[:, None], x], part, np.uint8(paper.brightness))
    reach = round(_WIDEST_STROKE / 2 * width * scale) + 2
    grey, noise = smooth(part if is_dark else ~part)
    try:
        return look_at(grey, noise, reach)
    except NoInkError:
        return look


def look_at(grey: Pixels, noise: float, reach: int) -> Look:
    _, darkness = measure_darkness(grey, noise, reach)
    darkness = remove_lines(darkness)
    threshold = find_threshold(darkness)
    if threshold < 0:
        raise NoInkError(
            "no ink: the image is uniform; send a digit that stands out from its background"
        )
    parts = find_parts(darkness, threshold)
    digits = group_parts(parts)
    if not digits:
        raise NoInkError(
            "no ink: marks are all over the image, as in noise, a texture or a page of text; "
            "send a picture of one digit"
        )
    return Look(grey, darkness, parts, digits)


def check_pen(look: Look) -> None:
    """Whether a pen could have written the first digit."""
    digit = look.digits[0]
    mask = pixels_of(digit, look.parts)
    length = digit.area / stroke_width(mask.astype(np.uint8))
    if length > _LONGEST_STROKES * digit.side or len(digit.members) > _MOST_PIECES:
        raise NoInkError(
            "no ink: marks are all over the image, as in noise, a texture or a page of text; "
            "send a picture of one digit"
        )
    if digit.area < _LEAST_AREA:
        raise NoInkError("no ink: nothing but specks stands out; send a larger digit")
    if not has_edges(look):
        raise NoInkError(
            "no ink: nothing but a shadow stands out; send a digit with clearer strokes"
        )


def has_edges(look: Look) -> bool:
    """Whether the first digit has sharp edges, as ink has and shadows do not."""
    digit = look.digits[0]
    left, top, right, bottom = digit.box
    reach = max(1, digit.side // _EDGE_SHARE)
    if digit.along_edge > ALONG_EDGE or digit.mass < _FAINT * digit.area:
        reach = min(reach, max(2, min(right - left, bottom - top) // 6))
    mask = pixels_of(digit, look.parts)
    rows = slice(max(0, top - reach), bottom + reach)
    columns = slice(max(0, left - reach), right + reach)
    around = look.grey[rows, columns]
    lightest = cv2.dilate(around, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    inner = slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)
    brightness = around[inner][mask].astype(np.int64)
    paper = brightness * 255 // np.maximum(255 - look.darkness[top:bottom, left:right][mask], 1)
    steps = 2 * (lightest[inner][mask] - brightness) >= paper - brightness
    return float(steps.mean()) >= 0.7


def cut_out(look: Look) -> Pixels:
    """Cuts out the first digit alone, with a margin: the share of each pixel that ink covers."""
    digit = look.digits[0]
    left, top, right, bottom = digit.box
    margin = max(2, round(_MARGIN * digit.side))
    is_digit = pixels_of(digit, look.parts, margin)
    rows = slice(max(0, top - margin), bottom + margin)
    columns = slice(max(0, left - margin), right + margin)
    ink = look.darkness[rows, columns]
    typical = int(np.sort(ink[is_digit])[digit.area // 2])
    # Faint marks away from the strokes do not belong to the digit.
    near = cv2.dilate(is_digit.astype(np.uint8), disc(max(1, digit.side // 40)))
    others = (look.parts.labels[rows, columns] > 0) & ~is_digit
    ink = cv2.multiply(ink, near * ~others, scale=255 / typical)
    return cv2.copyMakeBorder(ink, *[margin] * 4, cv2.BORDER_CONSTANT, value=0)
