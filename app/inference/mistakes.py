"""What went wrong with a body on its way here: looked for only once it cannot be read."""

import re
from base64 import b64encode
from codecs import getincrementaldecoder

from app.inference.image_formats import SIGNATURES

# What text tools have done shows within the first bytes, and not in fewer than these.
_LEAST_BYTES, _HEAD_BYTES = 40, 65_536

# How image files begin, after each mistake.
_STRIPPED = tuple(
    signature.translate(None, lost) for signature in SIGNATURES for lost in (b"\0", b"\r\n\0")
)
_AS_TEXT = tuple(
    signature.decode(encoding, "replace").encode()
    for signature in SIGNATURES
    for encoding in ("utf-8", "latin-1", "cp1252")
)
# The last character of base64 also depends on the byte that follows.
_BASE64 = b"|".join(
    re.escape(b64encode(signature)[: len(signature) * 8 // 6]) for signature in SIGNATURES
)

_LOST_BYTES = (
    "the newlines and zero bytes of this image file are missing: curl -d and --data leave them "
    "out; send it with --data-binary @FILE"
)
_TEXT = (
    "this image file was read as text and sent as UTF-8, which changes its bytes; send them as "
    "they are: in JavaScript a Blob or ArrayBuffer, in Python what open(FILE, 'rb') reads"
)
_MISTAKES = (
    (
        re.compile(rb"data:image/|(?=[\w+/=\s-]{40})(?:%s)" % _BASE64),
        'this is an image file in base64; send its bytes, or {"image": "<base64>"} with the header '
        "Content-Type: application/json",
    ),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*\{\s*[\"}]"),
        "this is JSON, and Content-Type does not say so; send the header Content-Type: "
        "application/json",
    ),
    (
        re.compile(rb"(\r\n)?--[^\r\n]{1,200}\r\ncontent-", re.IGNORECASE),
        "this is a form, and Content-Type does not name multipart/form-data and its boundary; do "
        "not set that header: curl -F, requests and fetch write it themselves",
    ),
    (
        re.compile(rb"[a-z_]{1,40}="),
        "this is a form of the type x-www-form-urlencoded, which holds no image; send the file "
        "(curl: -F file=@FILE, requests: files={...}) or JSON (requests: json={...})",
    ),
    (
        re.compile(rb"[^\0-\x1f]{1,200}\.(png|jpe?g|webp|bmp|gif|tiff?)\s*\Z", re.IGNORECASE),
        "this is the name of a file and not the file; curl sends the file with @ before its name: "
        "--data-binary @FILE",
    ),
    (
        re.compile(rb"\x1f\x8b"),
        "this is compressed with gzip; send the header Content-Encoding: gzip with it, or the file "
        "as it is",
    ),
)


def find_mistake(data: bytes) -> str | None:
    """What was done to a body, or a file, that cannot be read, and the cure; None: nothing known.

    Examples are newlines taken out, bytes sent as text, base64, or another kind of body than its
    Content-Type says.
    """
    head = data[:_HEAD_BYTES]
    is_text = _is_text(head, is_whole=len(data) == len(head))
    # An image file has bytes that are no UTF-8, and zero bytes among the first ones.
    is_long = len(head) >= _LEAST_BYTES
    if is_long and not is_text and b"\0" not in head and head.startswith(_STRIPPED):
        return _LOST_BYTES
    if is_long and is_text and not head.isascii() and head.startswith(_AS_TEXT):
        return _TEXT
    return next((cure for pattern, cure in _MISTAKES if pattern.match(head)), None)


def _is_text(head: bytes, *, is_whole: bool) -> bool:
    """Whether it is UTF-8; where more follows, its last character may be cut off."""
    try:
        getincrementaldecoder("utf-8")().decode(head, final=is_whole)
    except UnicodeDecodeError:
        return False
    return True
