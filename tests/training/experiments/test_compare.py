"""`compare`, from end to end on few images, and what it prints."""

import re
from dataclasses import replace

import pytest
import torch

from model.network import MLPConfig
from tests.training.experiments.conftest import TEST, TRAINING, outcome
from tests.training.patterns import CPU, make_images
from training.config import CompareOptions, Experiment
from training.experiments import ARTICLE, PLAIN, compare
from training.experiments.compare import PRESETS, WITH
from training.experiments.grid import run_grid
from training.train import evaluate_network, start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_the_article_is_validated_on_the_test_images(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.compare(CompareOptions("article"), experiment)
    out = capsys.readouterr().out
    assert "hidden 1       784     512     401,920  linear" in out
    assert re.search(r"together +567,434\n", out)
    assert "1 epochs; seeds: 1" in out
    assert "MNIST's 10,000 test images, as in the article" in out
    for published in ("0.9153", "0.4491", "0.9212", "0.2780"):
        assert f" {published}\n" in out
    assert "With ReLU the picture turns" in out
    # The accuracy next to the published one is that of the test images.
    config = experiment.seeded(replace(ARTICLE, dropout=(0.0, 0.0, 0.0)))[0]
    joined = compare._join(TRAINING, TEST)
    network = run_grid([config], joined, experiment)[config].network
    accuracy = 1 - evaluate_network(network, TEST).error
    assert f"without dropout validation accuracy             {accuracy:.4f}" in out


def test_with_relu_the_test_images_are_read_once_at_the_end(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.compare(CompareOptions("relu"), experiment)
    out = capsys.readouterr().out
    assert "5,000 images held out of training" in out
    assert "published" not in out
    config = experiment.seeded(PLAIN)[0]
    network = run_grid([config], TRAINING, experiment)[config].network
    error = evaluate_network(network, TEST).error
    assert re.search(rf"without dropout test error +{re.escape(f'{error:.2%}')}", out)


def test_the_articles_network_begins_as_kerass_does() -> None:
    """No activation, Glorot's bounds, zero biases, pixels / 255; and SGD steps as SGD does."""
    run = start(ARTICLE, make_images(300), CPU)
    config = run.network.config
    assert isinstance(config, MLPConfig)
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
    networks = [start(config, images, CPU).network for config in (with_dropout, PLAIN)]
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)


def test_the_table_has_the_last_epochs_mean_next_to_the_published() -> None:
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
