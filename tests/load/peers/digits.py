"""The peers' model: the product's checkpoint as a plain torch module, with plain MC dropout.

Nothing of the product is imported. This is the code that a user of the other servers would write,
with torch's own layers: a network that is trained with `nn.Dropout` and evaluated in training mode.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

# Deterministic; the textbook loop; and all passes as one batch through the whole network.
TASKS = ("predict", "loop", "expanded")


def task_from_environment() -> tuple[str, int, int, float]:
    """Task, passes, largest batch (1: no batching), and seconds that a batch waits for requests."""
    return (
        os.environ["PEER_TASK"],
        int(os.environ["PEER_PASSES"]),
        int(os.environ["PEER_BATCH"]),
        float(os.environ["PEER_WAIT_SECONDS"]),
    )


class Digits:
    """The network, ready to answer batches of one task."""

    def __init__(self) -> None:
        self.task, self.passes, self.batch, self.wait_seconds = task_from_environment()
        torch.set_num_threads(1)  # the server has one core
        cv2.setNumThreads(1)
        self.network, self._mean, self._std = load_network(Path(os.environ["PEER_CHECKPOINT"]))
        self.network.train(self.task != "predict")

    def answer(self, pixels: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
        """Answers for a batch: shape (B, 784), 0 to 255, ink is 255."""
        x = (torch.tensor(pixels).float() / 255 - self._mean) / self._std
        with torch.inference_mode():
            if self.task == "predict":
                return describe_probs(self.network(x).softmax(-1))
            sample = textbook if self.task == "loop" else expanded
            return describe_passes(sample(self.network, x, self.passes))


def load_network(path: Path) -> tuple[nn.Sequential, float, float]:
    """The network, and the mean and standard deviation of its pixels."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["dropserve"])["config"]
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    layers: list[nn.Module] = []
    sizes, rates = config["layer_sizes"], [*config["dropout_rates"], None]
    for number, rate in enumerate(rates):
        layer = nn.Linear(sizes[number], sizes[number + 1])
        layer.load_state_dict(
            {key: weights[f"layers.{number}.{key}"] for key in ("weight", "bias")}
        )
        layers += [layer] if rate is None else [layer, nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*layers), config["mean"], config["std"]


def textbook(network: nn.Module, x: Tensor, passes: int) -> Tensor:
    """Gal and Ghahramani's loop: (T, B, C) of a batch (B, 784)."""
    return torch.stack([network(x).softmax(-1) for _ in range(passes)])


def expanded(network: nn.Module, x: Tensor, passes: int) -> Tensor:
    """The same as one batch of T * B rows."""
    probs: Tensor = network(x.repeat(passes, 1)).softmax(-1)
    return probs.view(passes, len(x), -1)


def describe_probs(probs: Tensor) -> list[dict[str, Any]]:
    """One answer per row of (B, C)."""
    entropies = entropy(probs).tolist()
    rows = zip(probs.argmax(-1).tolist(), probs.tolist(), entropies, strict=True)
    return [
        {"digit": digit, "probabilities": row, "predictive_entropy": nats}
        for digit, row, nats in rows
    ]


def describe_passes(probs: Tensor) -> list[dict[str, Any]]:
    """One answer per image of (T, B, C)."""
    mean, variance = probs.mean(0), probs.var(0)
    total, expected = entropy(mean), entropy(probs).mean(0)
    answers = describe_probs(mean)
    for answer, row, nats in zip(
        answers, variance.tolist(), (total - expected).tolist(), strict=True
    ):
        answer |= {"variance": row, "mutual_information": nats}
    return answers


def entropy(probs: Tensor) -> Tensor:
    """Nats, over the last axis."""
    entropies: Tensor = torch.special.entr(probs).sum(-1)
    return entropies


def decode(png: bytes) -> np.ndarray[Any, Any]:
    """What the network gets of a picture, shape (784,)."""
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    return (grey if grey.shape == (28, 28) else centre(grey)).reshape(-1)


def centre(grey: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A dark digit on light paper in MNIST's form: 20 pixels long, its mass in the middle.

    Args:
        grey: any height and width, uint8.
    """
    ink = 255 - grey
    _, mask = cv2.threshold(ink, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    left, top, width, height = cv2.boundingRect(mask)
    digit = ink[top : top + height, left : left + width]
    digit = cv2.normalize(digit, None, 0, 255, cv2.NORM_MINMAX)
    scale = 20 / max(width, height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    digit = cv2.resize(digit, (width, height), interpolation=cv2.INTER_AREA)
    moments = cv2.moments(digit)
    left, top = (
        min(max(0, round(13.5 - moments[moment] / moments["m00"])), 28 - side)
        for moment, side in (("m10", width), ("m01", height))
    )
    centred = np.zeros((28, 28), np.uint8)
    centred[top : top + height, left : left + width] = digit
    return centred
