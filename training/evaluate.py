"""Scores a checkpoint on MNIST's test images: deterministic and MC dropout side by side."""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engine import Engine
from model.masks import Passes
from model.uncertainty import mean
from training.data import load_mnist
from training.metrics import Scores, score


def evaluate(
    checkpoint_path: Path | None, data_dir: Path | None, *, passes: int, seed: int
) -> None:
    """Prints error, NLL and ECE of the test images, each image with a seed of its own.

    Args:
        checkpoint_path: what to score; None is the committed checkpoint.
        data_dir: see `training.data.load_mnist`.
        passes: stochastic passes an image.
        seed: image i uses the seed `seed + i`.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        TrainingError: the data cannot be used.
    """
    checkpoint = load_checkpoint(checkpoint_path or DEFAULT_CHECKPOINT)
    images = load_mnist("test", data_dir)
    engine = Engine(checkpoint.network)
    labels = torch.from_numpy(images.labels)
    deterministic, sampled = [], []
    for number, pixels in enumerate(tqdm(images.pixels, desc="evaluating", unit="image")):
        deterministic.append(engine.predict_probs(pixels))
        sampled.append(mean(engine.sample_probs(pixels, Passes(passes, seed + number))))
    print(f"{checkpoint.name} {checkpoint.version}, {len(images):,} test images")
    print(f"{'':24}{'error':>8}{'NLL':>9}{'ECE':>9}")
    _print_row("deterministic", score(torch.from_numpy(np.stack(deterministic)), labels))
    _print_row(f"MC dropout, {passes} passes", score(torch.from_numpy(np.stack(sampled)), labels))


def _print_row(name: str, scores: Scores) -> None:
    print(f"{name:24}{scores.error:>8.2%}{scores.nll:>9.4f}{scores.ece:>9.4f}")
