"""Any picture of a digit becomes what MNIST would have made of it, and nothing else passes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.checkpoint import Checkpoint
from model.digits.preprocessing import (
    Pixels,
    Preprocessed,
    find_digits,
    follows_convention,
    normalise,
    preprocess_image,
)
from model.digits.strokes import stroke_width
from model.errors import ImageError, InvalidPixelsError, NoInkError
from model.network import MLPConfig
from tests.samples.draw import draw_digit, draw_strokes
from training.data import load_images

MIDDLE = 14  # the centre of mass, in pixel numbers, that MNIST's images have


def draw(digit: int, *, size: int = 140, ink: int = 0, paper: int = 255, seed: int = 0) -> Pixels:
    """A drawn digit, dark on light unless told otherwise."""
    picture = draw_digit(digit, size=size, ink=ink, paper=paper, jitter=0.012, seed=seed)
    return np.array(picture)


def draw_varied() -> list[Pixels]:
    """Digits of many sizes, pens and slants, light on dark and dark on light, on larger sheets."""
    generator = np.random.default_rng(0)
    pictures = []
    for number in range(200):
        shades = generator.permutation([int(generator.integers(0, 90)), 255])
        picture = draw_digit(
            number % 10,
            size=int(generator.integers(20, 300)),
            height=generator.uniform(0.3, 0.95),
            thickness=generator.uniform(0.04, 0.25),
            slant=generator.uniform(-0.3, 0.5),
            jitter=0.02,
            seed=number,
            ink=int(shades[0]),
            paper=int(shades[1]),
        )
        margins = generator.integers(0, 60, (2, 2))
        pictures.append(np.pad(np.array(picture), margins, constant_values=shades[1]))
    return pictures


def ink_extent(pixels: Pixels) -> tuple[int, int]:
    """Height and width of what is not black."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def centre_of_mass(pixels: Pixels) -> NDArray[np.float64]:
    """Row and column."""
    weights = pixels / pixels.sum(dtype=np.float64)
    return np.array([(weights * positions).sum() for positions in np.indices(pixels.shape)])


def distance(some: Pixels, others: Pixels) -> float:
    """Mean difference of the pixels, 0 to 255, at the best shift by at most one pixel."""
    shifts = itertools.product((-1, 0, 1), repeat=2)
    moved = (np.roll(some, shift, (0, 1)).astype(float) for shift in shifts)
    return float(min(np.abs(image - others).mean() for image in moved))


# What is already in the convention


@pytest.mark.parametrize("digit", range(10))
def test_an_image_in_the_convention_passes_unchanged(digit: int) -> None:
    for seed in range(10):
        image = preprocess_image(draw(digit, seed=seed))
        assert follows_convention(image)
        before = image.copy()
        assert preprocess_image(image).tobytes() == before.tobytes()
        assert image.tobytes() == before.tobytes()


def test_all_10000_test_images_of_mnist_pass_unchanged(mnist_folder: Path) -> None:
    images = load_images("test", mnist_folder).pixels
    assert len(images) == 10_000
    assert all(follows_convention(image) for image in images)
    assert all(preprocess_image(image).tobytes() == image.tobytes() for image in images)


def bar(height: int, width: int, top: int, left: int, side: int = 28) -> Pixels:
    image = np.zeros((side, side), dtype=np.uint8)
    image[top : top + height, left : left + width] = 200
    return image


@pytest.mark.parametrize(
    ("image", "follows"),
    [
        # The middle of n pixels from k on is k + (n - 1) / 2: 13.5 and 14.
        (bar(20, 5, 4, 12), True),
        (bar(5, 20, 12, 4), True),
        (bar(19, 5, 5, 12), True),
        (bar(18, 5, 5, 12), False),
        (bar(21, 5, 4, 12), False),
        (bar(20, 5, 5, 12), False),  # its middle is at 14.5, the first that is outside
        (bar(20, 5, 3, 12), False),  # 12.5
        (bar(20, 5, 4, 11), False),  # 13
        (bar(20, 4, 4, 13), False),  # 14.5
        (bar(20, 4, 4, 12), True),  # 13.5
        (bar(20, 5, 4, 12, side=29), False),
        (bar(20, 5, 4, 12)[:, :27], False),
        (np.zeros((28, 28), dtype=np.uint8), False),
        (255 - bar(20, 5, 4, 12), False),
    ],
)
def test_the_convention_is_a_box_of_19_or_20_pixels_around_the_middle(
    image: Pixels, follows: bool
) -> None:
    assert follows_convention(image) is follows


