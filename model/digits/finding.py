"""Finds the digits in a picture, and cuts out the clearest: the recipe of the preparation."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Pixels
from model.digits.fitting import BOX, fill_outline, fit, stroke_width
from model.digits.paper import find_sheets, is_ink_dark
from model.digits.parts import ALONG_EDGE, Box, Part, find_parts, group_parts, magnified
from model.digits.ruling import remove_lines, strip_line
from model.digits.sheet import SPECKED, clean, find_ink, measure_darkness, reduce
from model.errors import NoInkError
from model.literals import SIDE

# Small pictures of the steps, by name.
Steps = dict[str, Pixels]

# Digits are searched in a picture reduced to at most the first longer side, and if there are none,
# to the second, where thin strokes do not vanish. What is cut out has at most `_DIGIT_SIDE`.
_LOOK_SIDES, _DIGIT_SIDE = (128, 320), 120
# Ink has at least this contrast to the paper, in grey levels; less is a sensor's noise. The second
# is for averages of pixels, the third where ink was found.
_LEAST_CONTRASTS = 16, 10, 8
# The widest strokes that are searched, as shares of the picture's longer side; and later, in mean
# widths of the strokes that were found.
_REACHES, _WIDEST_STROKE = (0.25, 0.08), 2
# Digits with this share of all ink are alone on clean paper.
_CLEAN = 0.98

# A digit has at least this number of pixels: less is dust. Its strokes have at most this length, in
# longer sides, and this number of pieces: in 1,000 renderings the longest strokes had 4.
_LEAST_AREA, _LONGEST_STROKES, _MOST_PIECES = 5, 6, 12
# At this share of a digit's outline the brightness rises to half of the paper's within a twelfth of
# its longer side, as it does for a digit that is out of focus by 5 % of its height. Marks fainter
# than `_FAINT` are more often shadows: they need it within an eighth of their stroke's width.
_SHARP, _EDGE_SHARE, _FAINT = 0.7, 12, 0.3 * 255

# A picture of MNIST's size is in MNIST's form if its outer 4 pixels hold less than this share of
# the ink: if it is disturbed; if no digit was found, where an even share would be 0.49; and if it
# is clean and longer than MNIST's box: with more it is a digit that was enlarged.
_MARGIN, _DISTURBED, _UNFOUND, _CLEAN_MARGIN = 4, 0.4, 0.48, 0.25

_UNIFORM = "the image is uniform; send a digit that stands out from its background"
_ALL_OVER = (
    "marks are all over the image, as in noise, a texture or a page of text; "
    "send a picture of one digit"
)
_SHADOW = "only a shadow stands out; send a digit with clearer strokes"
_SPECKS = "only specks stand out; send a larger digit"

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True)
class Look:
    """The digits that were found in a picture at reduced size.

    Attributes:
        darkness: how dark ink is against the paper, 0 elsewhere, (H, W).
        numbers: the number of each pixel's connected part, 0 for paper, (H, W).
        digits: the clearest first; at least one.
        mask: 1 for ink of the first digit, (H, W).
        width: the mean width of its strokes, pixels.
        is_clean: whether there is hardly any other ink.
        is_filled: whether it was an outline and was filled.
        is_dark: whether ink is darker than paper.
    """

    darkness: Pixels
    numbers: NDArray[np.int32]
    digits: list[Part]
    mask: Pixels
    width: float
    is_clean: bool
    is_filled: bool
    is_dark: bool


def find_and_fit(image: Pixels, steps: Steps | None = None) -> tuple[Pixels, tuple[Box, ...]]:
    """Finds the digits in a picture of brightness 0 to 255.

    Returns:
        The clearest one in MNIST's convention; and the boxes of all, from left to right.

    Raises:
        NoInkError: there is no digit in the picture.
    """
    if steps is not None:
        steps["paper"] = image
    for longest in _LOOK_SIDES:
        small, factor = reduce(image, longest)
        is_dark = is_ink_dark(small)
        found = _search(small, is_dark, _LEAST_CONTRASTS[factor > 1])
        if isinstance(found, Look) or factor == 1:
            break
    if image.shape == (SIDE, SIDE) and _is_disturbed(image if is_dark else ~image, found):
        return ~image if is_dark else image, ()
    if isinstance(found, NoInkError):
        raise found
    ink = _cut_out(image, found, factor)
    if steps is not None:
        steps |= {"ink": found.darkness, "digit": ink}
    boxes = sorted(magnified(digit.box, factor) for digit in found.digits)
    return fit(ink), tuple(boxes)


def _search(grey: Pixels, is_dark: bool, least: int) -> Look | NoInkError:
    """Finds the digits in all of the picture or on paper in it, as light or dark ink."""
    refusals: list[NoInkError] = []
    for sheet, is_light in [*find_sheets(grey), (grey, is_dark), (grey, not is_dark)]:
        # Where the picture is full of marks, as of text, what is between them is no ink.
        if is_light != is_dark and refusals and all(_ALL_OVER in str(each) for each in refusals):
            break
        for share in _REACHES:
            try:
                return _look_at(sheet, is_light, share, least)
            except NoInkError as refusal:
                refusals.append(refusal)
    return refusals[0]


def _look_at(sheet: Pixels, is_dark: bool, share: float, least: int) -> Look:
    """Measures the ink, leaves out lines and frames, and groups strokes into digits."""
    grey, noise = clean(sheet if is_dark else ~sheet)
    reach = max(1, round(share * max(grey.shape)))
    hollow = darkness = remove_lines(measure_darkness(grey, least, noise, reach))
    threshold, typical = find_ink(darkness)
    if not typical:
        raise NoInkError(f"no ink: {_UNIFORM if noise < least else _ALL_OVER}")
    if max(darkness.shape) < SPECKED:
        darkness = fill_outline(hollow, threshold)
    numbers, parts = find_parts(darkness, threshold)
    digits = group_parts(parts, numbers)
    if not digits:
        raise NoInkError(f"no ink: {_ALL_OVER}")
    chosen = np.zeros(len(parts) + 1, np.uint8)
    chosen[digits[0].numbers] = 1
    mask = chosen[numbers]
    strip_line(mask)
    is_clean = sum(digit.mass for digit in digits) > _CLEAN * sum(part.mass for part in parts)
    width = stroke_width(mask, 0)
    look = Look(darkness, numbers, digits, mask, width, is_clean, darkness is not hollow, is_dark)
    _check_pen(grey, look)
    return look


def _check_pen(grey: Pixels, look: Look) -> None:
    """Refuses what no pen could have written."""
    digit = look.digits[0]
    if digit.area > _LONGEST_STROKES * digit.side * look.width or len(digit.numbers) > _MOST_PIECES:
        raise NoInkError(f"no ink: {_ALL_OVER}")
    if digit.area < _LEAST_AREA:
        raise NoInkError(f"no ink: {_SPECKS}")
    reach = digit.side // _EDGE_SHARE
    if digit.mass < _FAINT * digit.area:
        reach = min(reach, int(look.width) // 8)
    if digit.along_edge > ALONG_EDGE or _share_of_sharp(grey, look, reach) < _SHARP:
        raise NoInkError(f"no ink: {_SHADOW}")


def _share_of_sharp(grey: Pixels, look: Look, reach: int) -> float:
    """At which share of the outline the lightest nearby is at least half as light as the paper."""
    reach = max(1, reach)
    paper = cv2.divide(grey, ~look.darkness, scale=255)
    lightest = cv2.dilate(grey, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    half = cv2.addWeighted(paper, 0.5, grey, 0.5, 0)
    outline = cv2.subtract(look.mask, cv2.erode(look.mask, _CROSS))
    sharp = cv2.min(outline, cv2.compare(lightest, half, cv2.CMP_GE))
    return cv2.countNonZero(sharp) / max(cv2.countNonZero(outline), 1)


def _is_disturbed(image: Pixels, found: Look | NoInkError) -> bool:
    """Whether an image of MNIST's size is in MNIST's form but for noise, lines or spatter.

    A network reads such an image better as it is than after what is cut out of it.
    """
    most = _UNFOUND
    if isinstance(found, Look):
        is_alone = found.digits[0].side <= BOX or found.is_filled or len(found.digits) > 1
        if found.is_clean and is_alone:
            return False
        most = _CLEAN_MARGIN if found.is_clean else _DISTURBED
    grey, noise = clean(image)
    darkness = measure_darkness(grey, _LEAST_CONTRASTS[0], noise, SIDE // 4)
    box = slice(_MARGIN, -_MARGIN)
    return int(darkness[box, box].sum()) > (1 - most) * int(darkness.sum())


def _cut_out(image: Pixels, look: Look, factor: int) -> Pixels:
    """Cuts out the first digit alone, with a margin: the share of each pixel that ink covers."""
    left, top, width, height = cv2.boundingRect(look.mask)
    around = max(3, max(width, height) // 4)
    rows = slice(max(0, top - around), top + height + around)
    columns = slice(max(0, left - around), left + width + around)
    mask = look.mask[rows, columns]
    # What is near the digit belongs to it, but not what touches other ink.
    others = ((look.numbers[rows, columns] > 0) & (mask == 0)).view(np.uint8)
    near = cv2.dilate(mask, np.ones((5, 5), np.uint8))
    allowed = cv2.max(mask, cv2.subtract(near, cv2.dilate(others, _CROSS)))
    darkness = look.darkness[rows, columns]
    if factor > 1:
        part = image[
            rows.start * factor : rows.stop * factor, columns.start * factor : columns.stop * factor
        ]
        part, closer = reduce(part if look.is_dark else ~part, _DIGIT_SIDE)
        grey, noise = clean(part)
        reach = round(_WIDEST_STROKE * look.width * factor / closer) + 2
        darkness = measure_darkness(grey, _LEAST_CONTRASTS[2], noise / 2, reach)
        allowed = cv2.resize(allowed, grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
    ink = darkness * allowed
    if not ink.any():
        ink = look.darkness[rows, columns] * mask
    ink = cv2.convertScaleAbs(ink, alpha=255 / find_ink(ink)[1])
    return cv2.copyMakeBorder(ink, 4, 4, 4, 4, cv2.BORDER_CONSTANT)
