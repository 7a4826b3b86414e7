"""Do operating points keep what they promise? `python -m tests.training.measure_operating_points`.

    ... target-errors    thresholds fitted on draws of 5,000 of 15,000 held-out digits, and on the
                         validation digits for the test digits
    ... until-decision   decisions that settled against those of 1,000 passes
    ... without-labels   expected against true accuracy, and the drift alarm, over shifted digits
    ... coverage-power   what `COVERAGE_POWER` does to validation digits under other shifts

All take `--checkpoint` and `--data-dir`; the last one also `--figure FILE.svg`.
"""

import argparse
import gzip
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint
from model.engines import build_engine
from model.literals import ENTROPY_BOUNDS
from model.sampling.settling import LOOKS
from model.uncertainty.calibration import (
    Calibration,
    apply_temperature,
    read_calibration,
    read_entropy_shares,
    read_settling,
)
from tests.training.shifts import OTHER_SHIFTS, SHIFTS, Shift
from training.answers import McAnswers, is_accepted, sample_all, sample_grid
from training.calibrate import PASSES, SEED
from training.config import CalibrationRules
from training.data import DATA_DIR_VARIABLE, Images, find_folder, load_images, parse_idx
from training.operating_points import entropy_shares, target_point
from training.selection import upper_bound
from training.settling import Answers, disagreements, looks_before

TARGETS = (0.001, 0.002, 0.005, 0.01)
DRAWS, DRAWN = 1000, 5000
MOST_PASSES = 1000
MANY = 20
WINDOWS, WINDOW = 1000, 500
ALARM = 0.1
LEAST_NATS = 0.05
# Confidence sees few of the errors that a shift brings among accepted answers, and fewer the more
# of the answers it makes the network abstain from: the expected number of errors is divided by this
# power of the accepted share. See `coverage-power`; the alert rules and the dashboard do the same.
COVERAGE_POWER = 1.5

Flags = NDArray[np.bool_]


def scores_of(found: McAnswers, labels: NDArray[Any]) -> tuple[Array, Flags]:
    """What thresholds are fitted on: the scores, and what is wrong."""
    return found.predictive_entropy, found.mean.argmax(axis=1) != labels


def report_target_errors(
    validation: tuple[McAnswers, NDArray[Any]], test: tuple[McAnswers, NDArray[Any]]
) -> None:
    """Validity and coverage over draws with replacement, and on the test digits."""
    rules = CalibrationRules()
    of_validation, of_test = scores_of(*validation), scores_of(*test)
    scores = np.concatenate([of_validation[0], of_test[0]])
    wrong = np.concatenate([of_validation[1], of_test[1]])
    print(f"{len(scores):,} digits, {wrong.sum()} wrong")
    order = np.argsort(scores, kind="stable")
    share = np.cumsum(wrong[order]) / np.arange(1, len(scores) + 1)
    for target in TARGETS:
        generator = np.random.default_rng(SEED)
        above, coverage, none = 0, [], 0
        for _ in range(DRAWS):
            rows = generator.integers(len(scores), size=DRAWN)
            point = target_point(scores[rows], wrong[rows], target, rules.confidence)
            if point is None:
                none += 1
                coverage.append(0.0)
                continue
            accepted = scores <= point["threshold"]
            above += wrong[accepted].mean() > target
            coverage.append(float(accepted.mean()))
        oracle = float((np.flatnonzero(share <= target).max(initial=-1) + 1) / len(scores))
        text = f"  {target:.1%}: above the target in {above / DRAWS:.1%} of draws, "
        text += f"mean coverage {np.mean(coverage):.1%} (oracle {oracle:.1%}), "
        text += f"no threshold in {none / DRAWS:.1%}"
        print(f"{text}; {_on_test(*of_validation, *of_test, target, rules)}", flush=True)


