"""Answers as JSON."""

from typing import Any

import orjson


def encode_json(content: Any) -> bytes:
    """JSON of answers, Python and NumPy values; float32 is written with float32's digits."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
