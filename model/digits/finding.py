"""Finds the digits in a picture, and cuts out the clearest: the recipe of the preparation."""

from typing import NamedTuple

import cv2
import numpy as np

from model.arrays import Bitmap, Pixels
from model.digits.fitting import disc, fit, stroke_width
from model.digits.paper import Paper, find_paper
from model.digits.parts import ALONG_EDGE, Box, Group, Parts, find_parts, group_parts
from model.digits.ruling import remove_lines, strip_line
from model.digits.sheet import LEAST_CONTRAST, find_threshold, is_ink_dark, measure_darkness, reduce, smooth
from model.errors import NoInkError

# Small pictures of the steps, by name.
Steps = dict[str, Pixels]

# Digits are searched in a picture reduced to at most this longer side. A digit of less than
# `_SMALL_DIGIT` there is searched again around it.
_LOOK_SIDE, _LARGE_LOOK_SIDE = 128, 320
_SMALL_DIGIT = 24
_LEAST_AVERAGED = 10
# The digit is cut out of the picture reduced so that its longer side is at most this.
_DIGIT_SIDE = 160
# Around a digit that is looked at closer, as a share of its longer side.
_AROUND = 0.25
# The widest strokes that are searched, as shares of the picture's longer side.
_REACHES = 0.25, 0.1, 0.04
# Strokes up to this width remain ink in the second search, in mean widths of the strokes.
_WIDEST_STROKE = 4
# A digit has at least this number of pixels; less is dust.
_LEAST_AREA = 5
# At this share of a digit's outline the brightness rises to half of the paper's within a twelfth of
# the digit's longer side. Marks with more than `_ALONG_EDGE` of
# their outline along the picture's edge, and marks fainter than `_FAINT`, are more often shadows:
# the distance is then shorter.
_LEAST_SHARP = 0.7
_EDGE_SHARE = 12
_FAINT = 0.3 * 255
# The strokes of a digit have at most this length, in its longer sides, and at most this number of
# pieces. In 1,000 renderings of digits the longest strokes had 4 longer sides.
_LONGEST_STROKES = 6
_MOST_PIECES = 12


class Look(NamedTuple):
    """The digits that were found in a picture at reduced size.

    Attributes:
        darkness: how dark ink is against the paper, 0 elsewhere, (H, W).
        parts: the connected parts of the ink.
        digits: the parts that make up digits, the clearest digit first; at least one.
        mask: 1 for ink of the first digit, (H, W).
        width: the mean width of its strokes, pixels.
    """

    darkness: Pixels
    parts: Parts
    digits: list[Group]
    mask: Pixels
    width: float

    def is_clean(self) -> bool:
        """Whether there is hardly any other ink, as shadows are."""
        mass = sum(digit.mass for digit in self.digits)
        return mass > 0.98 * self.parts.masses[1:].sum() and not self.digits[0].along_edge


def find_and_fit(image: Pixels, steps: Steps | None = None) -> tuple[Pixels, tuple[Box, ...]]:
    """Finds the digits in a picture of brightness 0 to 255.

    Returns:
        The clearest one in MNIST's convention; and the boxes of all, from left to right.

    Raises:
        NoInkError: there is no digit in the picture.
    """
    small, factor = reduce(image, _LOOK_SIDE)
    try:
        look, is_dark = search(small, LEAST_CONTRAST if factor == 1 else _LEAST_AVERAGED)
    except NoInkError as error:
        # Thin and faint strokes vanish in a picture that is reduced this far.
        small, factor = reduce(image, _LARGE_LOOK_SIDE)
        if small.shape == image.shape and factor == 1 and max(image.shape) <= _LOOK_SIDE:
            raise
        try:
            look, is_dark = search(small, LEAST_CONTRAST if factor == 1 else _LEAST_AVERAGED)
        except NoInkError:
            raise error from None
    boxes = sorted(tuple(factor * side for side in digit.box) for digit in look.digits)
    left, top, right, bottom = look.digits[0].box
    side = max(right - left, bottom - top)
    if factor > 1 and side < _SMALL_DIGIT:
        rows = slice(max(0, top - side) * factor, (bottom + side) * factor)
        columns = slice(max(0, left - side) * factor, (right + side) * factor)
        part = np.ascontiguousarray(image[rows, columns])
        if part.size < image.size:
            try:
                return find_and_fit(part, steps)[0], tuple(boxes)
            except NoInkError:
                pass
    ink = cut_out(image, look, factor, is_dark)
    check_strokes((ink > 127).view(np.uint8))
    if steps is not None:
        steps |= {"paper": small, "ink": look.darkness, "digit": ink}
    return fit(ink), tuple(boxes)


def search(small: Pixels, least: int) -> tuple[Look, bool]:
    """Finds the digits on the paper, or in all of the picture, as light or dark ink."""
    papers = find_paper(small)
    attempts = [(cover_up(small, paper), paper.is_light) for paper in papers]
    whole = [paper.is_light for paper in papers if paper.inside is None]
    is_dark = whole[0] if whole else is_ink_dark(small)
    attempts += [(small, polarity) for polarity in (is_dark, not is_dark) if polarity not in whole]
    looks, errors = [], []
    for grey, polarity in attempts:
        smoothed, noise = smooth(grey if polarity else ~grey)
        for share in _REACHES:
            reach = max(1, round(share * max(small.shape)))
            try:
                look = look_within(smoothed, noise, reach, least)
                # Now that the width of the strokes is known, wider dark areas are left out.
                narrower = round(_WIDEST_STROKE / 2 * look.width) + 2
                if narrower < 0.75 * reach and not look.is_clean():
                    look = look_within(smoothed, noise, narrower, least)
            except NoInkError as error:
                errors.append(error)
                continue
            if look.digits[0].along_edge <= ALONG_EDGE:
                return look, polarity
            looks.append((look, polarity))
    if not looks:
        raise errors[0]
    return min(looks, key=lambda item: item[0].digits[0].along_edge)


