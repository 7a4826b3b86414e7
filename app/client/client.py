"""The Python client of a Dropserve server: `DropserveClient`, and `AsyncDropserveClient`.

    from app.client import DropserveClient

    with DropserveClient("http://127.0.0.1:8000") as client:
        answer = client.predict_mc("digit.png", passes=100)

An image is a path, the bytes of an image file, an open binary file, a PIL image or a NumPy array;
`app.client.images.encode_image` explains arrays. The keyword arguments are the API's parameters, as
declared in `app.schemas`; None is the server's default. Answers are the frozen objects of
`app.schemas`, failures the exceptions of `app.client.errors`.

A request that finds no server, a broken connection or a busy server is repeated: it changes nothing
on the server.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import httpx

from ..schemas import McParameters, McPrediction, Prediction, PredictParameters
from .errors import connection_error
from .requests import Requests, takes
from .responses import EventReader, Results
from .retries import Flow, Outcome, R, RetryPolicy

if TYPE_CHECKING:
    from .images import Image, Images

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Transport = TypeVar("Transport", httpx.BaseTransport, httpx.AsyncBaseTransport)

DEFAULT_URL = "http://127.0.0.1:8000"
# A little longer than a server lets a request take, so that its own answer arrives.
_TIMEOUT = httpx.Timeout(35.0, connect=5.0)


class _Client(Generic[Http, Transport]):
    """What both clients share."""

    _http_type: type[Http]

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float | httpx.Timeout = _TIMEOUT,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008  frozen
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
    ) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            address = httpx.URL()
        if address.scheme not in ("http", "https") or not address.host:
            raise ValueError(f"{url} is not an address such as {DEFAULT_URL}")
        every_request = {"user-agent": f"dropserve/{version('dropserve')}"}
        if api_key is not None:
            if not api_key.isascii() or not api_key.isprintable():
                raise ValueError("the API key has characters that no header can hold")
            every_request["authorization"] = f"Bearer {api_key}"
        every_request |= headers or {}
        make: Callable[..., Http] = self._http_type
        self._http: Http = make(
            base_url=url, timeout=timeout, headers=every_request, transport=transport
        )
        self._requests = Requests(self._http.build_request, retries)


class DropserveClient(_Client[httpx.Client, httpx.BaseTransport]):
    """A client that keeps its connections; threads may share one.

    Close it after use, best with `with`. Methods raise a `DropserveError` if there is no answer:
    see `app.client.errors`.

    Args:
        url: the server's address, such as http://127.0.0.1:8000; a path in it is kept.
        timeout: seconds to wait for a connection, and for each part of a response, or an
            `httpx.Timeout`. The default is 35, and 5 for the connection.
        retries: what to do when there is no server, or a busy one.
        api_key: for a server that requires one.
        headers: for every request, such as x-request-id.
        transport: httpx's, for certificates, proxies or tests.

    Raises:
        ValueError: the address is not one of HTTP, or the key does not fit into a header.
    """

    _http_type = httpx.Client

    @takes(PredictParameters)
    def predict(self, image: "Image", **parameters: Any) -> Prediction:
        """The deterministic answer to one image."""
        return self._run(self._requests.predict(Prediction, image, parameters))

    @takes(McParameters)
    def predict_mc(self, image: "Image", **parameters: Any) -> McPrediction:
        """The MC-dropout answer to one image."""
        return self._run(self._requests.predict(McPrediction, image, parameters))

    @takes(PredictParameters)
    def predict_batch(self, images: "Images", **parameters: Any) -> Results[Prediction]:
        """The answer to each image, in order; an image without one has its exception in the list.

        The number of images is not limited: they are read and sent some at a time.

        Raises:
            DropserveError: no image can have an answer.
        """
        return self._run(self._requests.predict_batch(Prediction, images, parameters))

    @takes(McParameters)
    def predict_mc_batch(self, images: "Images", **parameters: Any) -> Results[McPrediction]:
        """As `predict_batch`, with dropout; a seed applies to every image as to a single one."""
        return self._run(self._requests.predict_batch(McPrediction, images, parameters))

    @takes(McParameters)
    def predict_mc_stream(self, image: "Image", **parameters: Any) -> Iterator[McPrediction]:
        """Partial results while the passes are computed; the last answer is that of `predict_mc`.

        Raises:
            DropserveError: also between two answers.
        """
        response = self._run(self._requests.stream(image, parameters), is_streamed=True)
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
        """The model card: GET /model."""
        return self._run(self._requests.model())

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, flow: Flow[R], *, is_streamed: bool = False) -> R:
        outcome: Outcome = None
        try:
            while True:
                seconds, request = flow.send(outcome)
                time.sleep(seconds)
                try:
                    outcome = self._http.send(request, stream=is_streamed)
                    if not outcome.is_success:
                        outcome.read()
                except httpx.RequestError as error:
                    outcome = error
        except StopIteration as end:
            result: R = end.value
            return result


class AsyncDropserveClient(_Client[httpx.AsyncClient, httpx.AsyncBaseTransport]):
    """`DropserveClient` for asyncio: the same methods, with `await`, `async with` and `async for`.

    It belongs to one event loop. Files are read, and images encoded, on that loop.
    """

    _http_type = httpx.AsyncClient

    @takes(PredictParameters)
    async def predict(self, image: "Image", **parameters: Any) -> Prediction:
        """See `DropserveClient.predict`."""
        return await self._run(self._requests.predict(Prediction, image, parameters))

    @takes(McParameters)
    async def predict_mc(self, image: "Image", **parameters: Any) -> McPrediction:
        """See `DropserveClient.predict_mc`."""
        return await self._run(self._requests.predict(McPrediction, image, parameters))

    @takes(PredictParameters)
    async def predict_batch(self, images: "Images", **parameters: Any) -> Results[Prediction]:
        """See `DropserveClient.predict_batch`."""
        return await self._run(self._requests.predict_batch(Prediction, images, parameters))

    @takes(McParameters)
    async def predict_mc_batch(self, images: "Images", **parameters: Any) -> Results[McPrediction]:
        """See `DropserveClient.predict_mc_batch`."""
        return await self._run(self._requests.predict_batch(McPrediction, images, parameters))

    @takes(McParameters)
    async def predict_mc_stream(
        self, image: "Image", **parameters: Any
    ) -> AsyncIterator[McPrediction]:
        """See `DropserveClient.predict_mc_stream`."""
        response = await self._run(self._requests.stream(image, parameters), is_streamed=True)
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
        return await self._run(self._requests.model())

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, flow: Flow[R], *, is_streamed: bool = False) -> R:
        outcome: Outcome = None
        try:
            while True:
                seconds, request = flow.send(outcome)
                await asyncio.sleep(seconds)
                try:
                    outcome = await self._http.send(request, stream=is_streamed)
                    if not outcome.is_success:
                        await outcome.aread()
                except httpx.RequestError as error:
                    outcome = error
        except StopIteration as end:
            result: R = end.value
            return result
