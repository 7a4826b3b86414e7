"""Images in base64, as JSON holds them."""

import base64
import re

from app.errors import ErrorCode

_SPACES = b" \t\n\r\v\f"  # in base64, as lines or indented
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,")


def decode_base64(value: object) -> bytes:
    """The bytes of an image in base64, or in a data: URL of it.

    Raises:
        ApiError: invalid_parameter, it is neither.
    """
    if not isinstance(value, str):
        raise ErrorCode.INVALID_PARAMETER(
            "image must be a string: the image file in base64", param="image"
        )
    prefix = _DATA_URL.match(value)
    text = value[prefix.end() :] if prefix else value
    try:
        # Not split at the spaces: "A A A ..." would become millions of strings.
        packed = text.encode("ascii").translate(_FROM_URL_SAFE, _SPACES)
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except ValueError as error:
        cure = "encode the image file's bytes"
        if value.startswith(("b'", 'b"')):
            cure = "it is how Python prints bytes; use b64encode(...).decode()"
        raise ErrorCode.INVALID_PARAMETER(
            f"image is not valid base64; {cure}", param="image"
        ) from error
