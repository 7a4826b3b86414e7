"""A small network that has learnt ten classes of bars, for calibration and the report."""

import numpy as np
import torch

from model.checkpoint import Checkpoint
from model.network import MLPConfig
from training.calibrate import fit, make_kept_back
from training.config import CalibrationRules
from training.data import Images
from training.network import TrainableMLP

RULES = CalibrationRules(accepted_error=0.9)


def draw_digits(count: int, seed: int) -> Images:
    """Ten classes of images: a bright bar whose place is the class, with noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    pixels = generator.integers(0, 60, size=(count, 28, 28), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[4:24, 2 * label + 4 : 2 * label + 6] += np.uint8(120)
    return Images(pixels, labels)


def train_small() -> Checkpoint:
    """A small network that has learnt the bars, in a few steps."""
    torch.manual_seed(0)
    network = TrainableMLP(MLPConfig(layer_sizes=(784, 32, 16, 16, 10), mean=0.15, std=0.2))
    images = draw_digits(200, 0)
    x = (torch.from_numpy(images.pixels).flatten(1) / 255 - 0.15) / 0.2
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(network(x), torch.from_numpy(images.labels))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    training = {
        "dataset": "mnist",
        "recipe": {"validation_images": 300, "epochs": 1},
        "seed": 7,
        "dropout_rates": [0.2, 0.2, 0.2],
    }
    return Checkpoint(
        network.to_network(), training=training, metrics={"validation": {"error": 0.125}}
    )


def calibrated(trained: Checkpoint) -> Checkpoint:
    validation = draw_digits(300, 4)
    return fit(trained, validation, make_kept_back(validation), RULES)