def _on_test(
    scores: Array, wrong: Flags, others: Array, wrong_others: Flags, target: float, rules: Any
) -> str:
    point = target_point(scores, wrong, target, rules.confidence)
    if point is None:
        return "no threshold from the validation digits"
    accepted = others <= point["threshold"]
    errors, count = int(wrong_others[accepted].sum()), int(accepted.sum())
    # The lower bound of an error is one minus the upper bound of being right.
    lower = 1 - float(upper_bound(np.int64(count - errors), np.int64(count), rules.confidence))
    return f"test digits: {errors} of {count:,} wrong, at least {lower:.2%} with 95 %"


def report_until_decision(
    document: Mapping[str, Any], sets: Mapping[str, Answers], passes: int = MOST_PASSES
) -> None:
    """Agreement with all passes, and the passes that it takes."""
    scales = read_settling(document)
    for images, answers in sets.items():
        few, many = (answers[count].predictive_entropy.mean() for count in (LOOKS[0], passes))
        print(
            f"{images}: mean entropy {few:.3f} nats with {LOOKS[0]} passes, {many:.3f} with "
            f"{passes:,}",
            flush=True,
        )
    for target, scale in scales.items():
        name = "default" if target is None else f"{target:.1%}"
        for images, answers in sets.items():
            calibrations = {count: _at(document, count, target) for count in answers}
            differ, stops = disagreements(answers, calibrations, passes, scale)
            print(
                f"{name:8} {images:9} the same decision on {1 - differ.mean():.2%} of "
                f"{len(differ):,}, {stops.mean():.1f} passes on average, {np.median(stops):.0f} in "
                "the median",
                flush=True,
            )
    if not scales:
        print("the checkpoint has no rule: dropserve-train calibrate")


def _at(document: Mapping[str, Any], passes: int, target: float | None) -> Calibration:
    calibration = read_calibration(document, "mc", passes)
    return calibration if target is None else calibration.at(target)


def distance(entropies: Array, reference: Array) -> float:
    """What the alarm is held against: the largest difference of shares from 0.05 nats on."""
    first = ENTROPY_BOUNDS.index(LEAST_NATS)
    return float(np.abs(np.array(entropy_shares(entropies)) - reference)[first:].max())


@dataclass(frozen=True)
class Unlabelled:
    """Answers to one set of images, and what the network expects of them.

    Attributes:
        entropies: predictive, (N,).
        accuracy: mean calibrated confidence, and the true one.
        coverage: share of accepted answers.
        by_confidence: errors among them by the calibrated confidence alone.
        errors: true number of them.
    """

    entropies: Array
    accuracy: tuple[float, float]
    coverage: float
    by_confidence: float
    errors: int

    @classmethod
    def of(cls, found: McAnswers, labels: NDArray[Any], calibration: Calibration) -> "Unlabelled":
        wrong = found.mean.argmax(axis=1) != labels
        confidence = apply_temperature(found.mean, calibration.temperature).max(axis=1)
        accepted = is_accepted(found.predictive_entropy, calibration, found.mutual_information)
        assert accepted is not None
        return cls(
            found.predictive_entropy,
            (float(confidence.mean()), 1 - float(wrong.mean())),
            float(accepted.mean()),
            float((1 - confidence[accepted]).sum()),
            int(wrong[accepted].sum()),
        )

    def expected_errors(self, power: float = COVERAGE_POWER) -> float:
        """The expected number of errors among accepted answers."""
        return self.by_confidence / self.coverage**power if self.coverage else 0.0


def report_without_labels(
    document: Mapping[str, Any], found: Mapping[str, Unlabelled]
) -> list[tuple[str, float, float]]:
    """Expected against true accuracy and the alarm, by shift; the first is the test digits."""
    shares = read_entropy_shares(document, "mc")
    if shares is None:
        print("the checkpoint has no histogram: dropserve-train calibrate")
        return []
    generator = np.random.default_rng(SEED)
    for name, each in found.items():
        alarms = np.mean(
            [
                distance(each.entropies[rows], np.array(shares)) > ALARM
                for rows in generator.integers(len(each.entropies), size=(WINDOWS, WINDOW))
            ]
        )
        expected, true = each.accuracy
        print(
            f"{name:22} expected {expected:6.2%}, true {true:6.2%}; accepted "
            f"{each.coverage:6.2%}: {each.expected_errors():6.1f} errors expected, "
            f"{each.errors:4} true; alarm in {alarms:6.1%} of windows",
            flush=True,
        )
    return [(name, *each.accuracy) for name, each in found.items()]


