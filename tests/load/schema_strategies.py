"""Image files of every format, and base64, for schemathesis to send where the schema has an image.

Schemathesis loads this module itself, through `schema_fuzz.toml`.
"""

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from tests.load.servers import sample

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/gif": "GIF",
    "image/tiff": "TIFF",
}
# What a parameter, in effect, cannot be given with.
_EXCLUDED = {
    "estimator": ("max_standard_error", "until"),
    "max_standard_error": ("until",),
    "dropout": ("coverage", "target_error", "until"),
}
_LEVELS = {"coverage": 0.99, "target_error": 0.005}
_MODES = {"JPEG": ("L", "RGB"), "WEBP": ("RGB", "RGBA")}


@st.composite
def image_files(draw: Callable[..., object], kind: str) -> bytes:
    """A digit in a random size and color mode."""
    digit = draw(st.integers(0, 9))
    side = draw(st.sampled_from((28, 28, 29, 64, 65, 200)))
    mode = draw(st.sampled_from(_MODES.get(kind, ("L", "RGB", "P"))))
    assert isinstance(side, int)
    assert isinstance(mode, str)
    with Image.open(io.BytesIO(sample(f"{digit}.png"))) as opened:
        picture = opened.convert("L").resize((side, side)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


ANY_IMAGE = st.one_of([image_files(kind) for kind in FORMATS.values()])

for media_type, image_format in FORMATS.items():
    schemathesis.openapi.media_type(media_type, image_files(image_format))
schemathesis.openapi.format("binary", ANY_IMAGE)
schemathesis.openapi.format("byte", ANY_IMAGE.map(lambda file: base64.b64encode(file).decode()))


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """Leaves out cases that should break a rule for a field that they lack: they are valid."""
    where = getattr(case.meta.phase.data, "location", None) if case.meta is not None else None
    named = re.fullmatch(r"/patternProperties/\^(\w+)\$", where or "")
    return named is None or not isinstance(case.body, dict) or named[1] in case.body


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], _: object) -> None:
    """Adapts valid requests to rules that the schema cannot express, so that they must succeed."""
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    query = case.query if isinstance(case.query, dict) else {}
    body = case.body if isinstance(case.body, dict) else {}
    # A parameter may be given once, in the query or in the body.
    for name in query.keys() & body.keys():
        del query[name]
    given = query | body
    for name, excluded in _EXCLUDED.items():
        if given.get(name) not in (None, "independent"):
            for other in excluded:
                query.pop(other, None)
                body.pop(other, None)
    for given in (query, body):
        # Levels of the committed checkpoint; the schema refers to GET /model for them.
        for name, level in _LEVELS.items():
            if given.get(name) is not None:
                given[name] = level
        # "none" accepts only 28x28 pixels.
        if given.get("preprocess") == "none" and "pixels" not in body:
            given["preprocess"] = "auto"
    inputs: Any = body.get("inputs", [])
    for item in [body, *inputs]:
        if "pixels" in item:
            item["pixels"] = _with_ink(item["pixels"])
    body.update(_with_whole_numbers(body))
    # Otherwise schemathesis checks again whether the case is valid, and rejects bytes for a string.
    case._record_starting_state()


def _with_ink(pixels: list[list[float]]) -> list[list[float]]:
    """The image with a 1 drawn over it, since images without ink are refused."""
    return [
        [255 if 6 <= y < 22 and 13 <= x < 16 else value // 16 for x, value in enumerate(row)]
        for y, row in enumerate(pixels)
    ]


def _with_whole_numbers(value: Any) -> Any:
    """Writes 7.0, which is an integer in JSON Schema, as 7."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_with_whole_numbers(one) for one in value]
    if isinstance(value, dict):
        return {name: _with_whole_numbers(one) for name, one in value.items()}
    return value
