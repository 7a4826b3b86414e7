"""Distortions measured on shapes whose moments are known, and the order of an epoch's images."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.patterns import (
    CPU,
    IMAGES,
    TINY,
)
from training.augmentation import (
    Distortion,
    Epoch,
    FreshImages,
    _elastic_field,
    augmentation_strength,
    distort,
    make_epochs,
)
from training.config import TrainConfig
from training.data import Images

NONE = Distortion(rotation=0, scale=0, shear=0, shift=0, elastic=0)


ALL = Distortion(rotation=12, scale=0.15, shear=0.15, shift=1.5, elastic=1.2)


SIDE = 28


COUNT = 500


# The standard deviation of a uniform value within +-1 is 1 / sqrt(3). That of a sample of 500 is
# off by 2 % (kurtosis 1.8: sqrt(0.8 / (4 * 500))), so 10 % are 5 standard errors.
UNIFORM = 1 / math.sqrt(3)


TOLERANCE = 0.1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(std_x: float, std_y: float) -> Tensor:
    """A Gaussian in the middle of the image, (H, W), up to 255."""
    along = torch.arange(SIDE) - (SIDE - 1) / 2
    bell_x, bell_y = (torch.exp(-((along / std) ** 2) / 2) for std in (std_x, std_y))
    return 255 * bell_y[:, None] * bell_x


def copies(image: Tensor) -> Tensor:
    return image.expand(COUNT, -1, -1)


def noise(count: int) -> Tensor:
    return torch.rand(count, SIDE, SIDE, generator=seeded(99)) * 255


def moments(images: Tensor) -> dict[str, Tensor]:
    """Centre of mass (pixels, from the middle) and second central moments of each image."""
    along = torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2
    weights = images.double() / images.double().sum(dim=(1, 2), keepdim=True)
    x = (weights.sum(dim=1) * along).sum(dim=1)
    y = (weights.sum(dim=2) * along).sum(dim=1)
    from_x, from_y = along - x[:, None], along - y[:, None]  # (B, W), (B, H)
    return {
        "x": x,
        "y": y,
        "xx": torch.einsum("bhw,bw->b", weights, from_x**2),
        "yy": torch.einsum("bhw,bh->b", weights, from_y**2),
        "xy": torch.einsum("bhw,bh,bw->b", weights, from_y, from_x),
    }


def assert_uniform(values: Tensor, bound: float, slack: float) -> None:
    """Values fill +-bound evenly: none beyond it, and the spread of a uniform distribution."""
    assert float(values.abs().max()) <= bound + slack
    assert float(values.min()) < -0.9 * bound
    assert float(values.max()) > 0.9 * bound
    assert float(values.std()) == pytest.approx(bound * UNIFORM, rel=TOLERANCE)


def test_no_distortion_is_nearly_the_identity() -> None:
    images = noise(20)
    # Positions are computed in float32: about 1e-6 of the side, times a difference of up to 255.
    torch.testing.assert_close(distort(images, NONE, seeded()), images, rtol=0, atol=0.01)


def test_a_distortion_scaled_to_0_is_none() -> None:
    assert ALL.scaled(0) == NONE
    assert ALL.scaled(1) == ALL
    assert ALL.scaled(0.5) == Distortion(6, 0.075, 0.075, 0.75, 0.6)


def test_the_same_generator_seed_gives_the_same_bits() -> None:
    images = noise(20)
    first = distort(images, ALL, seeded(7))
    assert torch.equal(first, distort(images, ALL, seeded(7)))
    assert not torch.equal(first, distort(images, ALL, seeded(8)))


def test_equal_images_are_distorted_each_its_own_way() -> None:
    distorted = distort(copies(blob(3, 3)), ALL, seeded())
    assert len({image.numpy().tobytes() for image in distorted}) == COUNT


def test_the_images_given_and_the_global_generator_are_left_alone() -> None:
    images = noise(5)
    before, state = images.clone(), torch.get_rng_state()
    distort(images, ALL, seeded())
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_result_stays_between_0_and_255() -> None:
    extreme = torch.where(noise(200) > 127, 255.0, 0.0)
    distorted = distort(extreme, ALL, seeded())
    assert float(distorted.min()) >= 0
    # A weighted mean of four values of 255, its weights rounded to float32.
    assert float(distorted.max()) <= 255 * (1 + 1e-6)
    assert float(distorted.max()) > 250


def test_what_lies_beyond_the_edges_is_black() -> None:
    white = torch.full((COUNT, SIDE, SIDE), 255.0)
    shifted = distort(white, Distortion(0, 0, 0, 3.0, 0), seeded())
    assert float(shifted[:, SIDE // 2, SIDE // 2].min()) > 254
    # A shift of more than one pixel, which two thirds have, blackens one of the two edge columns.
    edges = torch.minimum(shifted[:, SIDE // 2, 0], shifted[:, SIDE // 2, -1])
    assert 0.5 < float((edges == 0).double().mean()) < 0.8


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_shift_moves_the_centre_of_mass_by_up_to_its_bound(axis: str) -> None:
    moved = moments(distort(copies(blob(2, 2)), Distortion(0, 0, 0, 1.5, 0), seeded()))
    # Bilinear interpolation keeps the first moment.
    assert_uniform(moved[axis], 1.5, slack=1e-3)


def test_the_shifts_of_the_two_axes_are_independent() -> None:
    moved = moments(distort(copies(blob(2, 2)), Distortion(0, 0, 0, 1.5, 0), seeded()))
    correlation = float(torch.corrcoef(torch.stack([moved["x"], moved["y"]]))[0, 1])
    assert abs(correlation) < 5 / math.sqrt(COUNT)


def test_a_rotation_turns_a_bar_by_up_to_its_angle_and_keeps_its_shape() -> None:
    bar = blob(1.5, 5)  # upright
    before = moments(bar[None])
    after = moments(distort(copies(bar), Distortion(12, 0, 0, 0, 0), seeded()))
    # The angle of the long axis to the vertical, from the second moments.
    angle = torch.rad2deg(0.5 * torch.atan2(2 * after["xy"], after["yy"] - after["xx"]))
    assert_uniform(angle, 12, slack=0.3)
    # A rotation keeps the sum of the second moments; interpolation adds at most 1/4 pixel^2 each.
    spread = after["xx"] + after["yy"] - before["xx"] - before["yy"]
    assert float(spread.abs().max()) < 0.5
    # It turns about the middle of the image.
    assert float(torch.maximum(after["x"].abs(), after["y"].abs()).max()) < 0.02


@pytest.mark.parametrize("axis", ["xx", "yy"])
def test_a_scale_changes_each_size_by_up_to_its_share(axis: str) -> None:
    image = blob(3, 3)
    before = moments(image[None])[axis]
    after = moments(distort(copies(image), Distortion(0, 0.15, 0, 0, 0), seeded()))
    sizes = (after[axis] / before).sqrt()
    # Interpolation adds at most 1/4 pixel^2 to the 9: 1.4 % in size.
    assert_uniform(sizes - 1, 0.15, slack=0.015)
    ratio = (after["xx"] / after["yy"]).sqrt()
    assert float(ratio.max()) > 1.15
    assert float(ratio.min()) < 1 / 1.15


def test_a_shear_leans_an_upright_bar_by_up_to_its_share_of_the_height() -> None:
    after = moments(distort(copies(blob(1.5, 5)), Distortion(0, 0, 0.15, 0, 0), seeded()))
    assert_uniform(after["xy"] / after["yy"], 0.15, slack=0.005)


def field_in_pixels(count: int, std: float, seed: int = 0) -> Tensor:
    """The elastic displacement, (B, H, W, 2); in the field itself the image spans 2."""
    return _elastic_field(count, SIDE, std, seeded(seed)) * (SIDE / 2)


@pytest.mark.parametrize("std", [0.5, 1.2])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_elastic_displacement_has_the_promised_standard_deviation(
    axis: int, std: float
) -> None:
    displacement = field_in_pixels(COUNT, std)[..., axis]
    # About 10 independent values in each of 500 fields: 1 %, so 5 % are 5 standard errors.
    assert float(displacement.std()) == pytest.approx(std, rel=0.05)
    assert abs(float(displacement.mean())) < 0.05 * std


def test_the_elastic_displacement_is_as_large_at_every_place() -> None:
    by_place = field_in_pixels(2000, 1.0).std(dim=0)  # (H, W, 2)
    # One pixel's standard deviation over 2,000 fields is off by 1.6 %; the bumps themselves
    # leave a ripple and a weaker rim.
    assert 0.85 < float(by_place.min()) < float(by_place.max()) < 1.15


def test_the_elastic_displacement_is_smooth() -> None:
    """Bumps of width s give fields whose slope has the standard deviation std / (s sqrt(2))."""
    field = field_in_pixels(COUNT, 1.0)
    for difference in (field.diff(dim=1), field.diff(dim=2)):
        assert float(difference.std()) == pytest.approx(1 / (4 * math.sqrt(2)), rel=0.15)


def test_the_elastic_displacements_of_the_axes_and_of_the_images_are_independent() -> None:
    field = field_in_pixels(COUNT, 1.0)
    middle = field[:, SIDE // 2, SIDE // 2]  # (B, 2)
    along_x, along_y = middle.T
    limit = 5 / math.sqrt(COUNT)
    assert abs(float(torch.corrcoef(torch.stack([along_x, along_y]))[0, 1])) < limit
    assert abs(float(torch.corrcoef(torch.stack([along_x[1:], along_x[:-1]]))[0, 1])) < limit


def test_an_elastic_distortion_moves_ink_by_its_displacement() -> None:
    """Each output pixel shows the input at its place plus the field, in grid_sample's units."""
    distortion = Distortion(0, 0, 0, 0, 1.2)
    # In a ramp the brightness is the place: the column, or the row.
    places = torch.arange(SIDE, dtype=torch.float32)
    ramps = torch.stack([places.expand(SIDE, SIDE), places[:, None].expand(SIDE, SIDE)])
    for axis, ramp in enumerate(ramps):
        generator = seeded(5)
        distorted = distort(ramp[None].expand(50, -1, -1), distortion, generator)
        generator = seeded(5)
        torch.rand(50, 6, generator=generator)  # the affine part comes first
        field = _elastic_field(50, SIDE, 1.2, generator)[..., axis] * (SIDE / 2)
        inside = (slice(None), slice(8, 20), slice(8, 20))  # no place there leaves the image
        torch.testing.assert_close(distorted[inside], (ramp + field)[inside], rtol=0, atol=1e-3)


