"""The Python client of a Dropserve server: `DropserveClient` and `AsyncDropserveClient`."""

from app.client.client import AsyncDropserveClient, DropserveClient, McOptions, PredictOptions
from app.client.errors import (
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
from app.client.results import Decision, McPrediction, ModelIdentity, Prediction
from app.client.retries import RetryPolicy

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
