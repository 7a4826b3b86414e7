"""The bytes of a body, and the memory that all bodies have until they are parsed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NoReturn, TypeVar

from starlette.requests import ClientDisconnect, Request

from app.api.compression import inflate, inflate_inline
from app.errors import ErrorCode
from app.inference.json_structure import INLINE_JSON_BYTES

# What is read off a body that is too large before the answer, so that its sender sees the answer
# and not a broken pipe.
_DISCARDED_BYTES = 32 * 2**20
_DISCARDING_SECONDS = 2.0
# Most images are smaller, and cost little.
_SMALL_BYTES = 4096
# All bodies that arrive in pieces hold at most the memory of this many of the largest, whatever the
# number of connections.
_MOST_UNREAD_BODIES = 8

T = TypeVar("T")
Headers = dict[bytes, bytes]


def headers_of(request: Request) -> Headers:
    """By name; of several of one name the first."""
    return dict(reversed(request.scope["headers"]))


async def read_body(
    request: Request,
    headers: Headers,
    limit: int,
    look: Callable[[bytes, int], None] | None = None,
) -> bytes:
    """The whole body.

    Args:
        request: whose body is read.
        headers: its headers.
        limit: the most bytes.
        look: called with the first part of a large body, and the least size of the whole; may
            refuse it.

    Raises:
        ApiError: body_too_large, after a little of the rest was read off;
            overloaded, the bodies that are still arriving hold too much memory.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        # A client that waits for "100 Continue" has sent nothing yet, and will not.
        if b"expect" not in headers:
            await _discard(request.stream())
        _raise_too_large(limit)
    # As `request.stream` does, without a generator: nearly every body is a single chunk.
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    chunk: bytes = message.get("body", b"")
    more_body = message.get("more_body", False)
    if look is not None and (more_body or len(chunk) > _SMALL_BYTES):
        look(chunk, int(declared) if declared.isdigit() else len(chunk) + more_body)
    if more_body:
        return await _read_rest(request, chunk, limit)
    if len(chunk) > limit:
        _raise_too_large(limit)
    return chunk


async def _read_rest(request: Request, first: bytes, limit: int) -> bytes:
    state = request.app.state
    body = bytearray()
    chunk: bytes | None = first
    rest = request.stream()
    try:
        while chunk is not None:
            if len(body) + len(chunk) > limit:
                state.unread_body_bytes -= len(body)
                body = bytearray()  # not held while the rest is read off
                await _discard(rest)
                _raise_too_large(limit)
            body += chunk
            state.unread_body_bytes += len(chunk)
            _check_unread_bodies(request)
            chunk = await anext(rest, None)
        return bytes(body)
    finally:
        state.unread_body_bytes -= len(body)


def _check_unread_bodies(request: Request) -> None:
    state = request.app.state
    if state.unread_body_bytes > _MOST_UNREAD_BODIES * state.settings.max_body_bytes:
        raise ErrorCode.OVERLOADED(
            "too many large bodies are on their way to this server; try again after the seconds in "
            "Retry-After"
        )


@asynccontextmanager
async def large_body(request: Request, body: bytes) -> AsyncIterator[None]:
    """One large body at a time is parsed, since parsing multiplies its memory.

    A body that waits for its turn still counts as one that is on its way.

    Raises:
        ApiError: overloaded, these bodies hold too much memory.
    """
    state = request.app.state
    state.unread_body_bytes += len(body)
    try:
        _check_unread_bodies(request)
        async with state.parsing:
            yield
    finally:
        state.unread_body_bytes -= len(body)


async def parse_body(
    request: Request, headers: Headers, body: bytes, parse: Callable[[bytes], T]
) -> T:
    """The result of `parse`, which a thread calls if the body is large.

    Raises:
        ApiError: see `inflate`; overloaded.
    """
    encoding = headers.get(b"content-encoding")
    if encoding is not None:
        limit, name = request.app.state.settings.max_body_bytes, encoding.decode("latin-1")
        inflated = inflate_inline(body, name, limit)
        if inflated is None:
            async with large_body(request, body):  # which may inflate a thousandfold
                return await asyncio.to_thread(lambda: parse(inflate(body, name, limit)))
        body = inflated
    if len(body) <= INLINE_JSON_BYTES:
        return parse(body)
    async with large_body(request, body):
        return await asyncio.to_thread(parse, body)


async def _discard(stream: AsyncGenerator[bytes, None]) -> None:
    left = _DISCARDED_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARDING_SECONDS):
            async for chunk in stream:
                left -= len(chunk)
                if left < 0:
                    return


def _raise_too_large(limit: int) -> NoReturn:
    raise ErrorCode.BODY_TOO_LARGE(
        f"the body is larger than the {limit:,} bytes this server accepts; send a smaller image",
        headers={"connection": "close"},
    )