def cover_up(grey: Pixels, paper: Paper) -> Pixels:
    """Covers what is around the paper."""
    if paper.inside is None:
        return grey
    return np.where(paper.inside, grey, np.uint8(paper.brightness))


def look_within(grey: Pixels, noise: float, reach: int, least: int) -> Look:
    _, darkness = measure_darkness(grey, noise, reach, least)
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
    digit = digits[0]
    if len(digit.members) == 1:
        mask = np.equal(parts.labels, digit.members[0]).view(np.uint8)
    else:
        mask = np.isin(parts.labels, digit.members).view(np.uint8)
    strip_line(mask)
    width = stroke_width(mask)
    check_pen(grey, darkness, digit, mask, width)
    return Look(darkness, parts, digits, mask, width)


def check_pen(grey: Pixels, darkness: Pixels, digit: Group, mask: Pixels, width: float) -> None:
    """Whether a pen could have written the first digit."""
    if digit.area > _LONGEST_STROKES * digit.side * width or len(digit.members) > _MOST_PIECES:
        raise NoInkError(
            "no ink: marks are all over the image, as in noise, a texture or a page of text; "
            "send a picture of one digit"
        )
    if digit.along_edge > 0.4:
        raise NoInkError("no ink: nothing but a shadow stands out; send a digit with clearer strokes")
    if digit.area < _LEAST_AREA or (digit.along_edge and digit.side < 0.1 * max(grey.shape)):
        raise NoInkError("no ink: nothing but specks stands out; send a larger digit")
    if width > 0.36 * digit.side:
        raise NoInkError("no ink: nothing but a large area stands out; send a digit made of strokes")
    left, top, right, bottom = digit.box
    reach = max(1, digit.side // _EDGE_SHARE)
    if digit.along_edge > ALONG_EDGE or digit.mass < _FAINT * digit.area:
        reach = min(reach, max(1, int(width // 6)))
    outline = cv2.subtract(mask, cv2.erode(mask, disc(1)))
    around = cv2.dilate(grey, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    y, x = outline.nonzero()
    brightness = grey[y, x].astype(np.int64)
    paper = brightness * 255 // np.maximum(255 - darkness[y, x].astype(np.int64), 1)
    sharp = 2 * (around[y, x] - brightness) >= paper - brightness
    if sharp.sum() < _LEAST_SHARP * len(sharp):
        raise NoInkError(
            "no ink: nothing but a shadow stands out; send a digit with clearer strokes"
        )


def check_strokes(mask: Pixels) -> None:
    """Whether the ink is strokes, not noise."""
    areas = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    count = int(np.count_nonzero(areas > 0.01 * areas.max(initial=1)))
    side = max(cv2.boundingRect(mask)[2:])
    if count > 16 or cv2.countNonZero(mask) > _LONGEST_STROKES * side * stroke_width(mask):
        raise NoInkError(
            "no ink: marks are all over the image, as in noise, a texture or a page of text; "
            "send a picture of one digit"
        )


def cut_out(image: Pixels, look: Look, factor: int, is_dark: bool) -> Pixels:
    """Cuts out the first digit alone, with a margin: the share of each pixel that ink covers."""
    left, top, width, height = cv2.boundingRect(look.mask)
    right, bottom = left + width, top + height
    around = max(3, round(_AROUND * max(right - left, bottom - top)))
    rows, columns = slice(max(0, top - around), bottom + around), slice(max(0, left - around), right + around)
    mask = look.mask[rows, columns]
    others = cv2.dilate(np.not_equal(look.parts.labels[rows, columns] > 0, mask).view(np.uint8), disc(1))
    allowed = cv2.dilate(mask, np.ones((5, 5), np.uint8)) * (1 - others) | mask
    part = image[rows.start * factor : rows.stop * factor, columns.start * factor : columns.stop * factor]
    part, closer = reduce(part, int(_DIGIT_SIDE * (1 + 2 * _AROUND)))
    grey, noise = smooth(part if is_dark else ~part)
    allowed = cv2.resize(allowed, grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
    scale = factor / closer
    _, darkness = measure_darkness(grey, noise / 2, round(_WIDEST_STROKE / 2 * look.width * scale) + 2, 8)
    darkness = remove_lines(darkness) * allowed
    threshold = find_threshold(darkness)
    if threshold < 0:
        darkness = look.darkness[rows, columns] * mask
        threshold = 0
    typical = int(np.sort(darkness[darkness > threshold])[::-1][(darkness > threshold).sum() // 2])
    ink = cv2.convertScaleAbs(darkness, alpha=255 / typical)
    margin = 4
    return cv2.copyMakeBorder(ink, *[margin] * 4, cv2.BORDER_CONSTANT, value=0)
