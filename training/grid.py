"""Many runs one after another: finished ones are kept, an interrupted one is continued."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from model.network import MLP
from training.config import TrainConfig
from training.data import Images, load_images
from training.regularisers import best_epoch
from training.train import Row, RunFiles, evaluate_network, recipe_of, train

# Training images whose loss is measured with dropout off; all of them would take as long as a
# third of the training.
_MEASURED_IMAGES = 10_000


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

    network: MLP
    kept: Row
    history: Sequence[Row]

    def series(self, name: str) -> list[float]:
        """One quantity of the history, epoch by epoch."""
        return [row[name] for row in self.history]


@dataclass(frozen=True)
class Experiment:
    """How the commands that train many runs do it.

    Attributes:
        data_dir: see `training.data.load_images`.
        runs: folder of finished runs, each under a name made from its settings.
        figures: folder for the figures.
        seeds: runs of each setting.
        epochs: of each run, instead of what the settings say.
        device: what computes.
    """

    data_dir: Path | None
    runs: Path
    figures: Path
    seeds: int
    epochs: int | None
    device: torch.device

    def load(self) -> tuple[Images, Images]:
        """MNIST's training and test images."""
        return load_images("train", self.data_dir), load_images("test", self.data_dir)

    def seeded(self, config: TrainConfig) -> list[TrainConfig]:
        """The same settings with the seeds 0, 1, ..."""
        epochs = self.epochs or config.epochs
        return [replace(config, seed=seed, epochs=epochs) for seed in range(self.seeds)]


def run_grid(
    configs: Iterable[TrainConfig], images: Images, experiment: Experiment
) -> dict[TrainConfig, Outcome]:
    """Trains what is not trained yet, with progress and the time left on stderr.

    Args:
        configs: the runs. Commands that want the same run share it.
        images: as for `training.train.train`.
        experiment: where runs are kept, and what computes.

    Raises:
        TrainingError: a run cannot start.
    """
    wanted = list(dict.fromkeys(configs))
    outputs = {config: _output(experiment.runs, config) for config in wanted}
    # In images, since the epochs of a grid may differ in length.
    sizes = {config: config.epochs * _images_per_epoch(config, images) for config in wanted}
    done = {
        config: sizes[config]
        if _is_finished(outputs[config])
        else _epochs_done(outputs[config]) * _images_per_epoch(config, images)
        for config in wanted
    }
    finished = sum(_is_finished(output) for output in outputs.values())
    outcomes = {}
    with tqdm(
        total=sum(sizes.values()),
        initial=sum(done.values()),
        unit="image",
        unit_scale=True,
        desc=f"{len(wanted)} runs, {finished} of them finished before",
        disable=finished == len(wanted),
    ) as bar:
        for config in wanted:
            end = bar.n + sizes[config] - done[config]
            outcomes[config] = _run(config, images, outputs[config], experiment.device, bar.update)
            bar.update(end - bar.n)  # what patience left out
    return outcomes


def _run(
    config: TrainConfig,
    images: Images,
    output: Path,
    device: torch.device,
    advance: Callable[[int], object],
) -> Outcome:
    measured = _training_part(config, images)[:_MEASURED_IMAGES]

    def measure(network: MLP) -> Row:
        scores = evaluate_network(network, measured)
        return {"plain_train_loss": scores.nll, "plain_train_accuracy": 1 - scores.error}

    def on_epoch(row: Row) -> None:
        advance(_images_per_epoch(config, images))

    checkpoint = train(
        config, images, output, device=device, resume=True, measure=measure, on_epoch=on_epoch
    )
    history = [json.loads(line) for line in RunFiles(output).history.read_text().splitlines()]
    losses = [row["validation_loss"] for row in history]
    kept = history[best_epoch(losses) - 1] if config.patience > 0 else history[-1]
    return Outcome(checkpoint.network, kept, history)


def _training_part(config: TrainConfig, images: Images) -> Images:
    return images[: len(images) - config.validation_images][: config.training_images or None]


def _images_per_epoch(config: TrainConfig, images: Images) -> int:
    return len(_training_part(config, images))


def _output(folder: Path, config: TrainConfig) -> Path:
    """A file name that settings determine: other settings never meet a run that has them not."""
    document = json.dumps(recipe_of(config), sort_keys=True)
    return folder / f"{hashlib.sha256(document.encode()).hexdigest()[:16]}.safetensors"


def _epochs_done(output: Path) -> int:
    """How far an interrupted run got."""
    files = RunFiles(output)
    return len(files.history.read_text().splitlines()) if files.state.exists() else 0


def _is_finished(output: Path) -> bool:
    return output.exists() and not RunFiles(output).state.exists()
