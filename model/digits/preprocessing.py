"""Brings pictures of digits into MNIST's convention: the recipe is `find_digits`.

MNIST's convention (LeCun, Cortes and Burges): white ink on black, 28x28, the digit scaled to a
20-pixel box with antialiasing, its centre of mass in the middle of the image.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from model.arrays import Pixels
from model.digits import fitting, paper, parts
from model.digits.parts import Part
from model.errors import NoInkError
from model.literals import SIDE
from model.pixels import Box, crop, extent, grown, sharp_share, stroke_width, typical_mark

# Longer sides of the pictures in which digits are searched; in the second, if there are none in the
# first, since thin strokes vanish. What is cut out has at most `_DIGIT_SIDE`.
_LOOK_SIDES, _DIGIT_SIDE = (128, 320), 120
# The widest strokes, at first in longer sides of the picture, later in mean widths of those found.
_REACHES, _WIDEST_STROKE = (0.25, 0.08), 2
# Ink's least contrast, grey levels, the second for averages of pixels and where ink was found; and
# its least share of most ink's darkness.
_LEAST_CONTRASTS, _LIGHTEST = (16, 10), 0.55
# A digit has at least this number of pixels. A pen's strokes have at most this length, in longer
# sides (in 1,000 renderings at most 4); noise, textures and text have more.
_LEAST_AREA, _LONGEST_STROKES = 5, 6
# At this share of its outline a digit's brightness rises to half of the paper's within a twelfth of
# its side, in focus or not; in marks fainter than `_FAINT`, often shadows, an eighth of a stroke.
_SHARP, _EDGE_SHARE, _FAINT = 0.7, 12, 0.3 * 255
# A picture of MNIST's size is in MNIST's form if its outer 4 pixels hold less than this share of
# the ink; the second, if nearly all of it, `_CLEAN`, is one part that is longer than `_ENLARGED`.
# What disturbs one part is at an end of it: the rest is in the middle, but for `_OFF` pixels.
_MARGIN, _MOST_IN_MARGIN, _CLEAN, _ENLARGED, _OFF = 4, (0.4, 0.25), 0.95, 25, 3.5
_FILLED = 0.5  # Strokes cover less of a square; a black square with a white digit has 0.86.
_UNIFORM = "the image is uniform; send a digit that stands out from its background"
_ALL_OVER = "marks are all over the image, as in noise or text; send a picture of one digit"
_SHADOW = "only a shadow stands out; send a digit with clearer strokes"
_SPECKS = "only specks stand out; send a larger digit"


class Preprocessed(NamedTuple):
    """A picture in MNIST's convention."""

    pixels: Pixels  # ink 0 to 255, (28, 28); of several digits that with most ink
    boxes: tuple[Box, ...] = ()  # of several digits from left to right, in the original picture


class Look(NamedTuple):
    """The digits that were found in a picture at reduced size, the clearest first."""

    digits: list[Part]
    mask: Pixels  # 1 for ink of the first digit, (H, W)
    stroke_width: float  # of that digit, pixels
    darkness: Pixels  # of ink against the paper, 0 elsewhere, (H, W)
    is_dark: bool  # ink is darker than paper
    is_clean: bool  # nearly all ink is one connected part, the first digit
    even: int | None  # the brightness of paper that is even, after `is_dark`

    @property
    def is_drawn(self) -> bool:
        """Whether there is nothing but strokes: no filled area, which may be another paper."""
        return self.is_clean and self.digits[0].area < _FILLED * self.digits[0].side ** 2


def find_digits(
    image: Pixels, steps: dict[str, Pixels] | None = None, scale: int = 1
) -> Preprocessed:
    """Finds the digit in any picture; MNIST's own images are unchanged, but for their polarity.

    Args:
        image: brightness 0 to 255, (H, W).
        steps: takes small pictures of the steps, by name.
        scale: how many times as large the original picture is.

    Raises:
        NoInkError: there is no digit.
    """
    has_mnists_size = image.shape == (SIDE, SIDE)
    for pixels in (image, ~image) if has_mnists_size else ():
        if fitting.follows_convention(pixels):
            return Preprocessed(pixels)
    steps = {} if steps is None else steps
    steps["paper"] = image
    found, factor = _search(image)
    if has_mnists_size and _is_disturbed(found):
        return Preprocessed(~image if found.is_dark else image)
    ink = _cut_out(image, found, factor)
    steps |= {"ink": found.darkness, "digit": ink}
    several = found.digits if found.digits[1:] else ()
    boxes = sorted(tuple(factor * scale * x for x in digit.box) for digit in several)
    return Preprocessed(fitting.fit(ink), tuple(boxes))


def _search(image: Pixels) -> tuple[Look, int]:
    """Finds digits on paper, or else anywhere; and the side of the squares that were averaged."""
    for longest in _LOOK_SIDES:
        refusals: list[str] = []
        grey, factor = paper.reduce(image, longest)
        least = _LEAST_CONTRASTS[factor > 1]
        if (on_even := paper.find_even(grey)) is not None:
            even, is_dark = on_even
            found = _look_at(grey, is_dark, _REACHES[0], least, even if is_dark else 255 - even)
            if isinstance(found, Look) and found.is_drawn:
                return found, factor
        usual = paper.is_ink_dark(grey)
        for sheet, is_dark in [*paper.find_sheets(grey), (grey, usual), (grey, not usual)]:
            # Where the picture is full of marks, as of text, what is between them is no ink.
            if is_dark != usual and set(refusals) == {_ALL_OVER}:
                break
            for share in _REACHES:
                found = _look_at(sheet, is_dark, share, least)
                if isinstance(found, Look):
                    return found, factor
                refusals.append(found)
        if factor == 1:
            break
    raise NoInkError(f"no ink: {refusals[0]}")


