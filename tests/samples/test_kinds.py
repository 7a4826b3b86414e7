"""Each kind shows its digit, the same every time, and its halves have no parameter in common."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.samples.kinds import KINDS, pictures
from tests.samples.scenes import Half, Parameters
from tests.samples.score_preprocessing import Reader, main, score_kinds
from training.data import Images

HALVES: Sequence[Half] = ("tuning", "reporting")


@pytest.fixture(scope="module")
def drawn() -> Images:
    """The product's example digits: some kinds are rendered of these where there is no MNIST."""
    with Image.open(Path(__file__).parents[2] / "app" / "static" / "digits.png") as strip:
        pixels = np.asarray(strip).reshape(-1, 28, 28)
    return Images(pixels, np.arange(len(pixels)) % 10)


def parameters(half: Half, seed: int = 0) -> Parameters:
    return Parameters(np.random.default_rng(seed), half)


def test_each_half_has_its_own_cells_of_a_range() -> None:
    # Cells of width 1, the even ones of one half and the odd ones of the other.
    for half, odd in zip(HALVES, (0, 1), strict=True):
        drawn = [parameters(half, seed).between(0, 16) for seed in range(400)]
        assert {int(value) for value in drawn} == set(range(odd, 16, 2))


@pytest.mark.parametrize("half", HALVES)
def test_both_halves_have_all_of_few_whole_numbers(half: Half) -> None:
    assert {parameters(half, seed).whole(1, 8) for seed in range(200)} == set(range(1, 9))


def test_options_can_be_kept_apart() -> None:
    own = [{parameters(half, seed).own_one_of("abcd") for seed in range(99)} for half in HALVES]

    assert own == [set("ac"), set("bd")]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_shows_its_digit_the_same_every_time(kind: str, half: Half, drawn: Images) -> None:
    digits = drawn.pixels[[3, 4, 8]]
    for seed in range(2):
        files = [KINDS[kind].file(digit, 0, seed, half)[0] for digit in digits]
        again = KINDS[kind].file(digits[0], 0, seed, half)[0]

        assert files[0] == again
        assert len(set(files)) == (1 if KINDS[kind].always_one else len(files))
        Image.open(BytesIO(files[0])).load()


@pytest.mark.parametrize("kind", KINDS)
def test_the_halves_have_other_pictures(kind: str, drawn: Images) -> None:
    tuning, reporting = ({file for file, _ in pictures(drawn, kind, 4, half)} for half in HALVES)

    assert len(tuning) == len(reporting) == 4
    assert not tuning & reporting


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.can_be_empty])
def test_a_kind_without_its_digit_is_another_picture(kind: str, drawn: Images) -> None:
    empty = KINDS[kind].empty_file(0, "tuning")

    assert empty != KINDS[kind].file(drawn.pixels[3], 3, 0, "tuning")[0]
    Image.open(BytesIO(empty)).load()


def test_sizes_reach_from_8_to_8000_pixels() -> None:
    ends = [parameters(half, seed).on_log_scale(8, 8000) for half in HALVES for seed in range(300)]

    assert min(ends) < 12
    assert max(ends) > 6000


class Scripted(Reader):
    """Gives the answers of a list, in turn."""

    def __init__(self, *answers: tuple[int | str, bool]) -> None:
        self._script = iter(answers)

    def decide(self, file: bytes) -> tuple[int | str, bool]:
        return next(self._script)


def row_of(
    kind: str, reader: Reader, drawn: Images, capsys: pytest.CaptureFixture[str], count: int
) -> list[str]:
    score_kinds(reader, drawn, "tuning", count, [kind], None)
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed.startswith(kind)
    return printed.removeprefix(kind).split()


def test_a_row_counts_right_accepted_wrong_and_refused(
    drawn: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [label for _, label in pictures(drawn, "1 with a flag", 5, "tuning")]
    reader = Scripted((1, True), (7, True), (7, False), ("no ink", False), ("several", False))

    row = row_of("1 with a flag", reader, drawn, capsys, 5)

    assert labels == [1] * 5
    assert row == ["20.0%", "40.0%", "1", "1", "1", "<"]


def test_a_circle_may_be_abstained_from(drawn: Images, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [label for _, label in pictures(drawn, "circle", 3, "tuning")]
    wrong = labels[2] + 1

    abstained = Scripted((labels[0], True), ("several", False), (wrong, False))
    assert row_of("circle", abstained, drawn, capsys, 3) == ["100.0%", "33.3%", "0", "0", "1"]
    accepted = Scripted((labels[0], True), ("several", False), (wrong, True))
    assert row_of("circle", accepted, drawn, capsys, 3)[:3] == ["66.7%", "66.7%", "1"]


def test_the_command_prints_a_row_of_each_kind_and_keeps_what_is_misread(
    mnist_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["frame", "underline", "circle"]
    arguments = ["--half", "tuning", "--images", "6", "--data-dir", str(mnist_folder)]

    main([*arguments, "--misread", str(tmp_path / "misread"), "--kinds", *chosen])

    printed = capsys.readouterr().out.partition("without its digit")[0]
    rows = [line for line in printed.splitlines() if line.startswith((*chosen,))]
    shares = [float(row[20:].split()[0].rstrip("%")) for row in rows]
    assert len(rows) == 3
    for kind, share in zip(chosen, shares, strict=True):
        misread = list((tmp_path / "misread").glob(f"{kind} *"))
        assert len(misread) == round(6 * (1 - share / 100))
        for path in misread:
            Image.open(BytesIO(path.read_bytes())).load()
