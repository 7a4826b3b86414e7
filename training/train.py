"""The recipe: distorted digits, dropout, AdamW with a one-cycle schedule, averaged weights.

A run is a function of its settings and seed. Whatever is random in an epoch is drawn from the seed
and the epoch's number, so an interrupted run that is resumed ends with the bytes of one that was
not.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from model.checkpoint import AnyCheckpoint, Checkpoint, load_any_checkpoint, save_checkpoint
from model.errors import CheckpointError
from model.sampling.masks import Passes, draw_masks, round_rate, split_by_site
from training.augmentation import (
    DROPOUT,
    INPUT_DROPOUT,
    WEIGHTS,
    Epoch,
    EpochSource,
    FreshImages,
    make_epochs,
    outliers_per_batch,
    stream_seed,
)
from training.config import TrainConfig
from training.data import FILES, MNIST, Dataset, Images
from training.distil import Teacher, Views, distillation_loss
from training.errors import TrainingError
from training.metrics import Scores, score
from training.network import Trainable, TrainableMLP, build_network
from training.optimisation import (
    best_epoch,
    build_optimiser,
    build_schedule,
    cap_norms,
    drop_inputs,
    initialise,
    keep_inputs,
    moving_average,
    outlier_loss,
    patience_has_ended,
    weight_penalty,
)
from training.pool import Pool
from training.runs import Row, RunFiles, progress

# A step's normalised pixels of B images and M outliers, (B + M, 784), the image of each pass,
# (B + K M,), its keep-masks per hidden layer, (B + K M, units), the labels, (B,), and with a
# teacher its logits, (B, C).
Batch = tuple[Tensor, Tensor, Sequence[Tensor], Tensor, Tensor | None]
# Without a teacher these change nothing, and are not part of a recipe.
TEACHER_SETTINGS = {"views", "distillation_weight", "distillation_temperature"}


def train(
    config: TrainConfig,
    images: Images,
    output: Path,
    *,
    device: torch.device,
    resume: bool = False,
    teacher: Teacher | None = None,
    pool: Pool | None = None,
    initial: Checkpoint | None = None,
    measure: Callable[[Trainable], Row] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
) -> AnyCheckpoint:
    """Trains a network and saves it.

    Args:
        config: the recipe.
        images: the training set; the last `config.validation_images` are held out.
        output: where the checkpoint goes, with the history in the same folder.
        device: what computes.
        resume: continue the interrupted run at `output`, or begin where there is none.
        teacher: networks whose answers to the distorted images are learned, too.
        pool: images that are no digits, of which outliers are drawn, and digits.
        initial: whose weights the training begins with; None: with random ones.
        measure: what else to record after each epoch, of the averaged network.
        on_epoch: called with each row of the history; without it a progress bar is shown.

    Returns:
        The saved checkpoint.

    Raises:
        TrainingError: `output` holds an unfinished run and `resume` is false, or a run with other
            settings; or there are too few images, or the loss became infinite.
    """
    recipe, files = recipe_of(config, teacher, images.dataset, pool, initial), RunFiles(output)
    if resume and files.is_finished:
        return _finished(recipe, files)
    training, validation = _split(images, config)
    files.begin(resume=resume)
    drawn, learned = None, training
    if pool is not None:
        drawn, learned = pool.pixels(), pool.with_digits(training)
    run = start(config, learned, device, initial)
    run.restore(recipe, files)
    source: EpochSource = FreshImages(config, learned, drawn)
    if teacher is not None:
        source = Views(config, learned, teacher, drawn, taught=len(training))

    with nullcontext(on_epoch) if on_epoch else progress(config.epochs, run.epoch) as show:
        for epoch in make_epochs(source, run.epoch, config.epochs, device):
            if patience_has_ended(run.losses, config.patience):
                break
            started = time.perf_counter()
            loss, accuracy = train_epoch(run, config, epoch)
            scores = evaluate_network(run.averaged_network, validation)
            run.end_epoch(scores.nll, config)
            row = {
                "epoch": run.epoch,
                "train_loss": loss,
                "train_accuracy": accuracy,
                "validation_loss": scores.nll,
                "validation_accuracy": 1 - scores.error,
                "seconds": round(time.perf_counter() - started, 2),
                **(measure(run.averaged_network) if measure else {}),
            }
            run.save(recipe, files, row)
            show(row)

    network = run.final_network()
    scores = evaluate_network(network, validation)
    save_checkpoint(output, _checkpoint_of(network, config, recipe, images.dataset, scores))
    files.state.unlink(missing_ok=True)
    return load_any_checkpoint(output)


def train_epoch(run: "Run", config: TrainConfig, epoch: Epoch) -> tuple[float, float]:
    """One pass over the images, in steps of one batch.

    Returns:
        Mean loss, without penalties, and accuracy: both with dropout on, and of the weights as they
        were at each step.
    """
    network, device, steps = run.network, epoch.labels.device, 0
    total_loss = torch.zeros((), device=device)
    correct = torch.zeros((), device=device, dtype=torch.int64)
    for x, rows, masks, labels, teacher_logits in batches(run, config, epoch):
        B = len(labels)
        # Weights, their gradients and the loss stay in single precision.
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            every_pass = network(x, masks, rows).float()
            plain = network(x[B:]).float() if config.plain_outlier_weight > 0 else None
        logits, outlier_logits = every_pass.split([B, len(rows) - B])
        objective = loss = _loss(logits, labels, teacher_logits, config)
        if len(x) > B:
            objective = loss + outlier_loss(outlier_logits, plain, config)
        if config.l1 > 0 or config.l2 > 0:
            objective = objective + weight_penalty(_weights_of(network), l1=config.l1, l2=config.l2)
        run.optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        if config.max_norm > 0:
            for weight in _weights_of(network)[:-1]:
                cap_norms(weight, config.max_norm)
        run.schedule.step()
        run.averaged.update_parameters(network)
        total_loss += loss.detach()
        correct += (logits.argmax(dim=1) == labels).sum()
        steps += 1
    mean_loss = float(total_loss) / steps
    if not math.isfinite(mean_loss):
        raise TrainingError(
            f"the loss became infinite in epoch {run.epoch + 1}: lower --learning-rate"
        )
    return mean_loss, int(correct) / (steps * config.batch_size)


def evaluate_network(network: Trainable, images: Images) -> Scores:
    """Scores of the network's deterministic answers."""
    with torch.inference_mode():
        device = next(network.parameters()).device
        logits = network.answer(torch.from_numpy(images.pixels).to(device))
        return score(logits.softmax(dim=1).cpu(), torch.from_numpy(images.labels))