# Any picture


def test_every_picture_becomes_28x28_with_a_box_of_20_around_the_centre_of_mass() -> None:
    for picture in draw_varied():
        image = preprocess_image(picture)
        assert image.shape == (28, 28)
        assert image.dtype == np.uint8
        assert image.max() == 255
        height, width = ink_extent(image)
        assert max(height, width) == 20
        assert np.abs(centre_of_mass(image) - MIDDLE).max() <= 0.5
        # So that an `input` that came back is understood when it is sent again.
        assert follows_convention(image)


def test_a_centre_of_mass_that_would_push_ink_out_goes_as_far_as_it_can() -> None:
    """A heavy foot under a long thin stroke: centred on its mass, the stroke would stick out."""
    picture = np.zeros((60, 60), dtype=np.uint8)
    picture[10:50, 29:31] = 255
    picture[44:50, 15:45] = 255
    image = preprocess_image(picture)
    assert ink_extent(image)[0] == 20
    assert image[0].any()
    assert centre_of_mass(image)[0] > MIDDLE + 0.5


@pytest.mark.parametrize("digit", range(10))
def test_dark_on_light_and_light_on_dark_are_the_same(digit: int) -> None:
    dark = draw(digit)
    assert preprocess_image(255 - dark).tobytes() == preprocess_image(dark).tobytes()


@pytest.mark.parametrize(("ink", "paper"), [(60, 200), (250, 30), (100, 160)])
def test_the_brightness_of_ink_and_paper_does_not_matter(ink: int, paper: int) -> None:
    for digit in range(10):
        faint = preprocess_image(draw(digit, ink=ink, paper=paper)).astype(int)
        full = preprocess_image(draw(digit)).astype(int)
        # Fewer shades between ink and paper are rounded more coarsely: 13 of 255 were measured.
        assert np.abs(faint - full).max() <= 20


@pytest.mark.parametrize("shift", [(0, 20), (-20, 0), (15, -9)])
def test_the_position_on_the_sheet_does_not_matter(shift: tuple[int, int]) -> None:
    for digit in range(10):
        picture = draw(digit)
        moved = np.roll(picture, shift, (0, 1))
        # Near an edge the margin is narrower, and a width may be rounded the other way: at most
        # 6.9 of 255 were measured.
        assert distance(preprocess_image(moved), preprocess_image(picture)) < 9


def test_the_margins_do_not_matter() -> None:
    for digit in range(10):
        picture = draw(digit)
        wider = np.pad(picture, ((10, 300), (120, 0)), constant_values=255)
        assert preprocess_image(wider).tobytes() == preprocess_image(picture).tobytes()


@pytest.mark.parametrize("size", [28, 40, 60, 100, 250, 1000])
def test_the_size_of_the_picture_hardly_matters(size: int, default_checkpoint: Checkpoint) -> None:
    network = default_checkpoint.network
    for digit in range(10):
        image = preprocess_image(draw(digit, size=size))
        # Up to 11.9 of 255 were measured, since rounding makes strokes a pixel wider or narrower.
        # The nearest two digits are 14.0 apart.
        assert distance(image, preprocess_image(draw(digit))) < 13
        assert int(network(normalise(image, network.config)).argmax()) == digit


def test_the_picture_given_is_not_changed() -> None:
    picture = draw(3)
    picture.flags.writeable = False
    before = picture.tobytes()
    preprocess_image(picture)
    assert picture.tobytes() == before


# Dirt, lines and shadows


@pytest.mark.parametrize("digit", range(10))
def test_an_inverted_image_of_the_convention_gives_exactly_that_image(digit: int) -> None:
    image = preprocess_image(draw(digit))
    assert preprocess_image(255 - image).tobytes() == image.tobytes()


def test_a_speck_of_dust_far_away_changes_nothing() -> None:
    for digit in range(10):
        picture = np.pad(draw(digit), 60, constant_values=255)
        dusty = picture.copy()
        dusty[4:7, 5:8] = 0
        assert distance(preprocess_image(dusty), preprocess_image(picture)) < 1