# The epochs


def epochs_of(config: TrainConfig, images: Images = IMAGES, first: int = 0) -> Iterator[Epoch]:
    return make_epochs(FreshImages(config, images), first, config.epochs, CPU)


def test_every_epoch_shows_each_image_once_in_an_order_of_its_own() -> None:
    count = 250
    # Uniform images, each of another brightness, undistorted.
    brightness = np.arange(count, dtype=np.uint8)
    pixels = np.broadcast_to(brightness[:, None, None], (count, 28, 28)).copy()
    images = Images(pixels, np.arange(count))
    plain = replace(TINY, epochs=3, rotation=0.0, scale=0.0, shear=0.0, shift=0.0, elastic=0.0)
    orders = []
    for x, labels, *_ in epochs_of(plain, images):
        assert sorted(labels.tolist()) == list(range(count))
        torch.testing.assert_close(x[:, 14, 14], labels.float(), rtol=0, atol=0.01)
        orders.append(tuple(labels.tolist()))
    assert len({tuple(range(count)), *orders}) == 4


def test_another_seed_shows_the_images_in_another_order() -> None:
    orders = [next(epochs_of(replace(TINY, seed=seed))).labels for seed in (0, 1)]
    assert not torch.equal(*orders)


def test_epochs_that_are_resumed_are_those_that_were_missed() -> None:
    whole = list(epochs_of(TINY))
    rest = list(epochs_of(TINY, first=2))
    assert len(rest) == 2
    for (x, labels, *_), (rest_x, rest_labels, *_) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, rest_x)
        assert torch.equal(labels, rest_labels)


