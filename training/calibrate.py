"""`dropserve-train calibrate`: serving rates, temperatures, thresholds and prediction sets.

Everything is fitted on the validation images, and on images that are no digits made from them; the
weights stay as they are. The same checkpoint always gets the same bytes.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.engines.relu_mlp import Engine
from model.errors import CheckpointError
from model.literals import Estimator
from model.uncertainty.calibration import apply_temperature
from model.uncertainty.statistics import Array, entropy
from training.answers import McAnswers, Pixels, dataset_of, predict_all, sample_all, with_rates
from training.config import CalibrationRules
from training.data import Images, load_images
from training.errors import TrainingError
from training.fitting import (
    abstention_threshold,
    accepted_error_bound,
    fit_temperature,
    least_probability,
)
from training.metrics import Labels, score
from training.pseudo_ood import KEPT_BACK, kinds_for, make_unfamiliar
from training.selective import auroc

PASSES = 50
# Far from the seeds of `evaluate`, which begin at 0.
SEED = 1_000_000
ESTIMATOR: Estimator = "independent"
LEVELS = (0.99, 0.995, 0.999)
# One rate for all layers: other mixtures told the unfamiliar apart no better.
CANDIDATE_RATES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
UNFAMILIAR_PER_KIND = 500


@dataclass(frozen=True)
class Candidate:
    """One serving rate, and what it would do.

    Attributes:
        rate: the probability of zeroing a unit, the same in each hidden layer.
        nll: of the calibrated MC answers to the validation digits, nats.
        error: their share of wrong answers.
        auroc: of predictive entropy, the unfamiliar against the digits.
        error_bound: on errors among what is accepted if `abstaining_share` is turned away.
    """

    rate: float
    nll: float
    error: float
    auroc: float
    error_bound: float


def calibrate(
    checkpoint_path: Path,
    output: Path,
    data_dir: Path | None,
    rules: CalibrationRules,
) -> Checkpoint:
    """Fits everything and writes the calibrated checkpoint; prints what was found.

    Args:
        checkpoint_path: what to calibrate; its present calibration does not matter.
        output: where it goes, perhaps the same file.
        data_dir: see `training.data.load_images`.
        rules: see there.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        TrainingError: the data cannot be used, or a rule cannot be kept.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    validation = _validation_images(checkpoint, data_dir)
    calibrated = fit(checkpoint, validation, rules)
    save_checkpoint(output, calibrated)
    return load_checkpoint(output)


def fit(checkpoint: Checkpoint, validation: Images, rules: CalibrationRules) -> Checkpoint:
    """The checkpoint with serving rates and calibration, all from the validation images."""
    labels = validation.labels
    unfamiliar = make_unfamiliar(validation, UNFAMILIAR_PER_KIND, SEED, KEPT_BACK)
    candidates: list[Candidate] = []
    sampled: list[McAnswers] = []
    for rate in CANDIDATE_RATES:
        candidate, answers = _try_rate(checkpoint, rate, validation, unfamiliar, rules)
        print(
            f"rate {candidate.rate:.2f}: NLL {candidate.nll:.4f}, error {candidate.error:.2%}, "
            f"AUROC {candidate.auroc:.4f}, accepted errors at most {candidate.error_bound:.2%}",
            file=sys.stderr,
        )
        candidates.append(candidate)
        sampled.append(answers)
    number = choose_rate(candidates, rules)
    chosen, mc = candidates[number], sampled[number]
    network = with_rates(
        checkpoint.network, (chosen.rate,) * len(checkpoint.network.config.dropout_rates)
    )
    deterministic = predict_all(Engine(network), validation.pixels)
    fitted = {
        "predict": _fit_kind(deterministic, entropy(deterministic), labels, rules),
        "mc": _fit_kind(mc.mean, mc.predictive_entropy, labels, rules),
    }
    calibration = {
        "temperature": fitted["predict"].temperature,
        "mc_temperature": fitted["mc"].temperature,
        "thresholds": {kind: each.threshold for kind, each in fitted.items()},
        "conformal": {
            str(level): {kind: each.least[index] for kind, each in fitted.items()}
            for index, level in enumerate(LEVELS)
        },
        "fitted_with": {
            "passes": PASSES,
            "estimator": ESTIMATOR,
            "images": len(validation),
            "seed": SEED,
            "unfamiliar": {
                kind.__name__: UNFAMILIAR_PER_KIND
                for kind in kinds_for(validation.dataset, KEPT_BACK)
            },
            "rules": asdict(rules),
        },
    }
    measured = {kind: each.measured for kind, each in fitted.items()}
    measured["mc"]["unfamiliar_auroc"] = round(chosen.auroc, 6)
    metrics = {**checkpoint.metrics, "calibrated_validation": measured}
    return replace(checkpoint, network=network, calibration=calibration, metrics=metrics)