def _look_at(
    sheet: Pixels, is_dark: bool, share: float, least: int, even: int | None = None
) -> Look | str:
    """Measures the ink, leaves out lines and groups strokes; or says why there is no digit."""
    grey = sheet if is_dark else ~sheet
    grey, noise = paper.clean(grey) if even is None else (grey, 0)
    reach = max(1, round(share * max(grey.shape)))
    darkness = paper.remove_lines(paper.measure_darkness(grey, least, noise, reach, even))
    typical = typical_mark(darkness)
    if not typical:
        return _UNIFORM if noise < least else _ALL_OVER
    ink = cv2.threshold(darkness, int(_LIGHTEST * typical), 1, cv2.THRESH_BINARY)[1]
    numbers, found = parts.find_parts(ink)
    digits = parts.group_parts(found, numbers)
    if not digits:
        return _ALL_OVER
    mask = ink
    if len(digits[0].numbers) < len(found):
        chosen = np.bincount(digits[0].numbers, minlength=len(found) + 1).astype(np.uint8)
        mask = chosen.take(numbers)  # in a third of the time of an index
    parts.strip_line(mask, digits[0].box)
    width = stroke_width(crop(mask, digits[0].box), 1)
    area = sum(part.area for part in found)
    is_clean = digits[0].numbers == found[0].numbers and found[0].area > _CLEAN * area
    look = Look(digits, mask, width, darkness, is_dark, is_clean, even)
    return _judge_strokes(grey, look) or look


def _judge_strokes(grey: Pixels, look: Look) -> str:
    """Says why no pen could have written a digit: its strokes are few, and have sharp edges."""
    digit, width = look.digits[0], look.stroke_width
    if digit.area > _LONGEST_STROKES * digit.side * width:
        return _ALL_OVER
    if digit.area < _LEAST_AREA:
        return _SPECKS
    reach = max(1, digit.side // _EDGE_SHARE)
    faint = max(1, min(reach, int(width) // 8)), _FAINT * digit.area
    sharp = sharp_share(grey, look.darkness, look.mask, digit.box, reach, *faint)
    return _SHADOW if digit.along_edge > parts.ALONG_EDGE or sharp < _SHARP else ""


def _is_disturbed(look: Look) -> bool:
    """Whether an image of MNIST's size is in MNIST's form but for noise, lines or spatter."""
    digit = look.digits[0]
    is_moved = _off_middle(look.darkness, digit.box) > _OFF
    if look.is_clean and (digit.side <= fitting.BOX or is_moved):
        return False
    most = _MOST_IN_MARGIN[look.is_clean and digit.side > _ENLARGED]
    middle = look.darkness[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    return int(middle.sum()) > (1 - most) * int(look.darkness.sum())


def _off_middle(darkness: Pixels, box: Box) -> float:
    """How far the centre of mass is from the middle, cut to MNIST's box from the best corner."""
    xs, ys = ({low, max(low, high - fitting.BOX)} for low, high in (box[::2], box[1::2]))
    centres = []
    for x, y in ((x, y) for x in xs for y in ys):
        cut = cv2.moments(crop(darkness, (x, y, x + fitting.BOX, y + fitting.BOX)))
        centres.append([x + cut["m10"] / max(cut["m00"], 1), y + cut["m01"] / max(cut["m00"], 1)])
    return min(math.dist(centre, [(SIDE - 1) / 2] * 2) for centre in centres)


def _cut_out(image: Pixels, look: Look, factor: int) -> Pixels:
    """Cuts out the first digit alone, with a margin: the share of each pixel that ink covers."""
    left, top, right, bottom = extent(look.mask)
    box = grown((left, top, right, bottom), max(3, max(right - left, bottom - top) // 4))
    mask, darkness = crop(look.mask, box), crop(look.darkness, box)
    near = cv2.dilate(mask, None, iterations=2)
    if factor > 1:
        part = crop(image, box, factor)
        grey, closer = paper.reduce(part if look.is_dark else ~part, _DIGIT_SIDE)
        grey, noise = paper.clean(grey) if look.even is None else (grey, 0)
        reach = round(_WIDEST_STROKE * look.stroke_width * factor / closer) + 2
        darkness = paper.measure_darkness(grey, _LEAST_CONTRASTS[1], noise / 2, reach, look.even)
        near = cv2.resize(near, grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
    ink = darkness * near
    if not cv2.countNonZero(ink):
        ink = crop(look.darkness, box) * mask
    ink = cv2.convertScaleAbs(ink, alpha=255 / typical_mark(ink))
    return cv2.copyMakeBorder(ink, 4, 4, 4, 4, cv2.BORDER_CONSTANT)
