"""The recipe: distorted digits, dropout, AdamW with a one-cycle schedule, averaged weights.

A run is a function of its settings and seed. Whatever is random in an epoch is drawn from the seed
and the epoch's number, so an interrupted run that is resumed ends with the bytes of one that was
not.
"""

import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.digits.preprocessing import normalise
from model.errors import CheckpointError
from model.files import write_atomically
from model.network import MLP, MLPConfig, round_rate
from model.sampling.masks import draw_masks
from training.config import TrainConfig
from training.data import FILES, MNIST, Images
from training.epochs import (
    DROPOUT,
    INPUT_DROPOUT,
    WEIGHTS,
    Epoch,
    FreshImages,
    make_epochs,
    outliers_per_batch,
    stream_seed,
)
from training.errors import TrainingError
from training.metrics import Scores, score
from training.optimisation import build_optimiser, build_schedule, initialise
from training.regularisers import (
    best_epoch,
    cap_norms,
    drop_inputs,
    keep_inputs,
    patience_has_ended,
    weight_penalty,
)
from training.teacher import Teacher
from training.views import Views

# A row of the history: what was measured after an epoch.
Row = Mapping[str, Any]

# Without a teacher these change nothing, and are not part of a recipe.
TEACHER_SETTINGS = {"views", "distillation_weight", "distillation_temperature"}


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, beside one another."""

    checkpoint: Path

    @property
    def history(self) -> Path:
        """One JSON object per epoch."""
        return self.checkpoint.with_name(f"{self.checkpoint.name}.history.jsonl")

    @property
    def state(self) -> Path:
        """What `--resume` continues from; there only while the run is unfinished."""
        return self.checkpoint.with_name(f"{self.checkpoint.name}.state")

    def clear_abandoned(self) -> None:
        """Removes what a killed run had half written; it was never seen under its name."""
        for path in (self.checkpoint, self.state):
            for half_written in path.parent.glob(f".{path.name}.*"):
                half_written.unlink()


@dataclass
class Run:
    """Everything that changes while training."""

    network: MLP
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    epoch: int = 0  # epochs finished
    losses: list[float] = field(default_factory=list)  # on the validation images, per epoch
    best: dict[str, Tensor] | None = None  # averaged weights of the best epoch, for `patience`


def train(
    config: TrainConfig,
    images: Images,
    output: Path,
    *,
    device: torch.device,
    resume: bool = False,
    teacher: Teacher | None = None,
    measure: Callable[[MLP], Row] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
) -> Checkpoint:
    """Trains a network and saves it.

    Args:
        config: the recipe.
        images: the training set; the last `config.validation_images` are held out.
        output: where the checkpoint goes; the history lies beside it.
        device: what computes.
        resume: continue the interrupted run at `output`, or begin where there is none.
        teacher: whose opinions of the distorted images the network learns, too.
        measure: what else to put into the history after each epoch, from the averaged network.
        on_epoch: is told each row of the history; without it a progress bar is shown.

    Returns:
        The saved checkpoint.

    Raises:
        TrainingError: `output` holds an unfinished run and `resume` is false, or a run with other
            settings.
    """
    files = RunFiles(output)
    recipe = recipe_of(config, teacher)
    if images.dataset is not MNIST:
        recipe["dataset"] = images.dataset.name
    if resume and not files.state.exists() and output.exists():
        return _finished(recipe, output)
    if not resume and files.state.exists():
        raise TrainingError(
            f"{output} has an unfinished run: add --resume to continue it, or delete {files.state}"
        )

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
    training, validation = images[:held_out], images[held_out:]
    training = training[: config.training_images or None]
    files.clear_abandoned()
    run = _start(config, training, device)
    if resume and files.state.exists():
        _restore(run, recipe, files)
    else:
        files.history.parent.mkdir(parents=True, exist_ok=True)
        files.history.write_text("")

    with nullcontext(on_epoch) if on_epoch else _progress(config, run.epoch) as show:
        source = Views(config, training, teacher) if teacher else FreshImages(config, training)
        for epoch in make_epochs(source, run.epoch, config.epochs, device):
            if patience_has_ended(run.losses, config.patience):
                break
            started = time.perf_counter()
            loss, accuracy = _train_epoch(run, config, epoch)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became infinite in epoch {run.epoch + 1}: lower --learning-rate"
                )
            run.epoch += 1
            scores = evaluate_network(_averaged_network(run), validation)
            _remember(run, config, scores.nll)
            row = {
                "epoch": run.epoch,
                "train_loss": loss,
                "train_accuracy": accuracy,
                "validation_loss": scores.nll,
                "validation_accuracy": 1 - scores.error,
                "seconds": round(time.perf_counter() - started, 2),
                **(measure(_averaged_network(run)) if measure else {}),
            }
            _save_state(run, recipe, files, row)
            show(row)

    network = _averaged_network(run)
    if run.best is not None:
        network.load_state_dict(run.best)
    scores = evaluate_network(network, validation)
    checkpoint = Checkpoint(
        network,
        training={
            "dataset": images.dataset.name,
            "recipe": {name: value for name, value in recipe.items() if name != "seed"},
            "dropout_rates": list(config.dropout),
            "seed": config.seed,
            "data_md5": {name: images.dataset.md5[name] for name in FILES["train"]},
        },
        metrics={
            "validation": {
                "images": scores.images,
                "error": scores.error,
                "nll": scores.nll,
                "ece": scores.ece,
            }
        },
    )
    save_checkpoint(output, checkpoint)
    files.state.unlink(missing_ok=True)
    return load_checkpoint(output)


def evaluate_network(network: MLP, images: Images) -> Scores:
    """Scores of the network's deterministic answers."""
    with torch.inference_mode():
        device = next(network.parameters()).device
        logits = network(normalise(images.pixels, network.config).to(device))
        return score(logits.softmax(dim=1).cpu(), torch.from_numpy(images.labels))


