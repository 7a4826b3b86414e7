"""The Python client of a Dropserve server: `DropserveClient` and `AsyncDropserveClient`."""

from .client import AsyncDropserveClient, DropserveClient, McOptions, PredictOptions
from .errors import (
    BusyError,
    ConnectionFailedError,
    DeadlineExceededError,
    DropserveError,
    ImageError,
    RequestError,
    ServerFailedError,
    TimedOutError,
    UnexpectedAnswerError,
)
from .results import Decision, McPrediction, ModelIdentity, Prediction
from .retries import RetryPolicy

__all__ = [
    "AsyncDropserveClient",
    "BusyError",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "Decision",
    "DropserveClient",
    "DropserveError",
    "ImageError",
    "McOptions",
    "McPrediction",
    "ModelIdentity",
    "PredictOptions",
    "Prediction",
    "RequestError",
    "RetryPolicy",
    "ServerFailedError",
    "TimedOutError",
    "UnexpectedAnswerError",
]
