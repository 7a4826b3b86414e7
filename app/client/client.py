"""The Python client of a Dropserve server: `DropserveClient`, and `AsyncDropserveClient`.

    from app.client import DropserveClient

    with DropserveClient("http://127.0.0.1:8000") as client:
        answer = client.predict_mc("digit.png", passes=100)

An image is a path, the bytes of an image file, an open binary file, a PIL image or a NumPy array;
`app.client.images.encode_image` says what arrays mean. Parameters are those of the API, under the
same names; None, or nothing, is the server's default. Answers are frozen objects, failures one tree
of exceptions: `app.client.results` and `app.client.errors`.

Asking again has the same answer (seeds) and no side effect, so a request that finds no server, a
broken connection or a busy server is repeated, a few times, after the time the server asks for.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

import httpx

from .bearer import bearer
from .errors import (
    DropserveError,
)
from .requests import EventReader, Questions
from .results import McPrediction, Prediction
from .retries import Outcome, R, RetryPolicy, Steps, connection_error

if TYPE_CHECKING:
    from .images import Image

DEFAULT_URL = "http://127.0.0.1:8000"
# A little longer than a server lets a request take, so that its own answer arrives.
_TIMEOUT = httpx.Timeout(35.0, connect=5.0)


class PredictOptions(TypedDict, total=False):
    """Parameters of every prediction; the server's /docs describes them."""

    preprocess: Literal["auto", "none"] | None
    return_input: bool | None
    coverage: float | None
    timeout_ms: int | None


class McOptions(PredictOptions, total=False):
    """Parameters of predictions with dropout on."""

    passes: int | None
    seed: int | None
    estimator: Literal["independent", "balanced"] | None
    max_standard_error: float | None
    return_passes: bool | None


