"""`compare`, `regularisers` and `sweep`, from end to end on few images, and what they print."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import training.grid
from model.network import MLP, MLPConfig
from tests.training.patterns import CPU, make_images
from training import compare, side_by_side, sweep
from training.cli import main
from training.compare import PRESETS, WITH
from training.grid import Experiment, Outcome
from training.presets import ARTICLE, PLAIN
from training.train import _start, evaluate_network

pytestmark = pytest.mark.usefixtures("one_thread")

# The experiments hold out 5,000 images, or validate on 10,000.
TRAINING, TEST = make_images(5600), make_images(10_000)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """One epoch of each run, one seed, on 600 images."""
    splits = {"train": TRAINING, "test": TEST}
    monkeypatch.setattr(training.grid, "load_images", lambda split, data_dir: splits[split])
    return Experiment(None, tmp_path / "runs", tmp_path / "figures", 1, 1, CPU)


def outcome(**quantities: Sequence[float]) -> Outcome:
    """A run with a made-up history."""
    rows = [
        dict(zip(quantities, values, strict=True))
        for values in zip(*quantities.values(), strict=True)
    ]
    return Outcome(MLP(MLPConfig()), rows[-1], rows)


def figures_in(experiment: Experiment) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in experiment.figures.iterdir()}


# compare


def test_the_article_is_validated_on_the_test_images(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.compare(PRESETS["article"], "article", experiment)
    out = capsys.readouterr().out
    assert "hidden 1       784     512     401,920  linear" in out
    assert re.search(r"together +567,434\n", out)
    assert "1 epochs; seeds: 1" in out
    assert "MNIST's 10,000 test images, as in the article" in out
    for published in ("0.9153", "0.4491", "0.9212", "0.2780"):
        assert f" {published}\n" in out
    assert "With ReLU the picture turns" in out
    # What stands beside the published accuracy is that of the test images.
    config = experiment.seeded(replace(ARTICLE, dropout=(0.0, 0.0, 0.0)))[0]
    joined = compare._join(TRAINING, TEST)
    network = training.grid.run_grid([config], joined, experiment)[config].network
    accuracy = 1 - evaluate_network(network, TEST).error
    assert f"without dropout validation accuracy             {accuracy:.4f}" in out


def test_with_relu_the_test_images_are_read_once_at_the_end(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.compare(PRESETS["relu"], "relu", experiment)
    out = capsys.readouterr().out
    assert "5,000 images held out of training" in out
    assert "published" not in out
    config = experiment.seeded(PLAIN)[0]
    network = training.grid.run_grid([config], TRAINING, experiment)[config].network
    error = evaluate_network(network, TEST).error
    assert re.search(rf"without dropout test error +{re.escape(f'{error:.2%}')}", out)


def test_the_articles_network_begins_as_kerass_does() -> None:
    """No activation, Glorot's bounds, zero biases, pixels / 255; and SGD steps as SGD does."""
    run = _start(ARTICLE, make_images(300), CPU)
    config = run.network.config
    assert (config.activation, config.mean, config.std) == ("linear", 0.0, 1.0)
    assert config.dropout_rates == (0.5, 0.5, 0.5)
    for layer in run.network.layers:
        weight = layer.get_parameter("weight").detach()
        assert float(weight.abs().max()) <= (6 / sum(weight.shape)) ** 0.5
        assert not layer.get_parameter("bias").any()
    (group,) = run.optimizer.param_groups
    assert isinstance(run.optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0, 0)


def test_the_two_networks_differ_in_dropout_alone() -> None:
    """All else equal: the same first weights, too."""
    with_dropout = PRESETS["relu"].config
    assert replace(with_dropout, dropout=PLAIN.dropout) == PLAIN
    images = make_images(300)
    networks = [_start(config, images, CPU).network for config in (with_dropout, PLAIN)]
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)


