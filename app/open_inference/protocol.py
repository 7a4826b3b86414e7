"""The protocol's names, and failures as its clients can read them: one message, known statuses."""

from app.errors import ApiError, ErrorCode
from model.literals import SIDE

# The one version there is; which checkpoint answers stands in `GET /model`.
VERSION = "1"
PIXELS, IMAGE = "pixels", "image"
PIXEL_COUNT = SIDE * SIDE

_ROOT = "/v2"


def is_open_inference(path: str) -> bool:
    """Whether an address is one of V2's."""
    return path.startswith(_ROOT) and path[len(_ROOT) : len(_ROOT) + 1] in ("", "/")


def open_inference_error(error: ApiError) -> tuple[int, dict[str, str]]:
    """Status and body: what is readable but impossible is 400 here, as in Triton."""
    return (400 if error.status == 422 else error.status), {"error": error.message}


def invalid(message: str) -> ApiError:
    """A request that is not what the protocol or the model's metadata says."""
    return ErrorCode.INVALID_REQUEST(message)