@dataclass
class Run:
    """Everything that changes while training; `averaged` is what is saved."""

    network: Trainable
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    epoch: int = 0  # epochs finished
    losses: list[float] = field(default_factory=list)  # on the validation images, per epoch
    best: dict[str, Tensor] | None = None  # averaged weights of the best epoch, with patience

    @property
    def averaged_network(self) -> Trainable:
        """The network with the averaged weights."""
        return cast(Trainable, self.averaged.module)

    def end_epoch(self, validation_loss: float, config: TrainConfig) -> None:
        """Counts the epoch and, with patience, keeps the weights of the best one."""
        self.epoch += 1
        self.losses.append(validation_loss)
        if config.patience > 0 and best_epoch(self.losses) == self.epoch:
            weights = self.averaged_network.state_dict()
            self.best = {name: tensor.clone() for name, tensor in weights.items()}

    def final_network(self) -> Trainable:
        """The averaged network after the last epoch or, with patience, after the best one."""
        if self.best is not None:
            self.averaged_network.load_state_dict(self.best)
        return self.averaged_network

    def save(self, recipe: dict[str, Any], files: RunFiles, row: Row) -> None:
        """Writes what an interrupted run is resumed from, and a row of the history."""
        files.append(row)
        values = {"epoch": self.epoch, "losses": self.losses, "best": self.best}
        files.save_state(recipe, self._parts(), **values)

    def restore(self, recipe: dict[str, Any], files: RunFiles) -> None:
        """Continues where a saved state ends; without one the run begins."""
        if state := files.load_state(recipe, self._parts()):
            self.epoch, self.losses, self.best = (state[key] for key in ("epoch", "losses", "best"))
            files.cut_history(self.epoch)

    def _parts(self) -> dict[str, Any]:
        names = ("network", "averaged", "optimizer", "schedule")
        return {name: getattr(self, name) for name in names}


