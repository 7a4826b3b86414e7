"""Answers as HTTP responses: their headers, and errors in the shape of their protocol."""

import json

import numpy as np
import pytest
from starlette.requests import Request

from app.api.answers import BytesResponse, JsonResponse, error_response
from app.errors import ApiError, ErrorCode


def request_of(path: str) -> Request:
    return Request({"type": "http", "headers": [], "state": {"path": path, "request_id": "id-1"}})


def test_a_body_comes_with_its_length_its_type_and_the_headers_given() -> None:
    response = BytesResponse(b"abc", b"text/plain", 201, {"Retry-After": "1"})

    assert (response.status_code, response.body) == (201, b"abc")
    assert response.raw_headers == [
        (b"content-length", b"3"),
        (b"content-type", b"text/plain"),
        (b"retry-after", b"1"),
    ]


def test_numpy_values_are_json() -> None:
    response = JsonResponse({"mean": np.array([0.1, 0.9], dtype=np.float32)})

    assert response.body == b'{"mean":[0.1,0.9]}'
    assert (b"content-type", b"application/json") in response.raw_headers


def test_an_error_has_the_one_shape_and_the_headers_of_its_code() -> None:
    request = request_of("/predict")
    response = error_response(request, ApiError(ErrorCode.OVERLOADED, param="passes"))

    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert json.loads(bytes(response.body))["error"] == {
        "code": "overloaded",
        "message": ErrorCode.OVERLOADED.message,
        "param": "passes",
        "request_id": "id-1",
    }
    assert request.scope["state"]["error_code"] == "overloaded"


@pytest.mark.parametrize(("code", "status"), [(ErrorCode.NO_INK, 400), (ErrorCode.OVERLOADED, 429)])
def test_below_v2_an_error_has_the_shape_and_the_status_of_that_protocol(
    code: ErrorCode, status: int
) -> None:
    request = request_of("/v2/models/mnist/infer")
    response = error_response(request, ApiError(code))

    assert response.status_code == status
    assert json.loads(bytes(response.body)) == {"error": code.message}
    assert request.scope["state"]["error_code"] == code.text
