"""Corruptions: which images they change, and how."""

import numpy as np
import pytest
import torch

from training.corruption import (
    CORRUPTIONS,
    Corruption,
    blur,
    contrast,
    corrupt,
    dots,
    hollow,
    lines,
    spatter,
)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def digits(count: int) -> np.ndarray:
    """Grey squares on black."""
    images = np.zeros((count, 28, 28), np.float32)
    images[:, 8:20, 10:18] = 200
    return images


def test_the_share_of_the_images_is_corrupted_and_the_others_stay() -> None:
    before = torch.from_numpy(digits(400))
    after = corrupt(before, 0.3, 7)
    changed = (after != before).flatten(1).any(dim=1).sum()
    # Of twice 60 some are drawn twice, about 60 * 60 / 400.
    assert 95 <= changed <= 120
    assert after.min() >= 0
    assert after.max() <= 255
    assert torch.equal(before, torch.from_numpy(digits(400)))
    assert corrupt(before, 0, 7) is before


def test_a_seed_repeats_its_corruptions_and_bytes_stay_bytes() -> None:
    images = torch.from_numpy(digits(60).astype(np.uint8))
    first = corrupt(images, 1, 3)
    assert first.dtype == torch.uint8
    assert torch.equal(first, corrupt(images, 1, 3))
    assert not torch.equal(first, corrupt(images, 1, 4))


@pytest.mark.parametrize("change", CORRUPTIONS)
def test_every_image_is_changed_its_own_way(change: Corruption) -> None:
    before = digits(12)
    after = change(before, seeded())
    assert after.shape == before.shape
    assert (after != before).any(axis=(1, 2)).all()
    assert len({image.tobytes() for image in after}) == 12
    assert np.array_equal(before, digits(12))


def test_blur_keeps_the_brightest_brightness() -> None:
    after = blur(digits(20), seeded())
    np.testing.assert_allclose(after.max(axis=(1, 2)), 200, rtol=1e-5)
    assert (after > 1).sum() > (digits(20) > 1).sum()


def test_dots_are_black_and_white() -> None:
    after = dots(digits(50), seeded())
    assert set(after[digits(50) == 0]) == {0, 255}
    assert 0.005 < (after[digits(50) == 0] == 255).mean() < 0.08


def test_spatter_only_adds_ink_and_lines_remove_some_too() -> None:
    before = digits(100)
    assert (spatter(before, seeded()) >= before).all()
    drawn = lines(before, seeded())
    assert (drawn < before).any()
    assert (drawn > before).any()


def test_contrast_keeps_ink_brighter_than_the_paper_around_it() -> None:
    after = contrast(digits(50), seeded())
    assert (after[:, 14, 13] > after[:, 14, 8]).all()


def test_hollow_strokes_are_bright_along_their_edges_alone() -> None:
    after = hollow(digits(20), seeded()).clip(0, 255)
    assert (after[:, 10:18, 12:16] == 0).all()
    assert (after[:, 8, 12] >= 200).all()
    assert (after[:, :6] == 0).all()
