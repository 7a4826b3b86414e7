"""`sweep`, from end to end on few images, and what it prints."""

import re
from dataclasses import replace

import pytest

from tests.training.experiments.conftest import figures_in
from training.config import Experiment
from training.experiments import PLAIN, sweep

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_every_rate_and_size_has_its_row(
    experiment: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer of each, for the sake of the time.
    monkeypatch.setattr(sweep, "RATES", sweep.SIZE_RATES)
    monkeypatch.setattr(sweep, "SIZES", {500: 60, 10_000: 20})
    monkeypatch.setattr(sweep, "PER_LAYER", sweep.PER_LAYER[:2])
    sweep.sweep(experiment)
    out = capsys.readouterr().out
    number = r" +\d+\.\d\d% \(\d+\.\d\d-\d+\.\d\d\)"
    for name in (
        *(f"{rate:g}" for rate in sweep.RATES),
        "500 images, p = 0.2",
        "600 images, p = 0.5",  # all of them
        "0.5, 0.3, 0.1",
    ):
        assert re.search(rf"^{re.escape(name)}{number}{number} +-?\d+\.\d\d$", out, re.MULTILINE)
    assert {"sweep.svg", "sweep.png"} == figures_in(experiment).keys()


def test_the_gap_is_test_error_less_training_error_in_points() -> None:
    seeds = [PLAIN, replace(PLAIN, seed=1)]
    errors = {seeds[0]: (0.01, 0.02), seeds[1]: (0.02, 0.05)}
    row = sweep.tabulate("p", {"0": seeds}, errors).splitlines()[-1]
    assert row.split() == ["0", "1.50%", "(1.00-2.00)", "3.50%", "(2.00-5.00)", "2.00"]


def test_fewer_images_take_smaller_steps_in_smaller_batches() -> None:
    few, many = sweep.with_size(500, (0.2,) * 3), sweep.with_size(10_000, (0.2,) * 3)
    assert (few.training_images, few.batch_size, few.epochs) == (500, 50, 60)
    assert few.learning_rate / few.batch_size == pytest.approx(0.1 / 256)
    assert (many.batch_size, many.learning_rate, many.dropout) == (256, 0.1, (0.2,) * 3)


def test_rates_per_layer_are_equal_on_average() -> None:
    assert {round(sum(rates), 9) for rates in sweep.PER_LAYER} == {0.9}
