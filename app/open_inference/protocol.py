"""The protocol's names, and failures as its clients can read them: one message, known statuses."""

from collections.abc import Mapping
from typing import Any

from app.errors import ApiError, ErrorCode
from model.literals import SIDE

PIXELS, IMAGE, INPUT = "pixels", "image", "input"
PIXEL_COUNT = SIDE * SIDE

_ROOT = "/v2"
# What stock clients send, and a model without sequences, as in Triton, does not look at.
_IGNORED = frozenset({"content_type", "priority", "sequence_id", "sequence_start", "sequence_end"})


def is_open_inference(path: str) -> bool:
    """Whether an address is one of V2's."""
    return path.startswith(_ROOT) and path[len(_ROOT) : len(_ROOT) + 1] in ("", "/")


def open_inference_error(error: ApiError) -> tuple[int, dict[str, str]]:
    """Status and body: what is readable but impossible is 400 here, as in Triton."""
    return (400 if error.status == 422 else error.status), {"error": error.message}


def invalid(message: str) -> ApiError:
    """A request that is not what the protocol or the model's metadata says."""
    return ErrorCode.INVALID_REQUEST(message)


def parameters_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a request, an input or an output that mean something here.

    Raises:
        ApiError: invalid_request, they are neither an object nor null.
    """
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise invalid("parameters must be an object")
    return {name: value for name, value in parameters.items() if name not in _IGNORED}
