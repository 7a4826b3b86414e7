"""The Python client of a Dropserve server: `DropserveClient` and `AsyncDropserveClient`."""

from ..schemas import Decision, McPrediction, ModelIdentity, Prediction
from .client import AsyncDropserveClient, DropserveClient
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
    "McPrediction",
    "ModelIdentity",
    "Prediction",
    "RequestError",
    "RetryPolicy",
    "ServerFailedError",
    "TimedOutError",
    "UnexpectedAnswerError",
]