def test_a_detached_bar_belongs_to_its_five() -> None:
    picture = np.full((200, 160), 255, dtype=np.uint8)
    five = draw(5, size=160)
    picture[:160] = five
    bare = preprocess_image(picture)
    rows = np.flatnonzero((five < 128).any(axis=1))
    # A gap below the bar: the rest moves down.
    cut = rows[0] + 20
    picture[cut + 10 : 170] = five[cut:160]
    picture[cut : cut + 10] = 255
    assert ink_extent(preprocess_image(picture))[0] == 20
    assert distance(preprocess_image(picture), bare) < 30


@pytest.mark.parametrize("contrast", [20, 30, 45])
def test_a_shade_that_fades_is_no_stroke(contrast: int) -> None:
    across = np.cos(np.linspace(-np.pi, np.pi, 60))
    sheet = np.tile(170 - contrast * (1 + across) / 2, (300, 1))
    noise = np.random.default_rng(0).normal(0, 1, sheet.shape)

    with pytest.raises(NoInkError):
        preprocess_image((sheet + noise).astype(np.uint8))


def test_a_shadow_across_the_sheet_leaves_no_trace() -> None:
    for digit in range(10):
        picture = np.pad(draw(digit), 40, constant_values=230)
        columns = np.arange(picture.shape[1])
        light = np.where(columns < 40 + 10 * digit, 0.5, 1.0)
        shaded = np.rint(picture * light).astype(np.uint8)
        assert distance(preprocess_image(shaded), preprocess_image(picture)) < 6


@pytest.mark.parametrize("both", [False, True])
def test_printed_lines_are_left_out(both: bool) -> None:
    for digit in range(10):
        picture = np.pad(draw(digit, size=220), 40, constant_values=255)
        lined = picture.copy()
        for row in range(13, lined.shape[0], 37):
            lined[row : row + 2] = np.minimum(lined[row : row + 2], 150)
            if both:
                lined[:, row : row + 2] = np.minimum(lined[:, row : row + 2], 150)
        assert distance(preprocess_image(lined), preprocess_image(picture)) < 8


def test_the_bar_of_a_digit_that_fills_the_picture_is_no_line() -> None:
    picture = np.full((100, 80), 255, dtype=np.uint8)
    picture[:3] = 0
    picture[:, 60:63] = 0
    image = preprocess_image(picture)
    assert ink_extent(image) == (20, 16)


@pytest.mark.parametrize("thickness", [0.01, 0.02, 0.04, 0.25])
def test_strokes_are_brought_to_mnists_width(thickness: float) -> None:
    for digit in range(10):
        picture = np.array(draw_digit(digit, size=1000, thickness=thickness))
        width = stroke_width((preprocess_image(picture) / 255).astype(np.float32))
        assert 1.6 < width < 4.5


def test_a_pen_of_one_pixel_on_a_large_sheet_keeps_its_shades() -> None:
    picture = np.array(draw_digit(3, size=3000, height=0.8, thickness=0.0005))
    image = preprocess_image(picture)
    assert image.max() == 255
    assert (image > 200).sum() > 20
    assert distance(image, preprocess_image(draw(3, size=400))) < 25


def test_a_small_digit_is_read_from_the_whole_resolution() -> None:
    sheet = np.full((3000, 2600), 240, dtype=np.uint8)
    sheet[2000:2140, 300:440] = np.minimum(draw(6), 240)
    assert distance(preprocess_image(sheet), preprocess_image(draw(6))) < 4


def test_a_centre_of_mass_between_two_pixels_is_always_moved_the_same_way() -> None:
    even = preprocess_image(bar(40, 10, 11, 40, side=100))
    odd = preprocess_image(bar(40, 10, 12, 41, side=100))
    assert even.tobytes() == odd.tobytes()
    assert centre_of_mass(even) == pytest.approx([13.5, 14])


# Several digits


def row_of(*digits: int, gap: int = 10) -> Pixels:
    """Digits side by side, 140 pixels high, on one sheet."""
    drawn = []
    for digit in digits:
        picture = draw(digit)
        inked = np.flatnonzero((picture < 128).any(axis=0))
        drawn.append(picture[:, inked[0] : inked[-1] + 1])
    spaced = [np.pad(part, ((0, 0), (0, gap)), constant_values=255) for part in drawn]
    return np.pad(np.concatenate(spaced, axis=1), ((0, 0), (30, 20)), constant_values=255)


