"""Every setting of a training run, with its help text; the command line is made from this."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from training.errors import TrainingError


def setting(default: Any, help: str) -> Any:
    """A field with its help text, shown by `dropserve-train train --help`."""
    return field(default=default, metadata={"help": help})


def option(default: Any, help: str, choices: Sequence[str] | None = None) -> Any:
    """A setting that is off by default; a recipe records it only where it is on.

    So a new option leaves the recipes, and with them the bytes, of earlier runs as they were.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "optional": True})


# Anything else is a typing error, or trains nothing.
_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "batch_size": (1, 60_000),
    "learning_rate": (0, 10),
    "weight_decay": (0, 10),
    "dropout": (0, 0.99),
    "label_smoothing": (0, 0.99),
    "rotation": (0, 180),
    "scale": (0, 0.9),
    "shear": (0, 2),
    "shift": (0, 14),
    "elastic": (0, 14),
    "relax": (0, 1),
    "relax_to": (0, 1),
    "outliers": (0, 10),
    "outlier_weight": (0, 100),
    "averaging": (0, 0.999999),
    "validation_images": (1, 59_999),
    "views": (1, 100_000),
    "distillation_weight": (0, 1),
    "distillation_temperature": (0.1, 100),
    "seed": (0, 2**53 - 1),
    "l1": (0, 1),
    "l2": (0, 1),
    "max_norm": (0, 1000),
    "input_dropout": (0, 0.99),
    "patience": (0, 100_000),
    "momentum": (0, 0.9999),
    "augmentation": (0, 1),
    "training_images": (0, 60_000),
}


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of one run; README.md says which settings made the committed checkpoint."""

    epochs: int = setting(300, "passes over the training images")
    batch_size: int = setting(256, "images per step")
    learning_rate: float = setting(3e-3, "the largest one of the schedule")
    weight_decay: float = setting(0.02, "decoupled weight decay of AdamW; SGD has none")
    dropout: tuple[float, ...] = setting(
        (0.2, 0.2, 0.2),
        "probability of zeroing a unit, per hidden layer; rounded to a multiple of 1/256",
    )
    label_smoothing: float = setting(0.0, "probability spread over all classes in the target")
    rotation: float = setting(12.0, "augmentation: largest rotation, degrees")
    scale: float = setting(0.15, "augmentation: largest change of size per axis, as a share")
    shear: float = setting(0.15, "augmentation: largest shear, as a share of the height")
    shift: float = setting(1.5, "augmentation: largest shift per axis, pixels")
    elastic: float = setting(
        1.2, "augmentation: standard deviation of the elastic displacement, pixels"
    )
    relax: float = setting(
        0.15, "share of the epochs, at the end, over which the augmentation fades"
    )
    relax_to: float = option(0.0, "strength that the augmentation fades to; 1 is no fading")
    outliers: float = option(
        0.0, "images that are no digits, made from the digits, per digit that is trained on"
    )
    outlier_weight: float = option(
        0.5, "their share in the loss, which asks for equal probabilities of all classes"
    )
    averaging: float = setting(
        0.999, "decay per step of the averaged weights, which are what is saved"
    )
    validation_images: int = setting(
        5000, "images held out of training, for choosing and calibrating"
    )
    views: int = setting(
        80,
        "with --teacher: distorted copies of each image that it is asked about; epochs share them",
    )
    distillation_weight: float = setting(
        0.9, "with --teacher: its share in the loss; the rest is the labels'"
    )
    distillation_temperature: float = setting(
        2.0, "with --teacher: softens its probabilities and the network's alike"
    )
    seed: int = setting(0, "determines weights, order, augmentation and dropout")
    l1: float = option(0.0, "L1 penalty: this times the sum of the weights' absolute values")
    l2: float = option(0.0, "L2 penalty: half of this times the sum of the weights' squares")
    max_norm: float = option(
        0.0, "largest norm of the weights into a hidden unit, restored after each step; 0: any"
    )
    input_dropout: float = option(
        0.0, "probability of zeroing a pixel in training; rounded to a multiple of 1/256"
    )
    patience: int = option(
        0, "stop after so many epochs without a lower validation loss, keep the best; 0: never"
    )
    optimiser: str = option("adamw", "what turns gradients into steps", ("adamw", "sgd"))
    momentum: float = option(0.0, "momentum of SGD")
    schedule: str = option(
        "one-cycle", "how the learning rate moves through the run", ("one-cycle", "constant")
    )
    initialisation: str = option(
        "he", "initial weights: He normal or Glorot uniform", ("he", "glorot")
    )
    activation: Literal["relu", "linear"] = option(
        "relu", "of the hidden units; a linear network cannot be served", ("relu", "linear")
    )
    normalisation: str = option(
        "standard",
        "of pixels scaled to [0, 1]: to mean 0 and deviation 1, or none",
        ("standard", "none"),
    )
    augmentation: float = option(1.0, "strength of all augmentation; 0: none")
    training_images: int = option(0, "train on the first so many images only; 0: on all")

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not least <= value <= most:
                    flag = f"--{name.replace('_', '-')}"
                    raise TrainingError(f"{flag} must be from {least} to {most}, not {value}")
        for each in fields(self):
            choices = each.metadata.get("choices")
            if choices and getattr(self, each.name) not in choices:
                raise TrainingError(f"--{each.name} must be one of {', '.join(choices)}")
        if self.momentum > 0 and self.optimiser != "sgd":
            raise TrainingError("--momentum is for --optimiser sgd; leave it out, or add that")

    def recipe(self) -> dict[str, Any]:
        """The settings as JSON has them, without the options that are off."""
        recipe = asdict(self)
        for each in fields(self):
            if each.metadata.get("optional") and recipe[each.name] == each.default:
                del recipe[each.name]
        return {**recipe, "dropout": list(self.dropout)}

    def rounded_rates(self) -> tuple[float, ...]:
        """The dropout rates that the network really uses."""
        from model.network import round_rate  # here, since --help needs the fields and no torch

        return tuple(round_rate(rate) for rate in self.dropout)


@dataclass(frozen=True)
class TeacherConfig:
    """The recipe of a teacher; its augmentation is the default one of `TrainConfig`."""

    epochs: int = setting(36, "passes over the training images")
    batch_size: int = setting(256, "images per step")
    learning_rate: float = setting(2e-3, "the largest one of the one-cycle schedule")
    weight_decay: float = setting(0.02, "decoupled weight decay of AdamW")
    validation_images: int = setting(5000, "images held out, the same as in training the student")
    seed: int = setting(0, "determines weights, order, augmentation and dropout")

    def images(self) -> TrainConfig:
        """What `FreshImages` needs to know."""
        return replace(
            TrainConfig(), epochs=self.epochs, batch_size=self.batch_size, seed=self.seed
        )


@dataclass(frozen=True)
class CalibrationRules:
    """What `calibrate` may trade for what; all of it concerns the validation digits.

    Dropping more in serving than in training tells the unfamiliar apart better, and costs the
    digits likelihood. A lower threshold turns away more of the unfamiliar, and more digits.
    """

    nll_tolerance: float = setting(
        0.02, "by how much the serving rates may raise the MC answers' NLL, as a share of the least"
    )
    abstaining_share: float = setting(
        0.03, "share of the digits that may be turned away, so that the unfamiliar are too"
    )
    accepted_error: float = setting(
        0.002, "largest share of errors among accepted answers; more are turned away to keep it"
    )
    confidence: float = setting(0.95, "with which accepted errors are known to be that few")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < 1:
                option = f"--{name.replace('_', '-')}"
                raise TrainingError(f"{option} must be from 0 to less than 1, not {value}")
