"""gzip and deflate: requests are inflated under a cap, V2's answers deflated where it pays."""

import asyncio
import zlib

from app.errors import ErrorCode

# zlib's window size distinguishes the two containers.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
# What is inflated or deflated at once, on the event loop: well under a millisecond.
_INLINE_BYTES = 64 * 1024
# A smaller body fits in one packet anyway.
_LEAST_BYTES = 1024
_LEVEL = 1


def inflate_inline(body: bytes, encoding: str, limit: int) -> bytes | None:
    """As `inflate`, on the event loop; None: so much comes out that a thread must do it."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOW_BITS:
        raise ErrorCode.UNSUPPORTED_MEDIA_TYPE(
            "this content encoding cannot be undone; send gzip, deflate or the body as it is",
            headers={"accept-encoding": "gzip, deflate"},
        )
    inflater = zlib.decompressobj(_WINDOW_BITS[name])
    inflated = _take(inflater, body, min(_INLINE_BYTES, limit))
    if not inflater.eof and inflater.unconsumed_tail:
        return None
    return _checked(inflater, inflated)


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Undoes a request's Content-Encoding.

    Args:
        body: as it was received.
        encoding: the header's value, which `inflate_inline` has checked.
        limit: the most bytes that may come out; no more than that is ever allocated.

    Raises:
        ApiError: invalid_encoding, the body is damaged.
        ApiError: body_too_large, more than `limit` comes out.
    """
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding.strip().lower()])
    # One byte more than is allowed shows that there is more.
    inflated = _take(inflater, body, limit + 1)
    if len(inflated) > limit:
        raise ErrorCode.BODY_TOO_LARGE(
            f"the body inflates to more than the {limit:,} bytes this server accepts; send less"
        )
    return _checked(inflater, inflated)


def _checked(inflater: "zlib._Decompress", inflated: bytes) -> bytes:
    if not inflater.eof or inflater.unused_data:
        raise ErrorCode.INVALID_ENCODING()
    return inflated


def _take(inflater: "zlib._Decompress", data: bytes, most: int) -> bytes:
    try:
        return inflater.decompress(data, most)
    except zlib.error as error:
        raise ErrorCode.INVALID_ENCODING() from error


async def deflate(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """Compresses a response, if the client wants it and it is worth the time.

    Args:
        body: the response.
        accepted: the value of Accept-Encoding.

    Returns:
        The body, and its Content-Encoding if it is compressed now.
    """
    if len(body) < _LEAST_BYTES or not accepted:
        return body, None
    name = _preferred(accepted)
    if name is None:
        return body, None
    if len(body) <= _INLINE_BYTES:
        return _compress(body, name), name
    return await asyncio.to_thread(_compress, body, name), name


def _compress(body: bytes, name: str) -> bytes:
    return zlib.compress(body, _LEVEL, _WINDOW_BITS[name])


def _preferred(accepted: str) -> str | None:
    """Gzip or deflate, whichever is taken; a quality of 0 is a refusal."""
    taken = set()
    for item in accepted.lower().split(","):
        name, _, quality = item.partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            taken.add(name.strip())
    return next((name for name in _WINDOW_BITS if name in taken), None)