@pytest.mark.parametrize("digits", [(1, 2), (4, 2), (7, 1), (1, 1), (3, 5, 8), (2, 0, 2, 6)])
def test_digits_beside_each_other_are_told_with_their_boxes(digits: tuple[int, ...]) -> None:
    sheet = row_of(*digits)
    found = find_digits(sheet)
    assert len(found.boxes) == len(digits)
    for left, top, right, bottom in found.boxes:
        # A box holds its digit: the paper just outside is white, and inside is ink to its edges.
        assert (sheet[top:bottom, [left - 2, right + 1]] > 200).all()
        assert (sheet[top:bottom, left] < 200).any()
        assert (sheet[top, left:right] < 200).any()
    assert list(found.boxes) == sorted(found.boxes)


def test_boxes_are_in_pixels_of_the_picture_however_large() -> None:
    sheet = row_of(4, 7)
    large = np.array(Image.fromarray(sheet).resize((sheet.shape[1] * 12, sheet.shape[0] * 12)))
    small, found = find_digits(sheet).boxes, find_digits(large).boxes
    assert np.abs(np.array(found) - 12 * np.array(small)).max() < 24


def test_the_digit_that_is_read_is_one_of_them(default_checkpoint: Checkpoint) -> None:
    network = default_checkpoint.network
    x = normalise(find_digits(row_of(8, 3)).pixels, network.config)
    assert int(network(x).argmax()) in (8, 3)


def test_magnified_boxes_are_those_of_a_larger_picture() -> None:
    found = Preprocessed(draw(1, size=28), ((1, 2, 3, 4), (5, 6, 7, 8)))
    assert found.magnified(8).boxes == ((8, 16, 24, 32), (40, 48, 56, 64))


def test_one_digit_is_not_several() -> None:
    assert all(find_digits(picture).boxes == () for picture in draw_varied())


@pytest.mark.parametrize("gap", [0.03, 0.06])
def test_a_four_whose_strokes_do_not_quite_touch_is_one_digit(gap: float) -> None:
    hook = ((0.1, 0.0), (0.1, 0.0), (0.0, 0.6), (0.0, 0.6), (0.4, 0.6))
    stem = ((0.5 + gap, 0.1), (0.5 + gap, 1.0))
    picture = np.array(draw_strokes((hook, stem), thickness=0.1, slant=0))

    assert find_digits(picture).boxes == ()
    # Further apart they are two.
    apart = ((0.65, 0.1), (0.65, 1.0))
    assert len(find_digits(np.array(draw_strokes((hook, apart), slant=0))).boxes) == 2


def test_mnists_digits_enlarged_are_not_several(mnist_folder: Path) -> None:
    images = load_images("train", mnist_folder)[slice(-200, None)].pixels
    for image in images:
        large = Image.fromarray(image).resize((140, 140), Image.Resampling.BICUBIC)
        assert find_digits(~np.array(large)).boxes == ()


# What is no digit


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("shape", [(28, 28), (100, 60), (1, 1)])
def test_a_uniform_image_has_no_ink(value: int, shape: tuple[int, int]) -> None:
    with pytest.raises(NoInkError, match="no ink"):
        preprocess_image(np.full(shape, value, dtype=np.uint8))


@pytest.mark.parametrize("level", [7, 128, 248])
def test_noise_of_low_contrast_has_no_ink(level: int) -> None:
    generator = np.random.default_rng(0)
    for shape in ((28, 28), (200, 150)):
        # At most 14 between the darkest and the lightest.
        noise = (level + generator.integers(-7, 8, shape)).astype(np.uint8)
        with pytest.raises(NoInkError):
            preprocess_image(noise)


def test_a_contrast_of_16_is_ink_and_of_15_is_none() -> None:
    sheet = np.full((50, 50), 200, dtype=np.uint8)
    sheet[20:30, 24:26] = 200 - 16
    assert ink_extent(preprocess_image(sheet)) == (20, 4)
    sheet[20:30, 24:26] = 200 - 15
    with pytest.raises(NoInkError):
        preprocess_image(sheet)


EXTREME_SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 1000), (1000, 1), (3, 2000), (2000, 3)]


