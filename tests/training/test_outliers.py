"""Outliers in training: images that are no digits, of which the network learns to think nothing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint import Checkpoint
from model.digits.preprocessing import normalise
from tests.training.patterns import CPU, IMAGES, TINY, run
from training.config import TrainConfig
from training.data import Images
from training.epochs import Epoch, FreshImages, make_epochs
from training.pseudo_ood import SHOWN, make_unfamiliar
from training.train import _start, _train_epoch

# Batches of 25 digits and 10 outliers.
WITH_OUTLIERS = replace(TINY, outliers=0.4)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def epochs_of(config: TrainConfig, first: int = 0) -> list[Epoch]:
    return list(make_epochs(FreshImages(config, IMAGES), first, config.epochs, CPU))


def outliers_of(epoch: Epoch) -> Tensor:
    assert epoch.outliers is not None
    return epoch.outliers


def mean_entropy(checkpoint: Checkpoint) -> float:
    """Of the answers to images that are no digits, nats."""
    pixels = make_unfamiliar(IMAGES, 50, 7, SHOWN)
    with torch.inference_mode():
        network = checkpoint.network
        probs = network(normalise(pixels, network.config)).softmax(dim=1)
        return float(-(probs * probs.log()).sum(dim=1).mean())


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


def test_without_dropout_a_step_follows_the_gradient_of_both_losses() -> None:
    config = replace(
        WITH_OUTLIERS, dropout=(0.0, 0.0, 0.0), optimiser="sgd", schedule="constant",
        learning_rate=0.1, weight_decay=0.0, outlier_weight=0.7, averaging=0.0,
    )  # fmt: skip
    B, M = 25, 10
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(B, 28, 28, generator=generator) * 255
    outliers = torch.rand(M, 28, 28, generator=generator) * 255
    labels = torch.arange(B) % 10
    images = Images(pixels.round().to(torch.uint8).numpy(), labels.numpy())
    run = _start(config, images, CPU)

    network = run.network
    network.zero_grad()
    mean, std = network.config.mean, network.config.std
    digits, others = (
        network((x.flatten(1) / 255 - mean) / std).softmax(dim=1) for x in (pixels, outliers)
    )
    loss = -digits[torch.arange(B), labels].log().mean() - 0.7 * others.log().sum() / (M * 10)
    loss.backward()
    expected = []
    for parameter in network.parameters():
        assert parameter.grad is not None
        expected.append(parameter.detach() - 0.1 * parameter.grad)

    _train_epoch(run, config, Epoch(pixels, labels, outliers=outliers))
    for parameter, wanted in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted)


def test_a_network_that_was_shown_outliers_has_no_opinion_of_them(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain.safetensors", replace(TINY, epochs=8))
    shown = run(tmp_path / "shown.safetensors", replace(WITH_OUTLIERS, epochs=8))
    assert mean_entropy(shown) > mean_entropy(plain) + 0.3
    assert mean_entropy(shown) > 0.6 * np.log(10)
    assert shown.metrics["validation"]["error"] < 0.2
