"""What is around a digit, or under it, is not read with it."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model.arrays import Pixels
from model.digits import paper
from model.digits.preprocessing import find_digits
from model.errors import NoInkError
from tests.model.digits.pictures import distance, draw, draw_varied
from tests.samples.draw import preprocess_image

# Of 255, at most: widths are rounded another way where a digit lies elsewhere. The nearest two
# digits are 14 apart.
_ALIKE = 12


def marked(digit: int, *lines: tuple[tuple[int, int], tuple[int, int]], width: int = 4) -> Pixels:
    """A digit of 140 pixels in the middle of a sheet of 260 with lines on it, from x, y to x, y."""
    sheet = Image.fromarray(np.pad(draw(digit), 60, constant_values=255))
    pen = ImageDraw.Draw(sheet)
    for start, end in lines:
        pen.line((start, end), fill=0, width=width)
    return np.array(sheet)


@pytest.mark.parametrize("inset", [2, 10, 40])
@pytest.mark.parametrize("width", [1, 4, 8])
def test_a_frame_is_no_ink(inset: int, width: int) -> None:
    far = 259 - inset
    corners = [(inset, inset), (far, inset), (far, far), (inset, far), (inset, inset)]
    for digit in range(10):
        picture = marked(digit, *itertools.pairwise(corners), width=width)
        found = find_digits(picture)
        assert found.boxes == ()
        assert distance(found.pixels, preprocess_image(marked(digit))) < _ALIKE


@pytest.mark.parametrize("row", [215, 222])
def test_an_underline_is_no_ink(row: int) -> None:
    for digit in range(10):
        picture = marked(digit, ((50, row), (210, row + 4)))
        assert distance(preprocess_image(picture), preprocess_image(marked(digit))) < _ALIKE


@pytest.mark.parametrize("desk", [40, 150])
def test_a_sheet_on_a_desk_is_the_paper(desk: int) -> None:
    for digit in range(10):
        sheet = (
            Image.fromarray(np.minimum(marked(digit), 245)).convert("RGBA").rotate(7, expand=True)
        )
        table = Image.new("RGBA", (500, 420), (desk, desk, desk, 255))
        table.alpha_composite(sheet, (90, 60))
        upright = Image.fromarray(marked(digit)).rotate(7, expand=True, fillcolor=255)
        pixels = preprocess_image(np.array(table.convert("L")))
        assert distance(pixels, preprocess_image(np.array(upright))) < _ALIKE


def test_white_on_black_in_a_white_margin_is_white_ink() -> None:
    for digit in range(10):
        figure = np.pad(255 - draw(digit), 60, constant_values=255)
        assert distance(preprocess_image(figure), preprocess_image(draw(digit))) < _ALIKE


def test_a_drawing_is_read_as_with_grain_and_costs_no_search_for_paper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(0)
    drawings = [picture for picture in draw_varied() if paper.find_even(picture) is not None]
    assert len(drawings) > 100
    with_grain = []
    for picture in drawings:
        grain = generator.integers(0, 3, picture.shape).astype(np.uint8)
        grainy = np.clip(picture.astype(int) - 2, 0, 253).astype(np.uint8) + grain
        assert paper.find_even(grainy) is None
        with_grain.append(find_digits(grainy).pixels)

    monkeypatch.setattr(paper, "find_sheets", None)
    for picture, expected in zip(drawings, with_grain, strict=True):
        assert distance(find_digits(picture).pixels, expected) < _ALIKE


def test_paper_is_even_where_most_of_it_and_of_the_edges_has_one_brightness() -> None:
    drawing = draw(4)
    on_a_desk = np.pad(drawing, 4, constant_values=200)
    shaded = np.minimum(drawing, np.linspace(150, 255, 140).astype(np.uint8))
    assert paper.find_even(drawing) == (255, True)
    assert paper.find_even(~drawing) == (0, False)
    assert paper.find_even(on_a_desk) is None
    assert paper.find_even(shaded) is None


def test_the_steps_are_given_out() -> None:
    steps: dict[str, Pixels] = {}
    pixels = find_digits(marked(3), steps=steps).pixels
    assert pixels.tobytes() == find_digits(marked(3)).pixels.tobytes()
    assert all(step.dtype == np.uint8 and max(step.shape) < 400 for step in steps.values())
    assert list(steps) == ["paper", "ink", "digit"]


def test_refusals_say_what_was_seen() -> None:
    sheet = np.full((200, 200), 230, dtype=np.uint8)
    with pytest.raises(NoInkError, match="uniform"):
        preprocess_image(sheet)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    with pytest.raises(NoInkError, match="all over"):
        preprocess_image(noise)
    y, x = np.indices(sheet.shape)
    shadow = np.where(x + y / 2 > 180, sheet // 2, sheet)
    with pytest.raises(NoInkError, match="shadow"):
        preprocess_image(shadow)
