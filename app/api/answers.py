"""JSON answers: NumPy values written in their shortest form, and the one error body."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.errors import ApiError
from app.inference.encoding import encode_json
from app.open_inference.protocol import is_open_inference, open_inference_error
from app.schemas import error_body


class BytesResponse(Response):
    """A body that is there already."""

    def __init__(
        self,
        body: bytes,
        media_type: bytes,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # Not Response's own, which takes three times as long to find out what is known here.
        self.status_code = status_code
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", media_type)]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))


class JsonResponse(BytesResponse):
    """A JSON body from Python and NumPy values; see `encode_json`."""

    def __init__(
        self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(encode_json(content), b"application/json", status_code, headers)


def error_response(request: Request, error: ApiError) -> JsonResponse:
    """The answer to a failed request, in the shape of the protocol that it was asked in."""
    return error_answer(request.scope["state"], error)


def error_answer(state: dict[str, Any], error: ApiError) -> JsonResponse:
    """As `error_response`; the state is the request's, and the error is noted in it."""
    state["error_code"] = error.code
    if error.recheck is not None:
        state["recheck"] = error.recheck
    status: int = error.status
    body: Any = error_body(error, state["request_id"], state.get("trace_id"))
    if is_open_inference(state["path"]):
        status, body = open_inference_error(error)
    return JsonResponse(body, status_code=status, headers=dict(error.headers))
