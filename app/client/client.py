"""The Python client of a Dropserve server: `DropserveClient`, and `AsyncDropserveClient`.

    from app.client import DropserveClient

    with DropserveClient("http://127.0.0.1:8000") as client:
        answer = client.predict_mc("digit.png", passes=100)

An image is a path, the bytes of an image file, an open binary file, a PIL image or a NumPy array;
`app.client.images.encode_image` explains arrays. For a network that takes numbers it is a mapping,
`{"input": numbers}`, of lists or a NumPy array. The keyword arguments are the API's parameters, as
declared in `app.schemas`; None is the server's default. Answers are the frozen objects of
`app.schemas`, failures the exceptions of `app.client.errors`.

A request that finds no server, a broken connection or a busy server is repeated: it changes nothing
on the server. Feedback is counted once, however often it is sent: 409 `used_token` may mean that it
was counted, and the answer lost.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

import httpx

from ..schemas import McParameters, McPrediction, Prediction, PredictParameters
from .errors import connection_error
from .proxies import is_loopback, proxy_fault, proxy_variable
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
    _transport_type: type[Transport]

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
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
        make_transport: Callable[[], Transport] = self._transport_type

        def connect(transport: Any) -> Http:
            if transport is None and is_loopback(address.host):
                transport = make_transport()  # httpx then reads no proxy variable
            return make(base_url=url, timeout=timeout, headers=every_request, transport=transport)

        after_fork = None if transport is None else _ParentsTransport()
        self._connect: Callable[[], Http] = partial(connect, after_fork)
        self._proxy = proxy_variable(address) if transport is None else None
        try:
            self._by_process: dict[int, Http] = {os.getpid(): connect(transport)}
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            if transport is None and (fault := proxy_fault()) is not None:
                raise ValueError(fault) from error
            raise
        self._retries = retries
        self._model = model

    @property
    def _http(self) -> Http:
        """The client of this process.

        A process that forks goes on to use its connections: the child neither uses nor closes them.
        """
        process = os.getpid()
        if process not in self._by_process:
            parents = next(reversed(self._by_process.values()))
            http = parents if parents.is_closed else self._connect()
            self._by_process.setdefault(process, http)  # another thread may have been faster
        return self._by_process[process]

    @property
    def _requests(self) -> Requests:
        build = partial(self._http.build_request, extensions={"proxy_variable": self._proxy})
        return Requests(build, self._retries, self._model)


class _ParentsTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Takes the place, in a child, of a transport whose connections are the parent's."""

    def handle_request(self, _: httpx.Request) -> NoReturn:
        raise RuntimeError(
            "a client that was given a transport works in the process that made it; make one here"
        )

    async def handle_async_request(self, request: httpx.Request) -> NoReturn:
        self.handle_request(request)


class DropserveClient(_Client[httpx.Client, httpx.BaseTransport]):
    """A client that keeps its connections; threads and forked processes may share one.

    Each process opens connections of its own. Close the client after use, best with `with`. Methods
    raise a `DropserveError` if there is no answer: see `app.client.errors`.

    The proxy is the one that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names, unless NO_PROXY lists the
    server or the address is this machine: localhost, 127.0.0.0/8 or ::1.

    Args:
        url: the server's address, such as http://127.0.0.1:8000; a path in it is kept.
        model: the name of the model that is asked, of those that `models` lists; None: the default.
        timeout: seconds to wait for a connection, and for each part of a response, or an
            `httpx.Timeout`. The default is 35, and 5 for the connection.
        retries: what to do when there is no server, or a busy one.
        api_key: for a server that requires one.
        headers: for every request, such as x-request-id.
        transport: httpx's, for certificates, proxies or tests. A forked process then needs a client
            of its own.

    Raises:
        ValueError: the address is not one of HTTP, the key does not fit into a header, or httpx
            cannot read a proxy variable.
    """

    _http_type = httpx.Client
    _transport_type = httpx.HTTPTransport

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

    def feedback(self, answer: Prediction, *, label: int | str) -> bool:
        """Sends which class the image really shows; the server counts it. See POST /feedback.

        Args:
            answer: of `predict` or `predict_mc`, up to 24 hours old.
            label: the true class: its index, or its name.

        Returns:
            Whether the answer was right.

        Raises:
            ValueError: the answer carries no token.
        """
        return self._run(self._requests.feedback(answer, label))

    def model(self) -> dict[str, Any]:
        """The model card: GET /model, or of the model that the client asks."""
        return self._run(self._requests.model())

    def models(self) -> list[dict[str, Any]]:
        """What the server serves: GET /models."""
        return self._run(self._requests.models())

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
    _transport_type = httpx.AsyncHTTPTransport

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

    async def feedback(self, answer: Prediction, *, label: int | str) -> bool:
        """See `DropserveClient.feedback`."""
        return await self._run(self._requests.feedback(answer, label))

    async def model(self) -> dict[str, Any]:
        """See `DropserveClient.model`."""
        return await self._run(self._requests.model())

    async def models(self) -> list[dict[str, Any]]:
        """See `DropserveClient.models`."""
        return await self._run(self._requests.models())

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
