"""`regularisers`, from end to end on few images, and what it prints."""

import re

import pytest

from tests.training.experiments.conftest import outcome
from training.config import Experiment
from training.experiments import PLAIN, regularisers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_every_method_has_its_row_and_options(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    regularisers.compare_regularisers(experiment)
    out = capsys.readouterr().out
    table, options = out.split("On top of no regulariser")
    for name in regularisers.METHODS:
        assert re.search(rf"^{re.escape(name)} +\d+\.\d\d% \(", table, re.MULTILINE)
    assert re.search(r"^dropout \+ max-norm .* 1\.05%  table 9", table, re.MULTILINE)
    assert re.search(r"^none .* \+0\.00 ", table, re.MULTILINE)
    assert re.search(r"^dropout \+ max-norm +--dropout 0.2 0.2 0.2 --max-norm 2$", options, re.M)
    assert re.search(r"^L1 +--l1 1e-05$", options, re.MULTILINE)
    assert re.search(r"^none$", options, re.MULTILINE)


def test_methods_differ_from_none_in_what_their_names_say() -> None:
    recipes = {name: method.config.recipe() for name, method in regularisers.METHODS.items()}
    changed = {
        name: {key for key in recipe if recipe[key] != recipes["none"].get(key)}
        for name, recipe in recipes.items()
    }
    assert changed == {
        "none": set(),
        "L1": {"l1"},
        "L2": {"l2"},
        "max-norm": {"max_norm"},
        "early stopping": {"patience"},
        "dropout": {"dropout"},
        "dropout + max-norm": {"dropout", "max_norm"},
        "dropout + input dropout": {"dropout", "input_dropout"},
    }


def test_none_regularises_in_no_way() -> None:
    assert (PLAIN.augmentation, PLAIN.weight_decay * (PLAIN.optimiser != "sgd")) == (0, 0)
    assert (PLAIN.averaging, PLAIN.label_smoothing, PLAIN.patience) == (0, 0, 0)
    assert PLAIN.dropout == (0, 0, 0)


def test_the_difference_to_none_is_that_of_the_means_in_points() -> None:
    row = {"validation_accuracy": (0.98,), "plain_train_accuracy": (0.99,)}
    groups = {name: [outcome(**row), outcome(**row)] for name in ("none", "L2")}
    table = regularisers.tabulate(groups, {"none": [0.016, 0.018], "L2": [0.012, 0.014]})
    (line,) = [line for line in table.splitlines() if line.startswith("L2")]
    assert line.split()[:6] == ["L2", "1.30%", "(1.20-1.40)", "-0.40", "2.00%", "(2.00-2.00)"]
    assert line.endswith("1.62%  table 9, L2")
