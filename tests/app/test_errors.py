import json

import pytest

from app.errors import ApiError, ErrorCode
from app.inference.encoding import encode_json
from app.schemas import error_body


def test_every_code_has_its_status() -> None:
    assert sorted((code.status, code.text) for code in ErrorCode) == [
        (400, "conflicting_parameters"),
        (400, "empty_body"),
        (400, "invalid_encoding"),
        (400, "invalid_http"),
        (400, "invalid_json"),
        (400, "invalid_multipart"),
        (400, "invalid_request"),
        (400, "truncated_image"),
        (401, "unauthorized"),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (408, "request_timeout"),
        (409, "used_token"),
        (410, "expired_token"),
        (413, "body_too_large"),
        (413, "too_many_images"),
        (413, "too_many_pixels"),
        (415, "not_an_image"),
        (415, "unsupported_media_type"),
        (422, "invalid_parameter"),
        (422, "invalid_pixels"),
        (422, "invalid_token"),
        (422, "no_ink"),
        (422, "unknown_parameter"),
        (429, "overloaded"),
        (431, "head_too_large"),
        (500, "internal"),
        (503, "not_ready"),
        (504, "deadline_exceeded"),
    ]


@pytest.mark.parametrize("kind", ErrorCode)
def test_every_error_has_words_of_its_own(kind: ErrorCode) -> None:
    error = ApiError(kind)

    assert [code for code in ErrorCode if code.message == error.message] == [kind]
    assert str(error) == error.message
    assert not error.message.endswith(".")


def test_the_body_has_one_shape() -> None:
    error = ApiError(ErrorCode.INVALID_PARAMETER, "passes must be at least 1", param="passes")

    assert json.loads(encode_json(error_body(error, "abc"))) == {
        "error": {
            "code": "invalid_parameter",
            "message": "passes must be at least 1",
            "param": "passes",
            "request_id": "abc",
        }
    }
    assert error_body(ApiError(ErrorCode.INTERNAL), None).error.param is None


def test_headers_belong_to_one_error_alone() -> None:
    error = ApiError(ErrorCode.METHOD_NOT_ALLOWED, headers={"Allow": "GET"})

    assert error.headers == {"Allow": "GET"}
    assert ApiError(ErrorCode.METHOD_NOT_ALLOWED).headers == {}
    assert ApiError(ErrorCode.NOT_READY).headers == {"Retry-After": "1"}
