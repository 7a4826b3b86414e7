"""Failures as V2 clients can read them."""

import httpx
import pytest

from app.errors import ApiError, ErrorCode
from app.open_inference.protocol import invalid, is_open_inference, open_inference_error


async def test_native_addresses_keep_their_own_error_shape(client: httpx.AsyncClient) -> None:
    for path in ("/v2x", "/V2", "/v1/models"):
        error = (await client.get(path)).json()["error"]

        assert error["code"] == "not_found"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/v2", True), ("/v2/", True), ("/v2/models", True), ("/v2x", False), ("/V2", False)],
)
def test_only_addresses_below_v2_are_of_the_protocol(path: str, expected: bool) -> None:
    assert is_open_inference(path) is expected


@pytest.mark.parametrize("code", ErrorCode)
def test_a_status_that_the_clients_do_not_know_becomes_400(code: ErrorCode) -> None:
    status, body = open_inference_error(ApiError(code, "what to do"))

    assert status == (400 if code.status == 422 else code.status)
    assert body == {"error": "what to do"}


def test_what_is_not_as_the_protocol_says_is_an_invalid_request() -> None:
    error = invalid("what to do")

    assert (error.kind, error.message) == (ErrorCode.INVALID_REQUEST, "what to do")