def report_coverage_power(found: Mapping[str, Unlabelled]) -> None:
    """How near the expected number of errors is to the true one, for several powers."""
    for power in (0, 0.5, 1, 1.5, 2, 2.5):
        pairs = [(each.expected_errors(power), each.errors) for each in found.values()]
        many = [true / expected for expected, true in pairs if true >= MANY]
        few = sum(expected > MANY and expected > 3 * true for expected, true in pairs)
        near = sum(1 / 3 < ratio < 3 for ratio in many)
        print(
            f"{power}: of {len(many)} shifts with at least {MANY} errors, {near} within a factor "
            f"of 3, at most {max(many):.0f} times as many errors as expected; {few} of "
            f"{len(pairs)} with far fewer than expected",
            flush=True,
        )


def draw_points(points: list[tuple[str, float, float]], path: Path) -> None:
    """Expected against true accuracy."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    for name, expected, true in points:
        axes.plot(true, expected, "o", color="C0")
        axes.annotate(name, (true, expected), xytext=(4, 3), textcoords="offset points", size=7)
    axes.set_xlabel("true accuracy")
    axes.set_ylabel("mean calibrated confidence")
    figure.savefig(path, metadata={"Date": None})


def _answers(checkpoint: Checkpoint, pixels: NDArray[np.uint8], seed: int) -> McAnswers:
    engine = build_engine(checkpoint.network)
    return sample_all(engine, np.ascontiguousarray(pixels), passes=PASSES, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures operating points.")
    parser.add_argument(
        "what", choices=("target-errors", "until-decision", "without-labels", "coverage-power")
    )
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    folder = os.environ.get(DATA_DIR_VARIABLE)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=folder,
        required=folder is None,
        help=f"with mnist/, notmnist/, kmnist/; by default that of {DATA_DIR_VARIABLE}",
    )
    parser.add_argument("--images", type=int, default=10_000, help="of each set, or shift")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    document = checkpoint.calibration
    validation: Images = load_images("train", find_folder(options.data_dir))[-DRAWN:]
    test = load_images("test", find_folder(options.data_dir))[: options.images]
    if options.what == "target-errors":
        report_target_errors(
            (_answers(checkpoint, validation.pixels, SEED), validation.labels),
            (_answers(checkpoint, test.pixels, 0), test.labels),
        )
    elif options.what == "until-decision":
        engine = build_engine(checkpoint.network)
        grid = [*looks_before(MOST_PASSES), MOST_PASSES]
        sets = {"MNIST": test.pixels}
        for name in ("notmnist", "kmnist"):
            (file,) = (options.data_dir / name).glob("t10k-images*")
            content = file.read_bytes()
            content = gzip.decompress(content) if file.suffix == ".gz" else content
            sets[name] = parse_idx(content)[: options.images]
        report_until_decision(
            document, {name: sample_grid(engine, each, grid, seed=0) for name, each in sets.items()}
        )
    elif options.what == "without-labels":
        points = report_without_labels(document, dict(_unlabelled(checkpoint, test, SHIFTS, 0)))
        if options.figure is not None:
            draw_points(points, options.figure)
    else:
        report_coverage_power(dict(_unlabelled(checkpoint, validation, OTHER_SHIFTS, SEED)))


def _unlabelled(
    checkpoint: Checkpoint, images: Images, shifts: Mapping[str, Shift], seed: int
) -> Iterator[tuple[str, Unlabelled]]:
    """The images as they are, and shifted."""
    calibration = read_calibration(checkpoint.calibration, "mc", PASSES)
    for name, shift in {"test digits": lambda pixels: pixels, **shifts}.items():
        answers = _answers(checkpoint, shift(images.pixels), seed)
        yield name, Unlabelled.of(answers, images.labels, calibration)


if __name__ == "__main__":
    main()
