"""Finds the digits in a picture, and cuts out the clearest: the recipe of the preparation."""

from dataclasses import dataclass

import cv2
import numpy as np

from model.arrays import Pixels
from model.digits.fitting import fit
from model.digits.loops import AREA, find_regions, leave_others_out, share_of_sharp, stroke_width
from model.digits.paper import find_sheets
from model.digits.parts import (
    ALONG_EDGE,
    Box,
    Group,
    Parts,
    find_parts,
    group_parts,
    magnified,
    members_of,
    side_of,
)
from model.digits.ruling import remove_lines, strip_line
from model.digits.sheet import find_ink, measure_darkness, reduce, smooth
from model.errors import NoInkError

# Small pictures of the steps, by name.
Steps = dict[str, Pixels]

# Digits are searched in a picture reduced to at most the first longer side, and if there are none,
# to the second, where thin and faint strokes do not vanish. A digit of less than `_SMALL_DIGIT` is
# searched again around it. It is cut out of the picture reduced to at most `_DIGIT_SIDE`.
_LOOK_SIDES, _SMALL_DIGIT, _DIGIT_SIDE = (128, 320), 24, 240
# Ink has at least this contrast to the paper, in grey levels; less is a sensor's noise. The second
# is for averages of pixels, the third where ink was found.
_LEAST_CONTRASTS = 16, 10, 8
# The widest strokes that are searched, as shares of the picture's longer side; and later, in mean
# widths of the strokes that were found.
_REACHES, _WIDEST_STROKE, _WIDEST_FOUND = (0.25, 0.1, 0.04), 2, 1.4
# Digits with this share of all ink are alone on clean paper.
_CLEAN = 0.98

# A digit has at least this number of pixels, and at the picture's edge this share of its longer
# side: less is dust. Its strokes have at most this width, as a share of its longer side; in print
# and with a felt tip they have 0.3. They have at most this length, in longer sides, and this number
# of pieces: in 1,000 renderings of digits the longest strokes had 4 longer sides.
_LEAST_AREA, _LEAST_AT_EDGE, _THICKEST, _LONGEST_STROKES, _MOST_PIECES = 5, 0.1, 0.36, 6, 12
# At this share of a digit's outline the brightness rises to half of the paper's within a twelfth of
# its longer side, as it does for a digit that is out of focus by 5 % of its height. Marks along the
# picture's edge and marks fainter than `_FAINT` are more often shadows: they need sharper edges.
_SHARP, _EDGE_SHARE, _FAINT, _MOST_ALONG_EDGE = 0.7, 12, 0.3 * 255, 0.4
# A blob of at most this share of the picture's longer side may be the beginning of a stroke.
_LARGEST_BLOB = 0.2

_UNIFORM = "the image is uniform; send a digit that stands out from its background"
_ALL_OVER = (
    "marks are all over the image, as in noise, a texture or a page of text; "
    "send a picture of one digit"
)
_SHADOW = "only a shadow stands out; send a digit with clearer strokes"
_SPECKS = "only specks stand out; send a larger digit"
_AREA = "only a large area stands out; send a digit made of strokes"


@dataclass(frozen=True)
class Look:
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


def find_and_fit(image: Pixels, steps: Steps | None = None) -> tuple[Pixels, tuple[Box, ...]]:
    """Finds the digits in a picture of brightness 0 to 255.

    Returns:
        The clearest one in MNIST's convention; and the boxes of all, from left to right.

    Raises:
        NoInkError: there is no digit in the picture.
    """
    if steps is not None:
        steps.setdefault("paper", image)
    look, factor, is_dark = _search(image)
    boxes = tuple(sorted(magnified(digit.box, factor) for digit in look.digits))
    left, top, right, bottom = look.digits[0].box
    side = side_of(look.digits[0].box)
    if factor > 1 and side < _SMALL_DIGIT:
        rows = slice(max(0, top - side) * factor, (bottom + side) * factor)
        columns = slice(max(0, left - side) * factor, (right + side) * factor)
        part = np.ascontiguousarray(image[rows, columns])
        if part.size < image.size:
            try:
                return find_and_fit(part, steps)[0], boxes
            except NoInkError:
                pass
    ink = _cut_out(image, look, factor, is_dark)
    _check_strokes(ink)
    if steps is not None:
        steps |= {"ink": look.darkness, "digit": ink}
    return fit(ink), boxes


def _search(image: Pixels) -> tuple[Look, int, bool]:
    """Finds the digits on the paper, or in all of the picture, as light or dark ink."""
    refusals: list[NoInkError] = []
    at_edge: list[tuple[Look, int, bool]] = []
    for longest in _LOOK_SIDES:
        small, factor = reduce(image, longest)
        sheets = find_sheets(small)
        for number, (sheet, is_dark) in enumerate(sheets, 1):
            if number == len(sheets) and not at_edge and _are_marks_all_over(refusals):
                break
            grey, noise = smooth(sheet if is_dark else ~sheet)
            for share in _REACHES:
                reach = max(1, round(share * max(small.shape)))
                try:
                    look = _look_at(grey, noise, reach, _LEAST_CONTRASTS[factor > 1])
                except NoInkError as refusal:
                    refusals.append(refusal)
                    continue
                if look.digits[0].along_edge <= ALONG_EDGE:
                    return look, factor, is_dark
                at_edge.append((look, factor, is_dark))
        if at_edge or max(image.shape) <= longest:
            break
    if at_edge:
        return min(at_edge, key=lambda found: found[0].digits[0].along_edge)
    raise refusals[0]


