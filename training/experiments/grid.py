"""Many runs one after another: finished ones are kept, an interrupted one is continued."""

import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from model.network import MLP
from training.config import Experiment, TrainConfig
from training.data import Images, load_images
from training.network import Trainable, TrainableMLP
from training.optimisation import best_epoch
from training.runs import Row, RunFiles, find_device
from training.train import evaluate_network, recipe_of, train

# Training images whose loss is measured with dropout off; all of them would take as long as a
# third of the training.
_MEASURED_IMAGES = 10_000
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        network: what it ended with.
        kept: the row of the epoch whose weights it ended with: the last, or with patience the best.
        history: a row per epoch. Besides what every run records: `plain_train_loss` and
            `plain_train_accuracy`, of the first 10,000 training images, with dropout off and the
            weights as they are after the epoch.
    """

    network: TrainableMLP
    kept: Row
    history: Sequence[Row]

    def series(self, name: str) -> list[float]:
        """One quantity of the history, epoch by epoch."""
        return [row[name] for row in self.history]


def load_mnist(experiment: Experiment) -> tuple[Images, Images]:
    """MNIST's training and test images."""
    return load_images("train", experiment.data_dir), load_images("test", experiment.data_dir)


def run_groups(
    settings: Mapping[Key, TrainConfig], images: Images, experiment: Experiment
) -> dict[Key, list[Outcome]]:
    """The outcomes of each setting, one for each seed; see `run_grid`."""
    configs = {key: experiment.seeded(config) for key, config in settings.items()}
    outcomes = run_grid(chain.from_iterable(configs.values()), images, experiment)
    return {key: [outcomes[config] for config in group] for key, group in configs.items()}


def errors_on(outcomes: Iterable[Outcome], test: Images) -> list[float]:
    """The error of each outcome's network on the test images."""
    return [evaluate_network(each.network, test).error for each in outcomes]


def run_grid(
    configs: Iterable[TrainConfig], images: Images, experiment: Experiment
) -> dict[TrainConfig, Outcome]:
    """Trains what is not trained yet; progress and the time left go to stderr.

    Equal runs are shared, also between commands.

    Raises:
        TrainingError: a run cannot start.
    """
    device = find_device(experiment.device)
    wanted = list(dict.fromkeys(configs))
    files = {config: RunFiles(_output(experiment.runs, config)) for config in wanted}
    # Progress counts images, since the epochs of a grid may differ in length.
    per_epoch = {config: len(_training_part(config, images)) for config in wanted}
    done = {config: _epochs_done(files[config], config) * per_epoch[config] for config in wanted}
    finished = sum(each.is_finished for each in files.values())
    outcomes = {}
    with tqdm(
        total=sum(config.epochs * per_epoch[config] for config in wanted),
        initial=sum(done.values()),
        unit="image",
        unit_scale=True,
        desc=f"{len(wanted)} runs, {finished} of them finished before",
        disable=finished == len(wanted),
    ) as bar:
        for config in wanted:
            end = bar.n + config.epochs * per_epoch[config] - done[config]
            outcomes[config] = _run(config, images, files[config], device, bar)
            bar.update(end - bar.n)  # what patience left out
    return outcomes


def _run(
    config: TrainConfig, images: Images, files: RunFiles, device: torch.device, bar: "tqdm[Any]"
) -> Outcome:
    measured = _training_part(config, images)[:_MEASURED_IMAGES]

    def measure(network: Trainable) -> Row:
        scores = evaluate_network(network, measured)
        return {"plain_train_loss": scores.nll, "plain_train_accuracy": 1 - scores.error}

    def advance(row: Row) -> None:
        bar.update(len(_training_part(config, images)))

    output = files.checkpoint
    checkpoint = train(
        config, images, output, device=device, resume=True, measure=measure, on_epoch=advance
    )
    assert isinstance(checkpoint.network, MLP)  # which all experiments train
    history = files.rows()
    losses = [row["validation_loss"] for row in history]
    kept = history[best_epoch(losses) - 1] if config.patience > 0 else history[-1]
    return Outcome(TrainableMLP.from_network(checkpoint.network), kept, history)


def _training_part(config: TrainConfig, images: Images) -> Images:
    return images[: len(images) - config.validation_images][: config.training_images or None]


def _output(folder: Path, config: TrainConfig) -> Path:
    """A file name that the settings determine, so that other settings never find this run."""
    document = json.dumps(recipe_of(config), sort_keys=True)
    return folder / f"{hashlib.sha256(document.encode()).hexdigest()[:16]}.safetensors"


def _epochs_done(files: RunFiles, config: TrainConfig) -> int:
    if files.is_finished:
        return config.epochs
    return len(files.rows()) if files.state.exists() else 0