def test_the_augmentation_fades_over_the_last_epochs() -> None:
    config = replace(TINY, epochs=10, relax=0.4)
    strengths = [augmentation_strength(config, epoch) for epoch in range(10)]
    assert strengths[:7] == [1.0] * 7
    assert strengths[7:] == pytest.approx([0.75, 0.5, 0.25])
    assert augmentation_strength(replace(config, relax=0.0), 9) == 1
    above_half = [augmentation_strength(replace(config, relax_to=0.5), epoch) for epoch in (6, 9)]
    assert above_half == pytest.approx([1, 0.625])


# Outliers


# Batches of 25 digits and 10 outliers.
WITH_OUTLIERS = replace(TINY, outliers=0.4)


def outliers_of(epoch: Epoch) -> Tensor:
    assert epoch.outliers is not None
    return epoch.outliers


def test_each_batch_has_outliers_in_proportion_to_its_digits() -> None:
    steps = len(IMAGES) // WITH_OUTLIERS.batch_size
    for epoch in epochs_of(WITH_OUTLIERS):
        assert outliers_of(epoch).shape == (steps * round(0.4 * WITH_OUTLIERS.batch_size), 28, 28)
    assert all(epoch.outliers is None for epoch in epochs_of(TINY))


def test_outliers_leave_the_digits_of_an_epoch_as_they_were() -> None:
    for plain, other in zip(epochs_of(TINY), epochs_of(WITH_OUTLIERS), strict=True):
        assert torch.equal(plain.pixels, other.pixels)
        assert torch.equal(plain.labels, other.labels)


def test_every_epoch_has_outliers_of_its_own_and_a_resumed_one_the_same() -> None:
    whole = [outliers_of(epoch) for epoch in epochs_of(WITH_OUTLIERS)]
    rest = [outliers_of(epoch) for epoch in epochs_of(WITH_OUTLIERS, first=2)]
    assert not torch.equal(whole[0], whole[1])
    for missed, resumed in zip(whole[2:], rest, strict=True):
        assert torch.equal(missed, resumed)
