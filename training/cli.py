"""The command line of training: `dropserve-train`, also `python -m training`."""

import argparse
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from model.errors import CheckpointError, ModelError
from training.config import (
    CalibrateOptions,
    CalibrationRules,
    CompareOptions,
    EvaluateOptions,
    Experiment,
    ImportOptions,
    PoolOptions,
    RotateOptions,
    RunOptions,
    TeacherConfig,
    TrainConfig,
    TrainOptions,
)
from training.errors import TrainingError
from training.options import flag_of

# What trains, fits and draws, and is not needed to serve.
_TRAIN_EXTRA = (
    *("HersheyFonts", "cv2", "fontTools", "h5py", "matplotlib", "scipy", "sklearn", "torch"),
)
Config = TypeVar("Config")
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    options = build_parser().parse_args(arguments)
    command: Command = options.command
    try:
        run = pkgutil.resolve_name(command.run) if isinstance(command.run, str) else command.run
        run(*(config_from(options, kind) for kind in command.options))
    except (TrainingError, ModelError, OSError) as error:
        print(f"dropserve-train: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE if isinstance(error, CheckpointError) else EXIT_FAILED)
    except ModuleNotFoundError as error:
        if error.name not in _TRAIN_EXTRA:
            raise
        extra = "outliers" if error.name == "HersheyFonts" else "train"
        print(
            f"dropserve-train: {error.name} is not installed; "
            f"pip install 'dropserve[{extra}]' brings what this command needs",
            file=sys.stderr,
        )
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        print(f"\ndropserve-train: interrupted{command.to_continue}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(EXIT_OK)


def config_from(options: argparse.Namespace, kind: type[Config]) -> Config:
    """The settings that were given, or their defaults."""
    values = {each.name: getattr(options, each.name) for each in fields(kind)}  # type: ignore[arg-type]
    tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return kind(**{**values, **tuples})


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options; reading them needs no torch."""
    parser = argparse.ArgumentParser(
        prog="dropserve-train", description="Train and evaluate the digit network."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.help)
        added.set_defaults(command=command)
        for kind in command.options:
            group: Any = added
            for each in fields(kind):
                if each.metadata["group"]:
                    group = added.add_argument_group(each.metadata["group"])
                _add_option(group, each, command.defaults.get(each.name, each.default))
    return parser


def _add_option(parser: Any, setting: Any, default: Any) -> None:
    """One option from a field that `training.config.setting` made."""
    known, help = setting.metadata, setting.metadata["help"]
    if known["is_positional"]:
        parser.add_argument(setting.name, type=type(default), metavar="FILE", help=help)
        return
    if isinstance(default, bool):
        parser.add_argument(flag_of(setting.name), action="store_true", help=help)
        return
    arguments: dict[str, Any] = {"choices": known["choices"], "metavar": known["metavar"]}
    example = default
    if isinstance(default, tuple):
        arguments |= {"nargs": len(default) or "+"}
        example = default[0] if default else None
    if example is not None:
        help += f" (default: {default})"
    kind = known["kind"] or (Path if example is None else type(example))
    parser.add_argument(flag_of(setting.name), type=kind, default=default, help=help, **arguments)


def _train(options: TrainOptions, config: TrainConfig) -> None:
    from model.checkpoint import load_checkpoint
    from training.data import DATASETS, load_images
    from training.distil import load_teacher
    from training.pool import load_pool
    from training.runs import find_device
    from training.train import train

    if options.pool and (config.outliers == 0 or options.dataset != "mnist"):
        raise TrainingError("--pool is for MNIST with --outliers; leave it out, or add those")
    device = find_device(options.device)
    images = load_images("train", options.data_dir, DATASETS[options.dataset])
    teacher = load_teacher(options.teacher, device) if options.teacher else None
    if teacher is not None:
        print(f"the teacher's answers are kept in {teacher.folder}", file=sys.stderr)
    initial = load_checkpoint(options.initial) if options.initial else None
    if initial is not None and config.network != "mlp":
        raise TrainingError("--initial is for --network mlp; leave one of them out")
    checkpoint = train(
        config,
        images,
        options.output,
        device=device,
        resume=options.resume,
        teacher=teacher,
        pool=load_pool(options.pool) if options.pool else None,
        initial=initial,
    )
    error = checkpoint.metrics["validation"]["error"]
    print(f"{options.output}: version {checkpoint.version}, validation error {error:.2%}")


def _train_teacher(options: RunOptions, config: TeacherConfig) -> None:
    from training.data import load_images
    from training.distil import train_convnet
    from training.runs import find_device

    images = load_images("train", options.data_dir)
    device = find_device(options.device)
    network = train_convnet(config, images, options.output, device=device, resume=options.resume)
    version, error = network.card["version"], network.card["validation_error"]
    print(f"{options.output}: version {version}, validation error {error:.2%}")


def _make_pool(options: PoolOptions) -> None:
    from training.data import load_images
    from training.pool import load_pool, save_pool
    from training.pool.making import make_pool
    from training.runs import require_writable

    require_writable(options.output)
    save_pool(options.output, make_pool(load_images("train", options.data_dir), options))
    pool = load_pool(options.output)
    print(f"{options.output}: version {pool.version}, {len(pool.pixels()):,} images for training")


def _calibrate(options: CalibrateOptions, rules: CalibrationRules) -> None:
    from training.calibrate import calibrate
    from training.own_data import calibrate_on
    from training.runs import require_writable, use_one_thread

    use_one_thread()
    output = options.output or options.checkpoint
    require_writable(output)
    checkpoint = (
        calibrate(options, rules)
        if options.images is None
        else calibrate_on(options.images, options.checkpoint, output, rules)
    )
    scores = checkpoint.metrics["calibrated_validation"]
    print(
        f"{output}: version {checkpoint.version}, "
        f"validation error {scores['mc']['error']:.2%}, ECE {scores['mc']['ece']:.4f}"
    )
    for kind, row in scores["kept_back"].items():
        accepted = f", accepted {row['accepted']:.2%}" if "accepted" in row else ""
        print(
            f"{kind}: AUROC of entropy {row['entropy_auroc']:.4f}, of disagreement "
            f"{row['disagreement_auroc']:.4f}{accepted}"
        )


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        help: one line for the list of commands.
        run: gets an instance of each class of `options`; a name is imported when it is run.
        options: classes of `training.config`, whose fields are the command's options.
        to_continue: how an interrupted command is continued.
        defaults: of fields whose default differs from that of their class.
    """

    help: str
    run: Callable[..., None] | str
    options: tuple[type[Any], ...]
    to_continue: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


_RESUME, _AGAIN = "; add --resume to continue", "; run it again to continue"
COMMANDS = {
    "train": Command(
        "train a network and save its checkpoint", _train, (TrainOptions, TrainConfig), _RESUME
    ),
    "teacher": Command(
        "train a convolutional network for the digit network to learn from",
        _train_teacher,
        (RunOptions, TeacherConfig),
        _RESUME,
        {"output": Path("runs/teacher.safetensors")},
    ),
    "outliers": Command(
        "draw pictures that are no digits, for train --pool and calibrate --pool",
        _make_pool,
        (PoolOptions,),
    ),
    "calibrate": Command(
        "fit temperatures, thresholds and prediction sets",
        _calibrate,
        (CalibrateOptions, CalibrationRules),
    ),
    "import": Command(
        "make a checkpoint of a network of Keras or PyTorch",
        "training.importing.command:import_network",
        (ImportOptions,),
    ),
    "compare": Command(
        "train the network with and without dropout, all else equal",
        "training.experiments.compare:compare",
        (CompareOptions, Experiment),
        _AGAIN,
    ),
    "regularisers": Command(
        "train the network with each regulariser in turn",
        "training.experiments.regularisers:compare_regularisers",
        (Experiment,),
        _AGAIN,
    ),
    "sweep": Command(
        "train the network with more and less dropout, on more and fewer images",
        "training.experiments.sweep:sweep",
        (Experiment,),
        _AGAIN,
        {"seeds": 2},
    ),
    "rotate": Command(
        "draw the passes of a digit that turns, as figure 4 of Gal and Ghahramani 2016",
        "training.experiments.rotate:rotate_digit",
        (RotateOptions,),
    ),
    "evaluate": Command(
        "measure a checkpoint on the test images and write a report",
        "training.evaluate:evaluate",
        (EvaluateOptions,),
    ),
}
