"""Every option of the commands, declared once: type, default, help text and range.

The command line is made from these classes (`training.cli`); nothing here imports torch.
"""

import re
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from model.literals import Precision
from training.errors import TrainingError
from training.options import Checked, about, option, setting

# Options that several commands have.
_DATA_DIR = about("folder with the four IDX files; without it they are downloaded")
_DEVICE = about("cpu, cuda, or auto: a GPU where there is one")


# Of Gal and Ghahramani 2016's LeNet: dropout before the last layer only, the usual way.
RATES = {"mlp": (0.2, 0.2, 0.2), "lenet": (0.0, 0.0, 0.5)}


@dataclass(frozen=True)
class TrainConfig(Checked):
    """The recipe of one run; README.md says which settings made the committed checkpoint.

    The rates of dropout are rounded to multiples of 1/256.
    """

    epochs: int = setting(300, "passes over the training images", 1, 100_000, group="training")
    batch_size: int = setting(256, "images per step", 1, 60_000)
    learning_rate: float = setting(3e-3, "largest learning rate of the schedule", 0, 10)
    weight_decay: float = setting(0.02, "decoupled weight decay of AdamW; SGD has none", 0, 10)
    dropout: tuple[float, ...] = setting(
        (),
        "probability of zeroing a unit, per hidden layer (0.2 0.2 0.2; lenet: 0 0 0.5)",
        0,
        0.99,
        kind=float,
        metavar="RATE",
    )
    label_smoothing: float = setting(0.0, "probability spread over all classes", 0, 0.99)
    averaging: float = setting(0.999, "decay of the weights' average, which is saved", 0, 0.999999)
    validation_images: int = setting(5000, "images held out of training", 1, 59_999)
    seed: int = setting(0, "determines weights, order, augmentation and dropout", 0, 2**53 - 1)
    rotation: float = setting(12.0, "largest rotation, degrees", 0, 180, group="augmentation")
    scale: float = setting(0.15, "largest change of size per axis, a share", 0, 0.9)
    shear: float = setting(0.15, "largest shear, as a share of the height", 0, 2)
    shift: float = setting(1.5, "largest shift per axis, pixels", 0, 14)
    elastic: float = setting(1.2, "deviation of elastic displacements, pixels", 0, 14)
    relax: float = setting(0.15, "share of the epochs, at the end, of fading augmentation", 0, 1)
    relax_to: float = option(0.0, "strength of the augmentation at the end; 1: no fading", 0, 1)
    augmentation: float = option(1.0, "strength of all augmentation; 0: none", 0, 1)
    corruption: float = option(0.0, "share of the images with noise, blur, dots, lines, ...", 0, 1)
    outliers: float = option(
        0.0, "images that are not digits, made from digits, per digit", 0, 10, group="outliers"
    )
    outlier_weight: float = option(0.5, "weight of the outliers in the loss", 0, 100)
    disagreement: float = option(0.0, "of passes about outliers; 0: each is uncertain", 0, 2)
    outlier_passes: int = option(8, "with --disagreement: passes of each outlier and step", 2, 64)
    plain_outlier_weight: float = option(
        0.0, "weight of the outliers without dropout in the loss", 0, 100
    )
    pool_share: float = option(0.75, "with --pool: share of the outliers that it gives", 0, 1)
    views: int = setting(80, "distorted copies of each image", 1, 100_000, group="with --teacher")
    distillation_weight: float = setting(0.9, "the teacher's weight in the loss", 0, 1)
    distillation_temperature: float = setting(
        2.0, "softens the teacher's probabilities and the network's alike", 0.1, 100
    )
    l1: float = option(
        0.0, "this times the sum of the weights' absolute values", 0, 1, group="regularisers"
    )
    l2: float = option(0.0, "half of this times the sum of the weights' squares", 0, 1)
    max_norm: float = option(
        0.0, "largest norm of a hidden unit's incoming weights, after each step; 0: any", 0, 1000
    )
    input_dropout: float = option(0.0, "probability of zeroing a pixel in training", 0, 0.99)
    patience: int = option(
        0, "end after N epochs without a lower validation loss, keep the best; 0: never", 0, 100_000
    )
    optimiser: str = option(
        "adamw", "what turns gradients into steps", choices=("adamw", "sgd"), group="experiments"
    )
    precision: str = option("float32", "of matrix products", choices=get_args(Precision))
    momentum: float = option(0.0, "momentum of SGD", 0, 0.9999)
    schedule: str = option("one-cycle", "of the learning rate", choices=("one-cycle", "constant"))
    initialisation: str = option(
        "he", "initial weights: He normal or Glorot uniform", choices=("he", "glorot")
    )
    activation: Literal["relu", "linear"] = option(
        "relu", "of the hidden units; linear has none", choices=("relu", "linear")
    )
    normalisation: str = option(
        "standard", "of pixels: mean 0 and deviation 1, or none", choices=("standard", "none")
    )
    training_images: int = option(0, "train on the first N images only; 0: on all", 0, 60_000)
    network: str = option(
        "mlp", "mlp: 784-512-256-128-10; lenet: convolutions", choices=tuple(RATES)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dropout", self.dropout or RATES[self.network])
        if len(self.dropout) != len(RATES[self.network]):
            raise TrainingError(f"--dropout takes {len(RATES[self.network])} rates")
        if self.momentum > 0 and self.optimiser != "sgd":
            raise TrainingError("--momentum is for --optimiser sgd; leave it out, or add that")

    def recipe(self) -> dict[str, Any]:
        """The settings as JSON has them, without the options that are off."""
        recipe = asdict(self)
        for each in fields(self):
            if each.metadata["recorded"] == "if on" and recipe[each.name] == each.default:
                del recipe[each.name]
        return {**recipe, "dropout": list(self.dropout)}


@dataclass(frozen=True)
class TeacherConfig(Checked):
    """The recipe of a teacher; its augmentation is the default one of `TrainConfig`."""

    epochs: int = setting(36, "passes over the training images")
    batch_size: int = setting(256, "images per step")
    learning_rate: float = setting(2e-3, "largest learning rate of the one-cycle schedule")
    weight_decay: float = setting(0.02, "decoupled weight decay of AdamW")
    validation_images: int = setting(5000, "images held out, the same as in training the student")
    seed: int = setting(0, "determines weights, order, augmentation and dropout")

    def for_images(self) -> TrainConfig:
        """Settings for `FreshImages`: those of a digit network for the same epochs and seed."""
        return TrainConfig(epochs=self.epochs, batch_size=self.batch_size, seed=self.seed)


@dataclass(frozen=True)
class PoolOptions(Checked):
    """What is drawn for `train --pool`."""

    data_dir: Path | None = field(default=None, metadata=_DATA_DIR)
    output: Path = field(
        default=Path("runs/outliers.safetensors"), metadata=about("the file to write")
    )
    count: int = setting(16_000, "images for training, of all kinds together", 1, 1_000_000)
    digits: int = setting(
        0, "digits that MNIST hardly has, such as ones with a flag, to learn as well", 0, 100_000
    )
    kept_back: int = setting(500, "images of each kind that only calibration sees", 1, 100_000)
    validation_images: int = setting(5000, "images held out, the same as in training", 1, 59_999)
    seed: int = setting(0, "determines every image", 0, 2**53 - 1)


@dataclass(frozen=True)
class CalibrationRules(Checked):
    """What `calibrate` may trade for what; all of it concerns the validation digits.

    A lower threshold rejects more unfamiliar images, and more digits.
    """

    abstaining_share: float = setting(0.03, "share of the digits that may be rejected", 0, 0.999999)
    unfamiliar_share: float = setting(
        0.01, "of these, share that passes may reject by disagreeing", 0, 0.999999
    )
    accepted_error: float = setting(0.002, "largest error among accepted answers", 0, 0.999999)
    confidence: float = setting(0.95, "confidence of every bound", 0, 0.999999)
    settling_share: float = setting(
        0.0035, "share of digits whose decision until=decision may change", 0, 0.999999
    )
    settling_outlier_share: float = setting(0.01, "the same of kept-back outliers", 0, 0.999999)


@dataclass(frozen=True)
class RunOptions:
    """Where a run reads and writes, and what computes."""

    data_dir: Path | None = field(default=None, metadata=_DATA_DIR)
    output: Path = field(
        default=Path("runs/mnist.safetensors"), metadata=about("the file to write")
    )
    resume: bool = setting(False, "continue the interrupted run at --output")
    device: str = field(default="auto", metadata=_DEVICE)


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """What a digit network learns from."""

    dataset: str = setting(
        "mnist", "the images to train on", choices=("mnist", "fashion-mnist", "kmnist")
    )
    teacher: tuple[Path, ...] = setting(
        (), "teachers: files of dropserve-train teacher, or checkpoints", metavar="FILE"
    )
    pool: Path | None = field(
        default=None, metadata=about("with --outliers: a file of dropserve-train outliers")
    )
    initial: Path | None = field(
        default=None, metadata=about("a checkpoint of an MLP, to go on from its weights")
    )


def model_name(text: str) -> str:
    """A name as servers and paths take it, or what argparse takes for wrong usage."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", text):
        raise ValueError
    return text


def ratio(text: str) -> float:
    """A number, which may be written as 1/255."""
    return float(Fraction(text))


@dataclass(frozen=True)
class ImportOptions(Checked):
    """Which file is imported, and what its inputs and classes are."""

    file: Path = field(
        default=Path("network.keras"),
        metadata=about("a .keras, .h5, .pt2, .safetensors or .pt file", is_positional=True),
    )
    output: Path = field(
        default=Path("runs/imported.safetensors"), metadata=about("the checkpoint to write")
    )
    name: str = setting("", "the network's name in answers; without it the file's", metavar="NAME")
    labels: tuple[str, ...] = setting(
        (), "names of the classes; without it 0, 1, ...", kind=str, metavar="LABEL"
    )
    preparation: str = setting(
        "none",
        "digit: find the digit in any picture and make MNIST's 28x28 pixels of it",
        choices=("digit", "none"),
    )
    dtype: str = setting("float32", "what requests send", choices=("uint8", "float32"))
    scale: float | None = setting(
        None, "inputs are multiplied by it; with --preparation digit it is 1/255", kind=ratio
    )
    mean: tuple[float, ...] = setting(
        (), "subtracted after scaling: one number, or one per channel", kind=ratio, metavar="X"
    )
    std: tuple[float, ...] = setting((), "divided by, as --mean", kind=ratio, metavar="X")
    layers: tuple[str, ...] = setting(
        (),
        "of a state dict: its modules and functions in order, such as fc1 relu dropout:0.5 fc2",
        kind=str,
        metavar="LAYER",
    )
    input_shape: tuple[int, ...] = setting(
        (), "of a state dict: the shape of one input, such as 1 28 28", kind=int, metavar="SIZE"
    )
    check: Path | None = field(
        default=None, metadata=about("an .npz file with inputs and the library's outputs")
    )


@dataclass(frozen=True)
class CalibrateOptions:
    """Which checkpoint is calibrated, and where to."""

    data_dir: Path | None = field(default=None, metadata=_DATA_DIR)
    checkpoint: Path = field(
        default=Path("runs/mnist.safetensors"), metadata=about("the checkpoint to calibrate")
    )
    output: Path | None = field(
        default=None, metadata=about("where the calibrated one goes; without it the same file")
    )
    images: Path | None = field(
        default=None,
        metadata=about(
            "an .npz file with the arrays inputs and labels, which the network was not trained on; "
            "without it MNIST's validation images"
        ),
    )
    pool: Path | None = field(
        default=None, metadata=about("a file of dropserve-train outliers, to measure more kinds")
    )
    name: str | None = field(
        default=None,
        metadata=about("the model's name in answers; without it the data set's", kind=model_name),
    )


@dataclass(frozen=True)
class EvaluateOptions(Checked):
    """What is evaluated, and where the report goes."""

    checkpoint: Path | None = field(
        default=None, metadata=about("the checkpoint to score; without it the default one")
    )
    output: Path = field(default=Path("runs/report"), metadata=about("folder of the report"))
    data_dir: Path | None = field(default=None, metadata=_DATA_DIR)
    against: Path | None = field(default=None, metadata=about("a checkpoint to compare with"))
    also: tuple[Path, ...] = setting((), "checkpoints of other seeds: their spread")
    judges: tuple[Path, ...] = setting(
        (), "files of dropserve-train teacher that say which digits are ambiguous", metavar="FILE"
    )
    card: Path | None = field(
        default=None, metadata=about("where to write the model card, if anywhere")
    )
    quick: bool = setting(False, "print the scores and write no report")
    passes: int = setting(50, "stochastic passes per image", 2, 100_000)
    seed: int = setting(0, "seed of the dropout masks; image i has this plus i", 0, 2**52)


@dataclass(frozen=True)
class RotateOptions(Checked):
    """Which network sees the digit turn, and where the figure goes."""

    checkpoint: Path | None = field(
        default=None, metadata=about("any network of digits; without it the default one")
    )
    data_dir: Path | None = field(default=None, metadata=_DATA_DIR)
    figures: Path = field(default=Path("runs/figures"), metadata=about("folder for the figure"))
    passes: int = setting(100, "stochastic passes of each rotation", 2, 100_000)
    seed: int = setting(0, "seed of the dropout masks", 0, 2**52)


def at_least_1(text: str) -> int:
    """The number, or what argparse takes for wrong usage."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


@dataclass(frozen=True)
class Experiment:
    """How the commands that train many runs do it."""

    data_dir: Path | None = field(default=None, metadata=_DATA_DIR)
    runs: Path = field(
        default=Path("runs/experiments"),
        metadata=about("folder of finished runs: what is there is not trained again"),
    )
    figures: Path = field(default=Path("runs/figures"), metadata=about("folder for the figures"))
    seeds: int = setting(3, "runs of each setting", kind=at_least_1)
    epochs: int | None = setting(
        None, "epochs of each run; without it the experiment's own", kind=at_least_1
    )
    device: str = field(default="auto", metadata=_DEVICE)

    def seeded(self, config: TrainConfig) -> list[TrainConfig]:
        """The same settings with the seeds 0, 1, ..."""
        epochs = self.epochs or config.epochs
        return [replace(config, seed=seed, epochs=epochs) for seed in range(self.seeds)]


@dataclass(frozen=True)
class CompareOptions:
    """Which comparison."""

    preset: str = setting(
        "relu", "the article's linear network, or one with ReLU", choices=("article", "relu")
    )