def _start(config: TrainConfig, training: Images, device: torch.device) -> Run:
    scaled = training.pixels / np.float32(255)
    network_config = MLPConfig(
        dropout_rates=config.rounded_rates(),
        labels=training.dataset.labels,
        mean=round(float(scaled.mean(dtype=np.float64)), 4),
        std=round(float(scaled.std(dtype=np.float64)), 4),
        activation=config.activation,
    )
    if config.normalisation == "none":
        network_config = replace(network_config, mean=0.0, std=1.0)
    network = MLP(network_config)
    initialise(network, config, torch.Generator().manual_seed(stream_seed(config.seed, WEIGHTS)))
    network.to(device)
    optimizer = build_optimiser(network, config)
    steps = config.epochs * (len(training) // config.batch_size)
    schedule = build_schedule(optimizer, config, steps=steps)
    average = get_ema_multi_avg_fn(config.averaging)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=average)
    return Run(network, averaged, optimizer, schedule)


def _train_epoch(run: Run, config: TrainConfig, epoch: Epoch) -> tuple[float, float]:
    """One pass over the images.

    Returns:
        Mean loss, without penalties, and accuracy: both with dropout on, and of the weights as they
        were at each step.
    """
    pixels, labels, opinions, outliers = epoch
    B, M = config.batch_size, outliers_per_batch(config)
    steps = len(labels) // B
    device = labels.device
    dropout_seed = stream_seed(config.seed, DROPOUT)
    input_seed = stream_seed(config.seed, INPUT_DROPOUT)
    input_rate = round_rate(config.input_dropout)
    network = run.network
    weights = [layer.weight for layer in network.layers if isinstance(layer, nn.Linear)]
    network_config = network.config
    total_loss = torch.zeros((), device=device)
    total_correct = torch.zeros((), device=device, dtype=torch.int64)
    for step in range(steps):
        rows = slice(step * B, (step + 1) * B)
        batch = pixels[rows]
        if outliers is not None:
            batch = torch.cat([batch, outliers[step * M : (step + 1) * M].to(batch.dtype)])
        x = (batch.flatten(1) / 255 - network_config.mean) / network_config.std
        # Every image of the run has a mask of its own: its number counts the generator.
        number = (run.epoch * steps + step) * len(x)
        masks = [
            mask.to(device)
            for mask in draw_masks(network_config, dropout_seed, len(x), first_pass=number)
        ]
        if input_rate > 0:
            keep = keep_inputs(input_rate, input_seed, *x.shape, first_image=number)
            x = drop_inputs(x, keep.to(device), input_rate)
        logits, doubts = network(x, masks).split([B, len(x) - B])
        opinion = None if opinions is None else opinions[rows]
        loss = _loss(logits, labels[rows], opinion, config)
        objective = loss
        if len(doubts) > 0:
            # Cross-entropy with the uniform distribution: outlier exposure, Hendrycks et al. 2019.
            objective = loss - config.outlier_weight * doubts.log_softmax(dim=1).mean()
        if config.l1 > 0 or config.l2 > 0:
            objective = objective + weight_penalty(weights, l1=config.l1, l2=config.l2)
        run.optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        if config.max_norm > 0:
            for weight in weights[:-1]:
                cap_norms(weight, config.max_norm)
        run.schedule.step()
        run.averaged.update_parameters(network)
        total_loss += loss.detach()
        total_correct += (logits.argmax(dim=1) == labels[rows]).sum()
    return float(total_loss) / steps, int(total_correct) / (steps * B)


