"""The test images that the network doubts most, and those that it gets wrong."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from training.report.subject import Subject

_DOUBTFUL = 30


def measure_doubtful(subject: Subject) -> dict[str, Any]:
    """The most doubtful digits, by predictive entropy."""
    order = np.argsort(-subject.sampled.predictive_entropy, kind="stable")[:_DOUBTFUL]
    return _gallery("The most doubtful digits - true: answer, entropy", subject, order)


def measure_errors(subject: Subject) -> dict[str, Any]:
    """All digits that MC dropout answers wrongly, the least doubtful first."""
    wrong = np.flatnonzero(subject.wrong("mc"))
    order = wrong[np.argsort(subject.sampled.predictive_entropy[wrong], kind="stable")]
    return _gallery("All errors, the surest first - true: answer, entropy", subject, order)


def _gallery(title: str, subject: Subject, numbers: Iterable[Any]) -> dict[str, Any]:
    labels = subject.checkpoint.network.config.labels
    images = [
        {
            "number": int(number),
            "label": labels[subject.images.labels[number]],
            "answer": labels[subject.sampled.mean[number].argmax()],
            "entropy": float(subject.sampled.predictive_entropy[number]),
            "pixels": subject.images.pixels[number].tolist(),
        }
        for number in numbers
    ]
    return {"title": title, "images": images}
