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
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self

import httpx

from ..schemas import McParameters, McPrediction
from .errors import connection_error
from .requests import Requests, takes
from .responses import EventReader
from .retries import Flow, R, RetryPolicy

if TYPE_CHECKING:
    from .images import Image

P = ParamSpec("P")

DEFAULT_URL = "http://127.0.0.1:8000"
# A little longer than a server lets a request take, so that its own answer arrives.
_TIMEOUT = httpx.Timeout(35.0, connect=5.0)


def _blocking(
    flow: Callable[Concatenate[Requests, P], Flow[R]],
) -> Callable[Concatenate["DropserveClient", P], R]:
    """The method of `Requests`, with the same arguments, as one that returns its result."""

    @functools.wraps(flow)
    def method(client: "DropserveClient", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return client._run(flow(client._requests, *args, **kwargs))

    return method


def _awaitable(
    flow: Callable[Concatenate[Requests, P], Flow[R]],
) -> Callable[Concatenate["AsyncDropserveClient", P], Coroutine[Any, Any, R]]:
    """The method of `Requests`, with the same arguments, as one that is awaited."""

    @functools.wraps(flow)
    async def method(client: "AsyncDropserveClient", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await client._run(flow(client._requests, *args, **kwargs))

    return method


class DropserveClient:
    """A client that keeps its connections; threads may share one.

    Close it after use, best with `with`.

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
            base_url=_checked_address(url),
            timeout=timeout,
            headers=_headers(headers, api_key),
            transport=transport,
        )
        self._requests = Requests(self._http.build_request, retries)

    predict = _blocking(Requests.predict)
    predict_mc = _blocking(Requests.predict_mc)
    predict_batch = _blocking(Requests.predict_batch)
    predict_mc_batch = _blocking(Requests.predict_mc_batch)
    model = _blocking(Requests.model)

    @takes(McParameters)
    def predict_mc_stream(self, image: "Image", **parameters: Any) -> Iterator[McPrediction]:
        """Partial results while the passes are computed; the last answer is that of `predict_mc`.

        Raises:
            DropserveError: see `app.client.errors`; also between two answers.
        """
        flow = self._requests.open_stream(image, parameters)
        response = self._run(flow, is_streamed=True)
        reader = EventReader(response)
        try:
            for chunk in response.iter_bytes():
                yield from reader.feed(chunk)
        except httpx.RequestError as error:
            raise connection_error(error) from error
        finally:
            response.close()
        reader.finish()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, flow: Flow[R], *, is_streamed: bool = False) -> R:
        outcome: httpx.Response | httpx.RequestError | None = None
        try:
            while True:
                step = flow.send(outcome)
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
    """`DropserveClient` for asyncio: the same methods, with `await`, `async with` and `async for`.

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
            base_url=_checked_address(url),
            timeout=timeout,
            headers=_headers(headers, api_key),
            transport=transport,
        )
        self._requests = Requests(self._http.build_request, retries)

    predict = _awaitable(Requests.predict)
    predict_mc = _awaitable(Requests.predict_mc)
    predict_batch = _awaitable(Requests.predict_batch)
    predict_mc_batch = _awaitable(Requests.predict_mc_batch)
    model = _awaitable(Requests.model)

    @takes(McParameters)
    async def predict_mc_stream(
        self, image: "Image", **parameters: Any
    ) -> AsyncIterator[McPrediction]:
        """See `DropserveClient.predict_mc_stream`."""
        flow = self._requests.open_stream(image, parameters)
        response = await self._run(flow, is_streamed=True)
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

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, flow: Flow[R], *, is_streamed: bool = False) -> R:
        outcome: httpx.Response | httpx.RequestError | None = None
        try:
            while True:
                step = flow.send(outcome)
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


def _checked_address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url} is not an address such as {DEFAULT_URL}")
    return url


def _headers(given: Mapping[str, str] | None, api_key: str | None) -> dict[str, str]:
    headers = {"user-agent": f"dropserve/{version('dropserve')}"}
    if api_key is not None:
        if not api_key.isascii() or not api_key.isprintable():
            raise ValueError("the API key has characters that an HTTP header cannot hold")
        headers["authorization"] = f"Bearer {api_key}"
    return headers | dict(given or {})