class DropserveClient:
    """Asks a Dropserve server; threads may share one.

    It keeps its connections: make one, use it often, and close it, best with `with`.

    Args:
        url: the server's address, such as http://127.0.0.1:8000; a path in it is kept.
        timeout: seconds to wait for a connection, and for each part of an answer; or httpx's own
            object. 35 without one, 5 for the connection.
        retries: what happens where there is no server or a busy one.
        api_key: for a server that wants one.
        headers: sent with every request, such as x-request-id.
        transport: httpx's, for certificates, proxies or tests.

    Raises:
        ValueError: the address is none of HTTP, or no header can hold the key.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float | httpx.Timeout = _TIMEOUT,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008  frozen
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=check_address(url),
            timeout=timeout,
            headers=_headers(headers, api_key),
            transport=transport,
        )
        self._questions = Questions(self._http.build_request, retries)

    def predict(self, image: "Image", **options: Unpack[PredictOptions]) -> Prediction:
        """The deterministic answer to one image.

        Raises:
            DropserveError: what went wrong; see `app.client.errors`.
        """
        return self._take(self._questions.ask("/predict", image, options, Prediction))

    def predict_mc(self, image: "Image", **options: Unpack[McOptions]) -> McPrediction:
        """The MC-dropout answer to one image.

        Raises:
            DropserveError: what went wrong; see `app.client.errors`.
        """
        return self._take(self._questions.ask("/predict/mc", image, options, McPrediction))

    def predict_batch(
        self, images: "Iterable[Image]", **options: Unpack[PredictOptions]
    ) -> list[Prediction | DropserveError]:
        """An answer for each image, in order; for a bad image the exception is in its place.

        Any number of images: they are read, and sent, some at a time.

        Raises:
            DropserveError: what went wrong with the request as a whole.
        """
        return self._take(self._questions.ask_batch("/predict", images, options, Prediction))

    def predict_mc_batch(
        self, images: "Iterable[Image]", **options: Unpack[McOptions]
    ) -> list[McPrediction | DropserveError]:
        """As `predict_batch`, with dropout; a seed applies to every image as to a single one.

        Raises:
            DropserveError: what went wrong with the request as a whole.
        """
        return self._take(self._questions.ask_batch("/predict/mc", images, options, McPrediction))

    def predict_mc_stream(
        self, image: "Image", **options: Unpack[McOptions]
    ) -> Iterator[McPrediction]:
        """Estimates while the passes are computed; the last, `is_final`, is `predict_mc`'s answer.

        Raises:
            DropserveError: what went wrong, also in the middle.
        """
        response = self._take(self._questions.open_stream(image, options), is_streamed=True)
        reader = EventReader(response)
        try:
            for chunk in response.iter_bytes():
                yield from reader.feed(chunk)
        except httpx.RequestError as error:
            raise connection_error(error) from error
        finally:
            response.close()
        reader.finish()

    def model(self) -> dict[str, Any]:
        """What the server tells about its network: GET /model.

        Raises:
            DropserveError: what went wrong; see `app.client.errors`.
        """
        return self._take(self._questions.ask_model())

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, steps: Steps[R], *, is_streamed: bool = False) -> R:
        outcome: Outcome = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, float):
                    time.sleep(step)
                    outcome = None
                    continue
                try:
                    outcome = self._http.send(step, stream=is_streamed)
                    if not outcome.is_success:
                        outcome.read()
                except httpx.RequestError as error:
                    outcome = error
        except StopIteration as end:
            result: R = end.value
            return result


class AsyncDropserveClient:
    """`DropserveClient` for asyncio: the same methods, awaited; `async with` and `async for`.

    It belongs to one event loop. Files are read, and images encoded, on that loop.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float | httpx.Timeout = _TIMEOUT,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008  frozen
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=check_address(url),
            timeout=timeout,
            headers=_headers(headers, api_key),
            transport=transport,
        )
        self._questions = Questions(self._http.build_request, retries)

    async def predict(self, image: "Image", **options: Unpack[PredictOptions]) -> Prediction:
        """See `DropserveClient.predict`."""
        return await self._take(self._questions.ask("/predict", image, options, Prediction))

    async def predict_mc(self, image: "Image", **options: Unpack[McOptions]) -> McPrediction:
        """See `DropserveClient.predict_mc`."""
        return await self._take(self._questions.ask("/predict/mc", image, options, McPrediction))

    async def predict_batch(
        self, images: "Iterable[Image]", **options: Unpack[PredictOptions]
    ) -> list[Prediction | DropserveError]:
        """See `DropserveClient.predict_batch`."""
        return await self._take(self._questions.ask_batch("/predict", images, options, Prediction))

    async def predict_mc_batch(
        self, images: "Iterable[Image]", **options: Unpack[McOptions]
    ) -> list[McPrediction | DropserveError]:
        """See `DropserveClient.predict_mc_batch`."""
        steps = self._questions.ask_batch("/predict/mc", images, options, McPrediction)
        return await self._take(steps)

    async def predict_mc_stream(
        self, image: "Image", **options: Unpack[McOptions]
    ) -> AsyncIterator[McPrediction]:
        """See `DropserveClient.predict_mc_stream`."""
        response = await self._take(self._questions.open_stream(image, options), is_streamed=True)
        reader = EventReader(response)
        try:
            async for chunk in response.aiter_bytes():
                for answer in reader.feed(chunk):
                    yield answer
        except httpx.RequestError as error:
            raise connection_error(error) from error
        finally:
            await response.aclose()
        reader.finish()

    async def model(self) -> dict[str, Any]:
        """See `DropserveClient.model`."""
        return await self._take(self._questions.ask_model())

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _take(self, steps: Steps[R], *, is_streamed: bool = False) -> R:
        outcome: Outcome = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    outcome = None
                    continue
                try:
                    outcome = await self._http.send(step, stream=is_streamed)
                    if not outcome.is_success:
                        await outcome.aread()
                except httpx.RequestError as error:
                    outcome = error
        except StopIteration as end:
            result: R = end.value
            return result


def check_address(url: str) -> str:
    """The address itself, if it is one of HTTP.

    Raises:
        ValueError: it is not.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url} is no address such as {DEFAULT_URL}")
    return url


def _headers(given: Mapping[str, str] | None, api_key: str | None) -> dict[str, str]:
    headers = {"user-agent": f"dropserve/{version('dropserve')}"}
    if api_key is not None:
        headers["authorization"] = bearer(api_key)
    return headers | dict(given or {})
