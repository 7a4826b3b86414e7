"""What `GET /model` and `GET /models` say of a network."""

from typing import TYPE_CHECKING, Any

from app.inference.answers import NO_DECISION
from model.uncertainty.calibration import with_missing

if TYPE_CHECKING:
    from app.inference.pipeline import Predictor


def model_card(predictor: "Predictor") -> dict[str, Any]:
    """The checkpoint's own description, and the name that it is served under."""
    checkpoint = predictor.checkpoint
    card = {"name": predictor.name, "version": checkpoint.version, **checkpoint.card()}
    card["calibration"] = with_missing(card["calibration"])
    if checkpoint.calibration["thresholds"]["mc"] is None:
        card["no_decision"] = NO_DECISION
    return card


def model_summary(predictor: "Predictor") -> dict[str, Any]:
    """What a client has to know to ask a network and to read its answers."""
    spec, network = predictor.spec, predictor.checkpoint.network
    return {
        "network": predictor.checkpoint.version,
        "input": {"shape": spec.shape, "dtype": spec.dtype, "preparation": spec.preparation},
        "labels": network.config.labels,
        "reproducible": predictor.reproducible or "on every processor",
        "calibrated": predictor.checkpoint.calibration["thresholds"]["mc"] is not None,
    }
