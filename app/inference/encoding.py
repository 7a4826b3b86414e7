"""Answers as JSON, and the small pictures in them."""

from base64 import b64encode
from io import BytesIO
from typing import Any

import orjson
from PIL import Image

from model.arrays import Pixels

# The longer side of a small picture.
_SMALL_SIDE = 160


def encode_json(content: Any) -> bytes:
    """JSON of answers, Python and NumPy values; float32 is written with float32's digits."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_small(pixels: Pixels) -> str:
    """A PNG of a picture (H, W), scaled down to at most 160 pixels, in base64."""
    picture, file = Image.fromarray(pixels), BytesIO()
    picture.thumbnail((_SMALL_SIDE, _SMALL_SIDE), Image.Resampling.BOX)
    picture.save(file, "PNG")
    return b64encode(file.getvalue()).decode()
