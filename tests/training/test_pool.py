"""The pool of pictures that are no digits: what is drawn, what is left out, and its file."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from model.arrays import Pixels
from model.digits.fitting import follows_convention
from training.augmentation import make_outliers
from training.config import PoolOptions, TrainConfig
from training.data import MNIST, Images
from training.errors import TrainingError
from training.pool import Pool, digits, drawings, glyphs, load_pool, making, save_pool
from training.pool.making import KEPT_BACK, SHOWN, Picture, Resemblance, cut, draw, joined, prepare
from training.pool.pen import SIDE, wander, write

HAS_FONTS = find_spec("HersheyFonts") and all(map(find_spec, glyphs.FONTS | glyphs.KEPT_BACK_FONTS))
NEEDS_FONTS = {glyphs.letter, glyphs.written_letter, glyphs.script_letter, glyphs.foreign_letter}
KINDS = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(
            kind in NEEDS_FONTS and not HAS_FONTS,
            reason="the fonts are not installed; pip install '.[outliers]'",
        ),
    )
    for kind in (*SHOWN, *KEPT_BACK)
]


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def strokes(count: int, seed: int) -> Images:
    """Digits in their place: writing of one straight or bent stroke."""
    generator = seeded(seed)
    drawn = [prepare(write([wander(generator)[:20]], generator)) for _ in range(count)]
    return Images(np.stack([each for each in drawn if each is not None]), np.arange(count) % 10)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_white_ink_and_differs_from_picture_to_picture(kind: Picture) -> None:
    generator = seeded()
    pictures = [kind(generator) for _ in range(12)]
    assert len({picture.tobytes() for picture in pictures}) == 12
    for picture in pictures:
        assert picture.dtype == np.uint8
        assert picture.max() > 20
    again = kind(seeded())
    assert np.array_equal(again, pictures[0])


def test_what_training_shows_does_not_choose_its_recipe() -> None:
    assert not set(SHOWN) & set(KEPT_BACK)
    assert not set(glyphs.FONTS) & set(glyphs.KEPT_BACK_FONTS)
    assert not {*glyphs.LATIN, *glyphs.OTHER} & {*glyphs.FOREIGN}


def test_characters_that_resemble_digits_are_left_out() -> None:
    assert not set("0123456789OoIlSZBqgbЗз") & {*glyphs.LATIN, *glyphs.OTHER}
    assert set("AEFHKMNRX&ЖΣ") <= {*glyphs.LATIN, *glyphs.OTHER}


def test_missing_fonts_are_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    glyphs._files.cache_clear()
    monkeypatch.setattr(glyphs, "FONTS", {"no_such_font": ("files", ("*",))})
    with pytest.raises(TrainingError, match=r"pip install 'dropserve\[outliers\]'"):
        glyphs.letter(seeded())


def test_prepared_images_are_centred_and_others_lie_anywhere() -> None:
    resembles = Resemblance(strokes(30, 1), strokes(30, 2))
    prepared = draw(drawings.runes, 10, seeded(), resembles, "auto")
    plain = draw(drawings.runes, 10, seeded(), resembles, "none")
    assert prepared.shape == plain.shape == (10, 28, 28)
    assert sum(map(follows_convention, prepared)) >= 8
    assert not any(map(follows_convention, plain))


def test_an_empty_picture_is_not_prepared() -> None:
    assert prepare(np.zeros((SIDE, SIDE), np.uint8)) is None


def test_a_training_digit_resembles_a_digit_and_a_grating_does_not() -> None:
    training = strokes(60, 1)
    resembles = Resemblance(training, strokes(40, 2))
    assert resembles(training.pixels).all()
    gratings = np.tile(np.arange(28) % 4 // 2 * 255, (5, 28, 1)).astype(np.uint8)
    assert not resembles(gratings).any()
    # Three quarters of other digits are as near to a training digit as what is left out.
    assert resembles(strokes(40, 2).pixels).mean() == pytest.approx(0.75, abs=0.03)


def test_a_cut_digit_is_half_of_one_and_joined_ones_are_wider_than_high() -> None:
    digits: Pixels = np.zeros((3, 28, 28), np.uint8)
    digits[:, 4:24, 9:19] = 255
    inked = (cut(digits, seeded()) > 127).mean() / (digits[0] > 127).mean()
    assert 0.3 < inked < 0.7
    wide = joined(digits, seeded())
    columns = wide.max(axis=0) > 127
    assert columns.sum() >= 4 * (10 + 7)
    assert columns[columns.argmax() : len(columns) - columns[::-1].argmax()].all()


@pytest.mark.parametrize("kind", making.DIGITS)
def test_digits_are_drawn_as_a_server_prepares_them(kind: Picture) -> None:
    drawn = making.draw_digits(kind, 20, seeded())
    assert drawn.shape == (20, 28, 28)
    assert sum(map(follows_convention, drawn)) >= 18
    assert len({each.tobytes() for each in drawn}) == 20
    assert np.array_equal(making.draw_digits(kind, 20, seeded()), drawn)


def overhang(picture: Pixels, share: tuple[float, float]) -> float:
    """How far a part of the ink reaches over the stem on its left, as a share of the width."""
    rows = np.flatnonzero(picture.max(axis=1) > 127)
    top, height = rows[0], len(rows)
    lower = picture[top + height // 2 : top + height * 4 // 5] > 127
    upper = picture[top + round(share[0] * height) : top + round(share[1] * height)] > 127
    left = [np.flatnonzero(part.any(axis=0))[0] for part in (upper, lower)]
    return float((left[1] - left[0]) / picture.shape[1])


def test_a_flag_falls_off_to_the_left_and_a_bar_crosses_the_stem() -> None:
    generator = seeded()
    flags = [overhang(digits.flagged_one(generator), (0.0, 0.4)) for _ in range(40)]
    assert np.median(flags) > 0.08
    assert min(flags) > -0.05
    stems = []
    for _ in range(40):
        seven = digits.barred_seven(generator)
        rows = np.flatnonzero(seven.max(axis=1) > 127)
        widths = [(seven[row] > 127).sum() for row in rows]
        stems.append(max(widths[len(rows) // 3 : len(rows) * 7 // 8]) / np.median(widths))
    assert np.median(stems) > 1.5


def test_a_turned_seven_is_turned_further_than_augmentation_turns() -> None:
    bar: Pixels = np.zeros((1, 28, 28), np.uint8)
    bar[0, 4:24, 13:15] = 255
    generator, angles = seeded(), []
    for _ in range(30):
        y, x = np.nonzero(digits.turned_seven(bar, generator) > 127)
        _, _, slope = np.linalg.svd(np.stack([x - x.mean(), y - y.mean()], axis=1))
        angles.append(np.degrees(np.arctan(slope[0, 0] / slope[0, 1])))
    assert all(14 < abs(angle) < 51 for angle in angles)
    assert min(angles) < 0 < max(angles)


def test_digits_of_a_pool_come_behind_the_images() -> None:
    pool = small_pool()
    images = strokes(6, 1)
    every = pool.with_digits(images)
    assert np.array_equal(every.pixels[:6], images.pixels)
    assert every.labels.tolist() == [*images.labels.tolist(), 7, 7, 1, 1, 1]
    assert np.array_equal(every.pixels[6:8], pool.digits["barred_seven", "7"])
    assert pool.card()["digits"] == {"barred_seven": 2, "flagged_one": 3}


def small_pool() -> Pool:
    generator = seeded()
    images = generator.integers(0, 255, size=(3, 5, 28, 28), dtype=np.uint8)
    shown = {("sign", "auto"): images[0], ("sign", "none"): images[1]}
    written = {("barred_seven", "7"): images[2, :2], ("flagged_one", "1"): images[2, 2:]}
    return Pool(shown, {("runes", "auto"): images[2]}, written)


def test_a_pool_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_pool(tmp_path / "pool", small_pool())
    found = load_pool(tmp_path / "pool")
    for part in ("shown", "kept_back", "digits"):
        wanted = getattr(small_pool(), part)
        assert {key: each.tobytes() for key, each in getattr(found, part).items()} == {
            key: each.tobytes() for key, each in wanted.items()
        }
    assert found.card() == {
        "version": found.version,
        "images": 10,
        "kinds": ["sign"],
        "digits": {"barred_seven": 2, "flagged_one": 3},
    }
    save_pool(tmp_path / "again", small_pool())
    assert load_pool(tmp_path / "again").version == found.version


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04"])
def test_what_is_no_pool_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pool"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match="make them with dropserve-train outliers"):
        load_pool(path)


def test_the_pool_is_drawn_in_the_shares_of_its_kinds_and_repeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(making, "SHOWN", {drawings.sign: 3, drawings.shape: 1})
    monkeypatch.setattr(making, "KEPT_BACK", (drawings.runes,))
    monkeypatch.setattr(making, "DIGITS", {digits.flagged_one: (2, 1)})
    monkeypatch.setattr(making, "TURNED_SEVENS", 1)
    options = PoolOptions(count=24, digits=9, kept_back=2, validation_images=20)
    images = strokes(60, 1)
    pool = making.make_pool(images, options)
    # Of 24 images and 10 shares, a half of each kind in each form.
    counts = {key: len(each) for key, each in pool.shown.items()}
    assert counts["sign", "auto"] == counts["sign", "none"] == 4
    assert set(counts) == {
        (kind, form) for kind in ("sign", "shape", "cut", "joined") for form in ("auto", "none")
    }
    assert {key: len(each) for key, each in pool.kept_back.items()} == {
        ("runes", "auto"): 2,
        ("runes", "none"): 2,
    }
    written = {key: len(each) for key, each in pool.digits.items()}
    assert written == {("flagged_one", "1"): 6, ("turned_seven", "7"): 3}
    assert not making.make_pool(images, replace(options, digits=0)).digits
    again = making.make_pool(images, options)
    assert np.array_equal(pool.pixels(), again.pixels())


def test_an_epoch_draws_its_share_from_the_pool_and_nothing_twice() -> None:
    digits = strokes(100, 1)
    config = TrainConfig(
        batch_size=10, outliers=1.0, pool_share=0.6, augmentation=0.0, validation_images=1
    )
    marked = np.zeros((60, 28, 28), np.uint8)
    marked[:, 0, :9] = 1  # as no digit has it
    marked[:, 27, 27] = np.arange(1, 61)
    outliers = make_outliers(
        config, 0, torch.from_numpy(digits.pixels), torch.from_numpy(digits.labels), MNIST, marked
    )
    assert outliers is not None
    assert len(outliers) == 100
    of_pool = outliers[(outliers[:, 0, :9] == 1).all(dim=1)]
    assert sorted(of_pool[:, 27, 27].tolist()) == list(range(1, 61))
