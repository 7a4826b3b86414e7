"""What a server makes of pictures that it prepares (`preprocess=auto`), and how passes disagree."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.arrays import Array, Pixels
from model.digits.preprocessing import find_digits
from model.errors import NoInkError
from model.literals import SIDE
from model.uncertainty.calibration import apply_temperature, prediction_set
from training import metrics
from training.answers import McAnswers, Subject, is_accepted
from training.data import Images

# Below this no pass differs from another.
_NO_VARIANCE = 1e-6
# How many of the digits that other networks find most ambiguous.
_AMBIGUOUS = 100


def measure_passes(subject: Subject) -> list[dict[str, Any]]:
    """Scores, decisions and prediction sets for each number of passes; null without a threshold."""
    rows = []
    for passes, sampled in subject.by_passes.items():
        calibration = subject.calibration("mc", passes)
        probabilities = apply_temperature(sampled.mean, calibration.temperature)
        labels = subject.images.labels
        found = metrics.score(probabilities, labels)
        coverage = {}
        for level, least in calibration.conformal_quantiles.items():
            sets = [prediction_set(each, least) for each in probabilities]
            covered = [label in each for label, each in zip(labels, sets, strict=True)]
            size = float(np.mean([len(each) for each in sets]))
            coverage[str(level)] = {"coverage": float(np.mean(covered)), "mean_size": size}
        accepted = is_accepted(sampled.predictive_entropy, calibration, sampled.mutual_information)
        row: dict[str, Any] = {"passes": passes, "error": found.error}
        row |= {"nll": found.nll, "ece": found.ece}
        row |= {
            "sets": coverage,
            **_accepted_share(accepted, sampled.mean.argmax(axis=1) != labels),
        }
        rows.append(row)
    return rows


def _accepted_share(
    accepted: NDArray[np.bool_] | None, wrong: NDArray[np.bool_]
) -> dict[str, float | None]:
    if accepted is None:
        return {"accepted": None, "accepted_error": None}
    errors = float((accepted & wrong).sum() / max(int(accepted.sum()), 1))
    return {"accepted": float(accepted.mean()), "accepted_error": errors}


def measure_prepared(subject: Subject, sets: Mapping[str, Images | str]) -> dict[str, Any]:
    """What becomes of the test digits and of other images with `preprocess=auto`.

    A refused image and one with several digits are not accepted; all images are counted.
    """
    everything = {subject.images.dataset.title: subject.images, **sets}
    measured: dict[str, Any] = {}
    for name, images in everything.items():
        if isinstance(images, str):
            measured[name] = {"skipped": images}
            continue
        measured[name] = row = _answer_prepared(subject, images, f"{name}, prepared")
        if images is not subject.images:
            del row["error"], row["accepted_error"], row["accepted_and_wrong"]
        else:
            del row["rejected_shares"]
    return measured


def _answer_prepared(subject: Subject, images: Images, title: str) -> dict[str, Any]:
    prepared, outcomes = prepare_all(images.pixels, title)
    sampled = subject.sample(prepared)
    found = is_accepted(
        sampled.predictive_entropy, subject.calibration("mc"), sampled.mutual_information
    )
    single = outcomes == "single"
    accepted = np.zeros(len(images), np.bool_) if found is None else found & single
    wrong = (sampled.mean.argmax(axis=1) != images.labels) | (outcomes == "refused")
    per_class = {
        label: float(accepted[images.labels == number].mean())
        for number, label in enumerate(images.dataset.labels)
        if (images.labels == number).any()
    }
    return {
        "images": len(images),
        "refused": float((outcomes == "refused").mean()),
        "several_digits": float((outcomes == "several").mean()),
        "error": float(wrong.mean()),
        **_accepted_share(accepted, wrong),
        "accepted_and_wrong": float((accepted & wrong).mean()),
        "classes": per_class,
        "rejected_shares": _shares(sampled)[single & ~accepted],
    }


def prepare_all(pixels: Pixels, title: str) -> tuple[Pixels, NDArray[np.str_]]:
    """Prepares images, white ink on black, as a server does.

    Returns:
        The prepared images, (N, 28, 28), blank where there is none, and for each whether it is
        "single", "several" or "refused", (N,).
    """
    prepared, outcomes = np.zeros((len(pixels), SIDE, SIDE), np.uint8), []
    for row, image in enumerate(tqdm(pixels, title)):
        try:
            found = find_digits(image)
        except NoInkError:
            outcomes.append("refused")
            continue
        prepared[row] = found.pixels
        outcomes.append("several" if found.boxes else "single")
    return prepared, np.array(outcomes)


def measure_corruptions(subject: Subject, corrupted: Mapping[str, Images]) -> dict[str, Any]:
    """Errors on corrupted test digits as they are and prepared; MNIST-C, Mu and Gilmer 2019."""
    rows = {}
    for name, images in corrupted.items():
        sampled = subject.sample(images.pixels)
        wrong = sampled.mean.argmax(axis=1) != images.labels
        accepted = is_accepted(
            sampled.predictive_entropy, subject.calibration("mc"), sampled.mutual_information
        )
        plain = {"error": float(wrong.mean()), **_accepted_share(accepted, wrong)}
        plain["accepted_and_wrong"] = None if accepted is None else float((accepted & wrong).mean())
        prepared = _answer_prepared(subject, images, f"{name}, prepared")
        kept = ("error", "accepted", "accepted_error", "accepted_and_wrong")
        rows[name] = {"none": plain, "auto": {key: prepared[key] for key in kept}}
    return rows


def measure_split(
    subject: Subject,
    outliers: Mapping[str, McAnswers],
    prepared: Mapping[str, dict[str, Any]],
    ambiguous: Array | None,
) -> dict[str, Any]:
    """How far passes disagree about rejected outliers, and about ambiguous digits.

    Args:
        subject: the network.
        outliers: answers per data set, of images as they are.
        prepared: of `measure_prepared`; its shares, which no report shows, are taken out.
        ambiguous: how ambiguous other networks find each test digit, (N,); None if none were given.
    """
    calibration, measured = subject.calibration("mc"), {}
    digits = None
    if ambiguous is not None:
        digits = _shares(subject.sampled)[np.argsort(-ambiguous, kind="stable")[:_AMBIGUOUS]]
    for name, sampled in outliers.items():
        accepted = is_accepted(sampled.predictive_entropy, calibration, sampled.mutual_information)
        rejected = np.ones(len(sampled.mean), np.bool_) if accepted is None else ~accepted
        shares = {"none": _shares(sampled)[rejected]}
        shares["auto"] = prepared.get(name, {}).pop("rejected_shares", np.empty(0))
        measured[name] = {
            "rejected": int(rejected.sum()),
            "no_variance": _mean(sampled.variance[rejected].max(axis=1) < _NO_VARIANCE),
            "unanimous": _mean(sampled.variation_ratio[rejected] == 0),
            "mean_share": _mean(shares["none"]),
            "auroc": {
                form: None if digits is None or not len(each) else metrics.auroc(digits, each)
                for form, each in shares.items()
            },
        }
    return measured


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _shares(sampled: McAnswers) -> Array:
    """Mutual information as a share of the predictive entropy, 0 to 1, (N,)."""
    shares: Array = sampled.mutual_information / np.maximum(sampled.predictive_entropy, 1e-12)
    return shares
