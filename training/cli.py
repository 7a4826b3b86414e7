"""The command line of training: `dropserve-train`, also `python -m training`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from model.errors import CheckpointError, ModelError
from training.config import CalibrationRules, TeacherConfig, TrainConfig
from training.errors import TrainingError

# What fits and draws, and is not needed to train or to serve.
_TRAIN_EXTRA = ("matplotlib", "scipy", "sklearn")
Config = TypeVar("Config", TrainConfig, TeacherConfig, CalibrationRules)
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    options = build_parser().parse_args(arguments)
    try:
        options.command(options)
    except (TrainingError, ModelError, OSError) as error:
        print(f"dropserve-train: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE if isinstance(error, CheckpointError) else EXIT_FAILED)
    except ModuleNotFoundError as error:
        if error.name not in _TRAIN_EXTRA:
            raise
        print(
            f"dropserve-train: {error.name} is not installed; "
            "pip install 'dropserve[train]' brings what this command needs",
            file=sys.stderr,
        )
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        print(f"\ndropserve-train: interrupted{_hint(options.command)}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(EXIT_OK)


def config_from(options: argparse.Namespace, kind: type[Config]) -> Config:
    """The settings that were given, or their defaults."""
    values: dict[str, Any] = {each.name: getattr(options, each.name) for each in fields(kind)}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    return kind(**values)


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options; reading them needs no torch."""
    parser = argparse.ArgumentParser(
        prog="dropserve-train", description="Train and evaluate the digit network."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network and save its checkpoint",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.set_defaults(command=_train)
    _add_run_arguments(train, Path("runs/mnist.safetensors"), TrainConfig)
    train.add_argument(
        "--dataset",
        choices=("mnist", "fashion-mnist", "kmnist"),
        default="mnist",
        help="the images to train on",
    )
    train.add_argument(
        "--teacher",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="networks to learn from besides the labels: files of dropserve-train teacher, "
        "or checkpoints",
    )

    teacher = commands.add_parser(
        "teacher",
        help="train a convolutional network for the digit network to learn from",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    teacher.set_defaults(command=_train_teacher)
    _add_run_arguments(teacher, Path("runs/teacher.safetensors"), TeacherConfig)

    calibrate = commands.add_parser(
        "calibrate",
        help="fit serving rates, temperatures, thresholds and prediction sets",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    calibrate.set_defaults(command=_calibrate)
    _add_data_dir(calibrate)
    calibrate.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("runs/mnist.safetensors"),
        help="the checkpoint to calibrate",
    )
    calibrate.add_argument(
        "--output", type=Path, help="where the calibrated one goes; without it the same file"
    )
    for rule in fields(CalibrationRules):
        calibrate.add_argument(
            f"--{rule.name.replace('_', '-')}",
            type=float,
            default=rule.default,
            help=rule.metadata["help"],
        )

    compare = commands.add_parser(
        "compare",
        help="train the network with and without dropout, all else equal",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    compare.set_defaults(command=_compare)
    compare.add_argument(
        "--preset",
        choices=("article", "relu"),
        default="relu",
        help="the article's own linear network, or the same with ReLU",
    )
    _add_experiment_arguments(compare, seeds=3)

    regularisers = commands.add_parser(
        "regularisers",
        help="train the network with each regulariser in turn",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    regularisers.set_defaults(command=_regularisers)
    _add_experiment_arguments(regularisers, seeds=3)

    sweep = commands.add_parser(
        "sweep",
        help="train the network with more and less dropout, on more and fewer images",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    sweep.set_defaults(command=_sweep)
    _add_experiment_arguments(sweep, seeds=2)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a checkpoint on the test images and write a report",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    evaluate.set_defaults(command=_evaluate)
    _add_data_dir(evaluate)
    evaluate.add_argument(
        "--checkpoint", type=Path, help="the checkpoint to score; without it the default one"
    )
    evaluate.add_argument(
        "--output", type=Path, default=Path("runs/report"), help="folder of the report"
    )
    evaluate.add_argument("--against", type=Path, help="a checkpoint to compare with")
    evaluate.add_argument(
        "--also", type=Path, nargs="+", default=[], help="checkpoints of other seeds: their spread"
    )
    evaluate.add_argument("--card", type=Path, help="where to write the model card, if anywhere")
    evaluate.add_argument(
        "--quick", action="store_true", help="print the scores and write no report"
    )
    evaluate.add_argument("--passes", type=int, default=50, help="stochastic passes per image")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the dropout masks")
    return parser


def _add_run_arguments(
    parser: argparse.ArgumentParser, output: Path, config: type[TrainConfig | TeacherConfig]
) -> None:
    _add_data_dir(parser)
    parser.add_argument("--output", type=Path, default=output, help="the file to write")
    parser.add_argument(
        "--resume", action="store_true", help="continue the interrupted run at --output"
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, or auto: a GPU where there is one"
    )
    for field in fields(config):
        kind: dict[str, Any] = {
            "type": type(field.default),
            "choices": field.metadata.get("choices"),
        }
        if isinstance(field.default, tuple):
            kind = {"type": float, "nargs": len(field.default), "metavar": "RATE"}
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            default=field.default,
            help=field.metadata["help"],
            **kind,
        )


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder with the four IDX files; without it they are downloaded",
    )


def _add_experiment_arguments(parser: argparse.ArgumentParser, *, seeds: int) -> None:
    _add_data_dir(parser)
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/experiments"),
        help="folder of finished runs: what is there is not trained again",
    )
    parser.add_argument(
        "--figures", type=Path, default=Path("runs/figures"), help="folder for the figures"
    )
    parser.add_argument("--seeds", type=_at_least_1, default=seeds, help="runs of each setting")
    parser.add_argument(
        "--epochs", type=_at_least_1, help="epochs of each run; without it the experiment's own"
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, or auto: a GPU where there is one"
    )


def _at_least_1(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _hint(command: Any) -> str:
    """How an interrupted command is continued."""
    if command in (_train, _train_teacher):
        return "; add --resume to continue"
    if command in (_compare, _regularisers, _sweep):
        return "; run it again to continue"
    return ""


def _train(options: argparse.Namespace) -> None:
    from training.data import DATASETS, load_images
    from training.teacher import load_teacher
    from training.train import train

    device = _device(options.device)
    checkpoint = train(
        config_from(options, TrainConfig),
        load_images("train", options.data_dir, DATASETS[options.dataset]),
        options.output,
        device=device,
        resume=options.resume,
        teacher=load_teacher(options.teacher, device) if options.teacher else None,
    )
    error = checkpoint.metrics["validation"]["error"]
    print(f"{options.output}: version {checkpoint.version}, validation error {error:.2%}")


def _train_teacher(options: argparse.Namespace) -> None:
    from training.convnet import train_convnet
    from training.data import load_images

    network = train_convnet(
        config_from(options, TeacherConfig),
        load_images("train", options.data_dir),
        options.output,
        device=_device(options.device),
        resume=options.resume,
    )
    version, error = network.card["version"], network.card["validation_error"]
    print(f"{options.output}: version {version}, validation error {error:.2%}")


def _calibrate(options: argparse.Namespace) -> None:
    from training.calibrate import calibrate

    _use_one_thread()
    rules = config_from(options, CalibrationRules)
    output = options.output or options.checkpoint
    checkpoint = calibrate(options.checkpoint, output, options.data_dir, rules)
    (rate, *_) = checkpoint.network.config.dropout_rates
    scores = checkpoint.metrics["calibrated_validation"]["mc"]
    print(
        f"{output}: version {checkpoint.version}, serving rate {rate:.3f}, "
        f"validation error {scores['error']:.2%}, ECE {scores['ece']:.4f}"
    )


def _compare(options: argparse.Namespace) -> None:
    from training.compare import PRESETS, compare

    compare(PRESETS[options.preset], options.preset, _experiment(options))


def _regularisers(options: argparse.Namespace) -> None:
    from training.side_by_side import compare_regularisers

    compare_regularisers(_experiment(options))


def _sweep(options: argparse.Namespace) -> None:
    from training.sweep import sweep

    sweep(_experiment(options))


def _experiment(options: argparse.Namespace) -> Any:
    from training.grid import Experiment

    return Experiment(
        data_dir=options.data_dir,
        runs=options.runs,
        figures=options.figures,
        seeds=options.seeds,
        epochs=options.epochs,
        device=_device(options.device),
    )


def _evaluate(options: argparse.Namespace) -> None:
    from training.evaluate import EvaluateOptions, evaluate

    _use_one_thread()
    evaluate(
        EvaluateOptions(
            options.checkpoint,
            options.output,
            options.data_dir,
            passes=options.passes,
            seed=options.seed,
            against=options.against,
            also=options.also,
            card=options.card,
            is_quick=options.quick,
        )
    )


def _use_one_thread() -> None:
    import torch

    # More threads would not help at this size, and their number would change the low bits.
    torch.set_num_threads(1)


def _device(name: str) -> Any:
    import torch

    _use_one_thread()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        raise TrainingError(f"there is no device {name} here; try --device auto") from error
    return device
