"""The exceptions: every error of the API, and answers that are not Dropserve's."""

import pickle

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from app.client import (
    AsyncDropserveClient,
    BusyError,
    DeadlineExceededError,
    DropserveClient,
    DropserveError,
    ImageError,
    RequestError,
    RetryPolicy,
    ServerFailedError,
    UnexpectedAnswerError,
)
from app.errors import ErrorCode
from tests.app.client.conftest import ANSWER, PICTURE, client_of

BLANK = np.full((40, 50), 90, dtype=np.uint8)
ERROR_TYPES = {
    400: RequestError,
    401: RequestError,
    404: RequestError,
    405: RequestError,
    408: RequestError,
    409: RequestError,
    410: RequestError,
    413: RequestError,
    422: RequestError,
    429: BusyError,
    431: RequestError,
    500: ServerFailedError,
    503: BusyError,
    504: DeadlineExceededError,
}
ABOUT_THE_IMAGE = {
    "empty_body",
    "truncated_image",
    "body_too_large",
    "too_many_pixels",
    "unsupported_media_type",
    "not_an_image",
    "invalid_pixels",
    "no_ink",
}


@pytest.mark.parametrize(("status", "code"), sorted((code.status, code.text) for code in ErrorCode))
def test_every_error_of_the_api_is_raised_with_all_it_says(status: int, code: str) -> None:
    detail = {"code": code, "message": "do this", "param": "seed", "request_id": "abc"}
    transport = httpx.MockTransport(
        lambda _: httpx.Response(status, json={"error": detail}, headers={"retry-after": "7"})
    )
    expected = ImageError if code in ABOUT_THE_IMAGE else ERROR_TYPES[status]

    with pytest.raises(DropserveError) as caught:
        DropserveClient(transport=transport, retries=RetryPolicy(0)).predict(PICTURE)

    error = caught.value
    assert type(error) is expected
    assert str(error) == "do this"
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert type(one) is expected
        assert (one.code, one.message, one.param) == (code, "do this", "seed")
        assert (one.request_id, one.status, one.retry_after) == ("abc", status, 7.0)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[1]),
        httpx.Response(200, json={"digit": 3}),
        httpx.Response(200, json={**ANSWER, "model": None}),
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(400, json={"error": "a V2 error"}),
        httpx.Response(502, text="<html>"),
        httpx.Response(301, headers={"location": "https://elsewhere"}),
    ],
    ids=lambda response: f"{response.status_code} {response.text[:12]}",
)
def test_an_answer_that_is_not_dropserves_says_so(response: httpx.Response) -> None:
    transport = httpx.MockTransport(lambda _: response)

    with pytest.raises(UnexpectedAnswerError, match="Dropserve server") as caught:
        DropserveClient(transport=transport).predict(PICTURE)

    assert caught.value.status == response.status_code


def test_a_proxys_own_limit_is_named() -> None:
    page = "<html><head><title>413 Request Entity Too Large</title></head></html>"
    transport = httpx.MockTransport(
        lambda _: httpx.Response(413, html=page, headers={"server": "nginx/1.29.3"})
    )

    with pytest.raises(ImageError, match=r"nginx/1\.29\.3.*client_max_body_size") as caught:
        DropserveClient(transport=transport).predict(PICTURE)

    assert (caught.value.code, caught.value.status) == ("body_too_large", 413)


async def test_the_real_application_names_the_parameter_and_the_request(
    asking: AsyncDropserveClient, app: FastAPI
) -> None:
    with pytest.raises(RequestError) as caught:
        await asking.predict_mc(PICTURE, pases=3)  # type: ignore[call-arg]
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "passes")

    with pytest.raises(ImageError) as refused:
        await asking.predict(BLANK, return_steps=True)
    assert refused.value.steps is not None
    assert refused.value.steps["paper"].startswith("iVBORw0KGgo")

    async with client_of(app, headers={"x-request-id": "mine"}) as named:
        with pytest.raises(RequestError) as caught:
            await named.predict_mc(PICTURE, passes=0)
    assert (caught.value.request_id, caught.value.status) == ("mine", 422)