def test_the_table_has_the_last_epochs_mean_beside_the_published() -> None:
    quantities = dict.fromkeys(compare._QUANTITIES, (0.0, 0.0))
    runs = [outcome(**(quantities | {"train_loss": (0.9, loss)})) for loss in (0.25, 0.5)]
    table = compare.tabulate({WITH: runs}, {WITH: {"train_loss": 0.4491}})
    (row,) = [line for line in table.splitlines() if "as it trains" in line]
    assert row.split() == [
        *["with", "dropout", "training", "loss,", "as", "it", "trains"],
        "0.3750",
        "(0.2500-0.5000)",
        "0.4491",
    ]


# regularisers


def test_every_method_has_its_row_and_options(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    side_by_side.compare_regularisers(experiment)
    out = capsys.readouterr().out
    table, options = out.split("On top of no regulariser")
    for name in side_by_side.METHODS:
        assert re.search(rf"^{re.escape(name)} +\d+\.\d\d% \(", table, re.MULTILINE)
    assert re.search(r"^dropout \+ max-norm .* 1\.05%  table 9", table, re.MULTILINE)
    assert re.search(r"^none .* \+0\.00 ", table, re.MULTILINE)
    assert re.search(r"^dropout \+ max-norm +--dropout 0.2 0.2 0.2 --max-norm 2$", options, re.M)
    assert re.search(r"^L1 +--l1 1e-05$", options, re.MULTILINE)
    assert re.search(r"^none$", options, re.MULTILINE)


def test_methods_differ_from_none_in_what_their_names_say() -> None:
    recipes = {name: method.config.recipe() for name, method in side_by_side.METHODS.items()}
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
    table = side_by_side.tabulate(groups, {"none": [0.016, 0.018], "L2": [0.012, 0.014]})
    (line,) = [line for line in table.splitlines() if line.startswith("L2")]
    assert line.split()[:6] == ["L2", "1.30%", "(1.20-1.40)", "-0.40", "2.00%", "(2.00-2.00)"]
    assert line.endswith("1.62%  table 9, L2")


# sweep


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


# The figures


def test_the_same_runs_give_the_same_figures_byte_for_byte(experiment: Experiment) -> None:
    compare.compare(PRESETS["relu"], "relu", experiment)
    first = figures_in(experiment)
    assert first.keys() == {"compare-relu.svg", "compare-relu.png"}
    elsewhere = replace(experiment, figures=experiment.figures.with_name("again"))
    compare.compare(PRESETS["relu"], "relu", elsewhere)
    assert figures_in(elsewhere) == first
    assert all(len(content) < 150_000 for content in first.values())
    # Text stays text, so that it can be read out and searched.
    assert b"with dropout: validation" in first["compare-relu.svg"]


def test_without_matplotlib_nothing_is_trained_in_vain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "training.sweep")
    monkeypatch.delitem(sys.modules, "training.plots")
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "--device", "cpu", "--data-dir", "nowhere"])
    assert ended.value.code == 1
    assert "matplotlib is not installed; pip install" in capsys.readouterr().err


# The command line


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [(["compare", "--preset", "article"], 3), (["regularisers"], 3), (["sweep"], 2)],
)
def test_the_options_reach_the_experiment(
    arguments: list[str], seeds: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    received: list[Any] = []
    for module, name in ((compare, "compare"), (side_by_side, "compare_regularisers")):
        monkeypatch.setattr(module, name, lambda *given: received.append(given))
    monkeypatch.setattr(sweep, "sweep", lambda *given: received.append(given))
    options = ["--runs", str(tmp_path), "--epochs", "4", "--device", "cpu"]
    for extra in ([], ["--seeds", "7"]):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *options, *extra])
        assert ended.value.code == 0
    assert received[0][-1] == Experiment(
        None, tmp_path, Path("runs/figures"), seeds, 4, torch.device("cpu")
    )
    assert received[1][-1].seeds == 7
    if arguments[0] == "compare":
        assert received[0][:2] == (PRESETS["article"], "article")


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(experiment: Experiment) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "sweep", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "--device", "cpu"])
    assert ended.value.code == 130
    assert "interrupted; run it again to continue" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seeds", "--epochs"])
def test_no_seeds_and_no_epochs_are_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", option, "0"])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err