def _loss(logits: Tensor, labels: Tensor, opinion: Tensor | None, config: TrainConfig) -> Tensor:
    """Cross-entropy with the labels, and with the teacher's softened probabilities.

    With t the distillation temperature the teacher's part is t^2 CE(softmax(opinion / t),
    softmax(logits / t)), Hinton et al. 2015, section 2: t^2 keeps its gradient's size.
    """
    loss = nn.functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if opinion is None:
        return loss
    t, share = config.distillation_temperature, config.distillation_weight
    soft = nn.functional.cross_entropy(logits / t, (opinion / t).softmax(dim=1))
    return (1 - share) * loss + share * t**2 * soft


def _averaged_network(run: Run) -> MLP:
    network = run.averaged.module
    assert isinstance(network, MLP)
    return network


def _remember(run: Run, config: TrainConfig, validation_loss: float) -> None:
    """Keeps the loss of an epoch and, where patience asks for it, the best epoch's weights."""
    run.losses.append(validation_loss)
    if config.patience > 0 and best_epoch(run.losses) == run.epoch:
        run.best = {
            name: tensor.clone() for name, tensor in _averaged_network(run).state_dict().items()
        }


@contextmanager
def _progress(config: TrainConfig, finished: int) -> Iterator[Callable[[Row], None]]:
    with tqdm(total=config.epochs, initial=finished, unit="epoch", desc="training") as bar:

        def show(row: Row) -> None:
            bar.write(
                f"epoch {row['epoch']:3d}  "
                f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.4f}  "
                f"validation loss {row['validation_loss']:.4f} "
                f"accuracy {row['validation_accuracy']:.4f}",
                file=sys.stderr,
            )
            bar.update()

        yield show


def recipe_of(config: TrainConfig, teacher: Teacher | None = None) -> dict[str, Any]:
    """Every setting that makes a difference, the seed and the teacher included."""
    recipe = config.recipe()
    if teacher is None:
        for name in TEACHER_SETTINGS:
            del recipe[name]
    else:
        recipe["teacher"] = list(teacher.cards)
    return recipe


def _save_state(run: Run, recipe: dict[str, Any], files: RunFiles, row: Row) -> None:
    with files.history.open("a") as history:
        history.write(json.dumps(row) + "\n")
    state = {
        "recipe": recipe,
        "epoch": run.epoch,
        "losses": run.losses,
        "best": run.best,
        "network": run.network.state_dict(),
        "averaged": run.averaged.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(files.state, buffer.getvalue())


def _restore(run: Run, recipe: dict[str, Any], files: RunFiles) -> None:
    state = torch.load(files.state, weights_only=True, map_location="cpu")
    _require_same_recipe(recipe, state["recipe"], files.checkpoint)
    run.epoch = state["epoch"]
    run.losses = state["losses"]
    run.best = state["best"]
    run.network.load_state_dict(state["network"])
    run.averaged.load_state_dict(state["averaged"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    # An epoch whose state was never saved may have left its row.
    rows = files.history.read_text().splitlines()[: run.epoch] if files.history.exists() else []
    files.history.write_text("".join(row + "\n" for row in rows))


def _finished(recipe: dict[str, Any], output: Path) -> Checkpoint:
    try:
        checkpoint = load_checkpoint(output)
    except CheckpointError as error:
        raise TrainingError(f"{output} exists and is no finished run: {error}") from error
    made = {**checkpoint.training["recipe"], "seed": checkpoint.training["seed"]}
    _require_same_recipe(recipe, made, output)
    return checkpoint


def _require_same_recipe(wanted: dict[str, Any], found: dict[str, Any], output: Path) -> None:
    different = sorted(
        key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)
    )
    if different:
        raise TrainingError(
            f"the run at {output} has other settings ({', '.join(different)}): "
            "repeat them, or choose another --output"
        )