@dataclass(frozen=True)
class _Fitted:
    """What is fitted for one kind of answer, and measured with it on the validation images."""

    temperature: float
    threshold: float | None
    least: tuple[float, ...]  # per level
    measured: dict[str, Any]


def _fit_kind(probs: Array, doubt: Array, labels: Labels, rules: CalibrationRules) -> _Fitted:
    temperature = fit_temperature(probs, labels)
    probabilities = apply_temperature(probs, temperature)
    wrong = probs.argmax(axis=1) != labels
    threshold = abstention_threshold(
        doubt,
        wrong,
        abstaining_share=rules.abstaining_share,
        accepted_error=rules.accepted_error,
        confidence=rules.confidence,
    )
    scores = score(probabilities, labels)
    measured = {"error": scores.error, "nll": scores.nll, "ece": scores.ece}
    if threshold is not None:
        accepted = doubt <= threshold
        measured |= {
            "coverage": accepted.mean(),
            "accepted_error": (wrong & accepted).sum() / accepted.sum(),
        }
    least = tuple(least_probability(probabilities, labels, level) for level in LEVELS)
    rounded = {name: round(float(value), 6) for name, value in measured.items()}
    return _Fitted(temperature, threshold, least, rounded)


def choose_rate(candidates: Sequence[Candidate], rules: CalibrationRules) -> int:
    """The candidate that tells the unfamiliar apart best, of those that digits can afford.

    Digits can afford a candidate which keeps the bound on accepted errors while it turns away the
    stated share, and whose NLL exceeds that of the best of these by at most the tolerance.
    """
    kept = [each for each in candidates if each.error_bound <= rules.accepted_error]
    largest = min((each.nll for each in kept), default=0.0) * (1 + rules.nll_tolerance)
    affordable = [
        number
        for number, candidate in enumerate(candidates)
        if candidate in kept and candidate.nll <= largest
    ]
    if not affordable:
        raise TrainingError(
            "no serving rate keeps errors among accepted digits below "
            f"{rules.accepted_error:.2%}; allow more with --accepted-error or --abstaining-share"
        )
    return max(affordable, key=lambda number: candidates[number].auroc)


def _validation_images(checkpoint: Checkpoint, data_dir: Path | None) -> Images:
    """The images that were held out when the checkpoint was trained."""
    try:
        count = int(checkpoint.training["recipe"]["validation_images"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the checkpoint does not say which images were held out of its training; "
            "dropserve-train train writes it"
        ) from error
    images = load_images("train", data_dir, dataset_of(checkpoint))
    return images[len(images) - count :]


def _try_rate(
    checkpoint: Checkpoint,
    rate: float,
    validation: Images,
    unfamiliar: Pixels,
    rules: CalibrationRules,
) -> tuple[Candidate, McAnswers]:
    network = with_rates(checkpoint.network, (rate,) * len(checkpoint.network.config.dropout_rates))
    engine = Engine(network)
    digits = sample_all(engine, validation.pixels, passes=PASSES, seed=SEED)
    others = sample_all(engine, unfamiliar, passes=PASSES, seed=SEED + len(validation))
    temperature = fit_temperature(digits.mean, validation.labels)
    scores = score(apply_temperature(digits.mean, temperature), validation.labels)
    wrong = digits.mean.argmax(axis=1) != validation.labels
    return (
        Candidate(
            rate,
            scores.nll,
            scores.error,
            auroc(digits.predictive_entropy, others.predictive_entropy),
            accepted_error_bound(
                digits.predictive_entropy, wrong, rules.abstaining_share, rules.confidence
            ),
        ),
        digits,
    )