def start(
    config: TrainConfig,
    training: Images,
    device: torch.device,
    initial: Checkpoint | None = None,
) -> Run:
    """A network with its initial weights, its optimiser and its schedule."""
    mean, std = 0.0, 1.0
    if config.normalisation == "standard":
        scaled = training.pixels / np.float32(255)
        mean = round(float(scaled.mean(dtype=np.float64)), 4)
        std = round(float(scaled.std(dtype=np.float64)), 4)
    if initial is None:
        network = build_network(config, training.dataset.labels, mean, std)
        weights = torch.Generator().manual_seed(stream_seed(config.seed, WEIGHTS))
        initialise(network, config, weights)
    else:
        rates = tuple(map(round_rate, config.dropout))
        begun = replace(initial.network.config, dropout_rates=rates)
        network = TrainableMLP.from_network(replace(initial.network, config=begun))
    network.to(device)
    optimizer = build_optimiser(network, config)
    steps = config.epochs * (len(training) // config.batch_size)
    schedule = build_schedule(optimizer, config, steps=steps)
    averaged = AveragedModel(network, multi_avg_fn=moving_average(config.averaging))
    return Run(network, averaged, optimizer, schedule)


def _split(images: Images, config: TrainConfig) -> tuple[Images, Images]:
    """The images to train on, and those held out for validation."""
    held_out = len(images) - config.validation_images
    if held_out < config.batch_size:
        raise TrainingError(
            f"{len(images)} images leave fewer than one batch to train on; "
            "lower --validation-images"
        )
    if 0 < config.training_images < config.batch_size:
        raise TrainingError(
            f"{config.training_images} training images are fewer than one batch of "
            f"{config.batch_size}; lower --batch-size"
        )
    return images[:held_out][: config.training_images or None], images[held_out:]


def batches(run: Run, config: TrainConfig, epoch: Epoch) -> Iterator[Batch]:
    """The steps of an epoch; images that fill no batch are left out."""
    B, M = config.batch_size, outliers_per_batch(config)
    steps = len(epoch.labels) // B
    device, sites = epoch.labels.device, run.network.dropout_sites
    K = config.outlier_passes if config.disagreement > 0 else 1
    passes = torch.cat([torch.arange(B), torch.arange(B, B + M).repeat(K)]).to(device)
    dropout_seed = stream_seed(config.seed, DROPOUT)
    input_seed = stream_seed(config.seed, INPUT_DROPOUT)
    input_rate = round_rate(config.input_dropout)
    for step in range(steps):
        rows = slice(step * B, (step + 1) * B)
        pixels = epoch.pixels[rows]
        if epoch.outliers is not None:
            outliers = epoch.outliers[step * M : (step + 1) * M]
            pixels = torch.cat([pixels, outliers.to(pixels.dtype)])
        x = run.network.normalise(pixels)
        # Every pass of the run has a mask of its own: its number counts the generator.
        number = (run.epoch * steps + step) * len(passes)
        drawn = draw_masks(sites, Passes(number + len(passes), dropout_seed), number)
        masks = [torch.from_numpy(mask).to(device) for mask in split_by_site(drawn, sites)]
        if input_rate > 0:
            first = (run.epoch * steps + step) * len(x)
            keep = keep_inputs(input_rate, input_seed, *x.shape, first_image=first)
            x = drop_inputs(x, keep.to(device), input_rate)
        teacher_logits = None if epoch.teacher_logits is None else epoch.teacher_logits[rows]
        yield x, passes, masks, epoch.labels[rows], teacher_logits


def _loss(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, config: TrainConfig
) -> Tensor:
    """Cross-entropy with the labels and, with a teacher, with its probabilities."""
    loss = nn.functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if teacher_logits is None:
        return loss
    weight, temperature = config.distillation_weight, config.distillation_temperature
    return distillation_loss(loss, logits, teacher_logits, weight=weight, temperature=temperature)


def _weights_of(network: Trainable) -> list[Tensor]:
    return [values for name, values in network.named_parameters() if name.endswith("weight")]


def recipe_of(
    config: TrainConfig,
    teacher: Teacher | None = None,
    dataset: Dataset = MNIST,
    pool: Pool | None = None,
    initial: Checkpoint | None = None,
) -> dict[str, Any]:
    """Every setting that makes a difference: the seed, teacher, pool and another data set too."""
    recipe = config.recipe()
    if teacher is None:
        recipe = {name: recipe[name] for name in recipe if name not in TEACHER_SETTINGS}
    else:
        recipe["teacher"] = list(teacher.cards)
    if pool is not None:
        recipe["pool"] = pool.card()
    if initial is not None:
        before = {name: initial.training.get(name) for name in ("recipe", "seed")}
        recipe["initial"] = {"version": initial.version, **before}
    return recipe if dataset is MNIST else {**recipe, "dataset": dataset.name}


def _checkpoint_of(
    network: Trainable,
    config: TrainConfig,
    recipe: dict[str, Any],
    dataset: Dataset,
    scores: Scores,
) -> AnyCheckpoint:
    training = {
        "dataset": dataset.name,
        "recipe": {name: value for name, value in recipe.items() if name != "seed"},
        "dropout_rates": list(config.dropout),
        "seed": config.seed,
        "data_md5": {name: dataset.md5[name] for name in FILES["train"]},
    }
    measured = {name: getattr(scores, name) for name in ("images", "error", "nll", "ece")}
    return AnyCheckpoint(network.to_network(), training=training, metrics={"validation": measured})


def _finished(recipe: dict[str, Any], files: RunFiles) -> AnyCheckpoint:
    """The checkpoint of a finished run with this recipe."""
    try:
        checkpoint = load_any_checkpoint(files.checkpoint)
    except CheckpointError as error:
        raise TrainingError(f"{files.checkpoint} exists and is no finished run: {error}") from error
    made = {**checkpoint.training.get("recipe", {}), "seed": checkpoint.training.get("seed")}
    files.require_recipe(recipe, made)
    return checkpoint