@pytest.mark.parametrize("shape", EXTREME_SHAPES)
def test_extreme_shapes_are_answered_or_have_no_ink(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 1.0):
        picture = np.where(generator.random(shape) < share, 0, 255).astype(np.uint8)
        check_answered_or_refused(picture)
    check_answered_or_refused(generator.integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("side", [30, 290, 1000, 3000])
def test_specks_too_small_to_be_seen_are_answered_or_have_no_ink(side: int) -> None:
    """Scaled to 20 pixels, two specks far apart fade to less than one grey level."""
    picture = np.full((side + 20, side + 20), 255, dtype=np.uint8)
    picture[10, 10] = picture[-10, -10] = 0
    check_answered_or_refused(picture)


def check_answered_or_refused(picture: Pixels) -> None:
    try:
        image = preprocess_image(picture)
    except NoInkError:
        return
    assert image.shape == (28, 28)
    assert image.dtype == np.uint8
    assert image.any()


# As it is


def test_none_takes_a_28x28_image_as_it_is() -> None:
    generator = np.random.default_rng(0)
    for image in (
        np.zeros((28, 28), dtype=np.uint8),
        np.full((28, 28), 255, dtype=np.uint8),
        generator.integers(0, 256, (28, 28), dtype=np.uint8),
        draw(5, size=28),
    ):
        assert preprocess_image(image, "none").tobytes() == image.tobytes()


@pytest.mark.parametrize("shape", [(27, 28), (28, 27), (29, 29), (1, 784), (56, 14)])
def test_none_refuses_another_size_and_names_it(shape: tuple[int, int]) -> None:
    height, width = shape
    with pytest.raises(InvalidPixelsError, match=f"28x28 image, and this one is {width}x{height};"):
        preprocess_image(np.zeros(shape, dtype=np.uint8), "none")


def test_refusals_are_image_errors() -> None:
    assert issubclass(NoInkError, ImageError)
    assert issubclass(InvalidPixelsError, ImageError)


# The network's input


def test_normalising_scales_to_0_1_then_takes_mean_and_standard_deviation() -> None:
    config = MLPConfig(mean=0.25, std=0.5)
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[0, :3] = (255, 51, 102)
    x = normalise(pixels, config)
    assert (x.shape, x.dtype) == ((1, 784), torch.float32)
    # (1 - 0.25) / 0.5, (0.2 - 0.25) / 0.5, (0.4 - 0.25) / 0.5, (0 - 0.25) / 0.5
    assert x[0, :4].tolist() == pytest.approx([1.5, -0.1, 0.3, -0.5], abs=1e-6)
    assert set(x[0, 3:].tolist()) == {-0.5}


def test_a_mean_of_0_and_a_deviation_of_1_only_scale() -> None:
    pixels = np.arange(784, dtype=np.uint16).reshape(28, 28).astype(np.uint8)
    x = normalise(pixels, MLPConfig(mean=0.0, std=1.0))
    assert x[0].numpy() == pytest.approx(pixels.reshape(-1) / 255, abs=1e-7)


def test_several_images_are_rows_in_their_order() -> None:
    images = np.stack([preprocess_image(draw(digit)) for digit in range(10)])
    config = MLPConfig()
    x = normalise(images, config)
    assert x.shape == (10, 784)
    for digit in range(10):
        assert torch.equal(x[digit], normalise(images[digit], config)[0])
    assert x.reshape(10, 28, 28)[4].numpy() == pytest.approx(
        (images[4] / 255 - 0.1307) / 0.3081, abs=1e-5
    )


def test_views_of_images_are_normalised_as_the_images_are() -> None:
    image = np.array(Image.fromarray(preprocess_image(draw(2))).rotate(90))
    config = MLPConfig()
    view = np.asfortranarray(image)[:, ::-1]
    assert torch.equal(normalise(view, config), normalise(view.copy(), config))


@pytest.mark.parametrize("side", [8, 20])
def test_networks_of_other_image_sizes_have_as_many_inputs(side: int) -> None:
    config = MLPConfig(
        layer_sizes=(side * side, 5, 10), dropout_rates=(0.5,), input_shape=(side, side)
    )
    assert normalise(np.zeros((3, side, side), np.uint8), config).shape == (3, side * side)