def _are_marks_all_over(refusals: list[NoInkError]) -> bool:
    """Whether the latest sheet is full of marks; what is between them, as in text, is no ink."""
    return all(_ALL_OVER in str(refusal) for refusal in refusals[-len(_REACHES) :])


def _look_at(grey: Pixels, noise: float, reach: int, least: int) -> Look:
    """Measures the ink, leaves out lines and frames, and groups strokes into digits."""
    darkness = remove_lines(measure_darkness(grey, least, noise, reach))
    threshold, typical = find_ink(darkness)
    if not typical:
        raise NoInkError(f"no ink: {_UNIFORM}")
    parts = find_parts(darkness, threshold)
    digits = group_parts(parts)
    if not digits:
        raise NoInkError(f"no ink: {_ALL_OVER}")
    mask = members_of(digits[0], parts)
    strip_line(mask)
    look = Look(darkness, parts, digits, mask, stroke_width(mask, 0))
    _check_pen(grey, look, reach)
    # Now that the width of the strokes is known, wider dark areas are left out as shadows.
    narrower = round(_WIDEST_STROKE * look.width) + 2
    mass = sum(digit.mass for digit in digits)
    is_clean = mass > _CLEAN * parts.masses[0] and not digits[0].along_edge
    return look if is_clean or narrower >= 0.75 * reach else _look_at(grey, noise, narrower, least)


def _check_pen(grey: Pixels, look: Look, searched: int) -> None:
    """Refuses what no pen could have written."""
    digit, width, mask = look.digits[0], look.width, look.mask
    side = side_of(digit.box)
    if digit.area > _LONGEST_STROKES * side * width or len(digit.members) > _MOST_PIECES:
        raise NoInkError(f"no ink: {_ALL_OVER}")
    if digit.area < _LEAST_AREA or (digit.along_edge and side < _LEAST_AT_EDGE * max(grey.shape)):
        raise NoInkError(f"no ink: {_SPECKS}")
    if width > _THICKEST * side and side > _LARGEST_BLOB * max(grey.shape):
        raise NoInkError(f"no ink: {_AREA}")
    reach = max(1, side // _EDGE_SHARE)
    if digit.along_edge > ALONG_EDGE or digit.mass < _FAINT * digit.area:
        reach = min(reach, max(1, int(width // 8)))
    around = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    is_sharp = share_of_sharp(mask, grey, cv2.dilate(grey, around), look.darkness) >= _SHARP
    is_cut = width > _WIDEST_FOUND * searched  # of something wider, which is no ink
    if not is_sharp or is_cut or digit.along_edge > _MOST_ALONG_EDGE:
        raise NoInkError(f"no ink: {_SHADOW}")


def _check_strokes(ink: Pixels) -> None:
    """Refuses noise and text, which the reduced picture showed as strokes."""
    areas = find_regions(ink, 127, True)[1][1:, AREA]
    if np.count_nonzero(areas > 0.01 * areas.max(initial=1)) > _MOST_PIECES:
        raise NoInkError(f"no ink: {_ALL_OVER}")


def _cut_out(image: Pixels, look: Look, factor: int, is_dark: bool) -> Pixels:
    """Cuts out the first digit alone, with a margin: the share of each pixel that ink covers."""
    left, top, width, height = cv2.boundingRect(look.mask)
    around = max(3, max(width, height) // 4)
    rows = slice(max(0, top - around), top + height + around)
    columns = slice(max(0, left - around), left + width + around)
    mask = look.mask[rows, columns].copy()
    near = cv2.dilate(mask, np.ones((5, 5), np.uint8))
    allowed = leave_others_out(near, mask, look.parts.labels[rows, columns].copy())
    part = image[
        rows.start * factor : rows.stop * factor, columns.start * factor : columns.stop * factor
    ]
    part, closer = reduce(part, _DIGIT_SIDE)
    grey, noise = smooth(part if is_dark else ~part)
    reach = round(_WIDEST_STROKE * look.width * factor / closer) + 2
    darkness = remove_lines(measure_darkness(grey, _LEAST_CONTRASTS[2], noise / 2, reach))
    allowed = cv2.resize(allowed, grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
    typical = find_ink(darkness * allowed)[1]
    if not typical:
        darkness, allowed = look.darkness[rows, columns], mask
        typical = find_ink(darkness * allowed)[1]
    ink = cv2.convertScaleAbs(darkness * allowed, alpha=255 / typical)
    return cv2.copyMakeBorder(ink, 4, 4, 4, 4, cv2.BORDER_CONSTANT)
