"""The JSON body of a request: images in base64, pixels, or numbers for another network."""

import itertools
import json
from codecs import BOM_UTF8
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from app.errors import ApiError, ErrorCode
from app.inference.base64_images import decode_base64
from app.inference.decoding import Image
from app.inference.image_formats import find_mistake, identify
from app.inference.json_structure import INLINE_JSON_BYTES, check_structure
from app.inference.plain_inputs import (
    described,
    input_from_json,
    json_shape,
    picture_size,
    shown,
    takes_digits,
)
from model.layered import InputSpec
from model.literals import SIDE

Fields = Iterable[tuple[str, Any]]

_IMAGE_FIELDS = ("image", "pixels")


def too_many(limit: int) -> ApiError:
    """The refusal of a batch of more images than that."""
    return ErrorCode.TOO_MANY_IMAGES(
        f"a batch takes at most {limit} images; send several smaller batches"
    )


def explain_type(body: bytes) -> str | None:
    """What a body is, if it is not what its Content-Type says; None: unknown."""
    mistake, kind = find_mistake(body), identify(body)
    if mistake is None and kind is not None:
        mistake = (
            f"this is a {kind} file, and Content-Type says otherwise; send the header "
            f"Content-Type: image/{kind.lower()}"
        )
    return mistake


def image_of_json(body: bytes, spec: InputSpec | None = None) -> tuple[Image, Fields]:
    """The image of a request for one, and what else is in its JSON.

    Raises:
        ApiError: the one that says what to change.
    """
    document = _parse_json(body, 1, spec)
    return _take_image(document, spec), document.items()


def images_of_json(
    body: bytes, limit: int, spec: InputSpec | None = None
) -> tuple[list[Image | ApiError], Fields]:
    """The images of a request for at most `limit`; see `image_of_json`."""
    document = _parse_json(body, limit, spec)
    inputs = document.pop("inputs", None)
    if not isinstance(inputs, list) or not inputs:
        raise ErrorCode.INVALID_PARAMETER(
            f"inputs must be a list of objects such as {_example(spec)}", param="inputs"
        )
    if len(inputs) > limit:
        raise too_many(limit)
    return [_image_or_error(item, spec) for item in inputs], document.items()


def _parse_json(body: bytes, images: int, spec: InputSpec | None) -> dict[str, Any]:
    if not body:
        raise ErrorCode.EMPTY_BODY()
    # What is no object is refused anyway.
    if not body.removeprefix(BOM_UTF8).lstrip().startswith(b"{") and (cure := explain_type(body)):
        raise ErrorCode.INVALID_JSON(cure)
    check_structure(body, images, (SIDE, SIDE) if spec is None else json_shape(spec))
    in_thread = len(body) > INLINE_JSON_BYTES
    try:
        document = json.loads(
            body,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            # A thread lets others have the interpreter only where it calls Python functions.
            parse_int=(lambda text: int(text)) if in_thread else None,
            parse_float=(lambda text: float(text)) if in_thread else None,
        )
    except (ValueError, RecursionError) as error:
        raise ErrorCode.INVALID_JSON() from error
    if not isinstance(document, dict):
        raise ErrorCode.INVALID_PARAMETER(
            f"the JSON body must be an object such as {_example(spec)}"
        )
    return document


def _example(spec: InputSpec | None) -> str:
    if spec is None or takes_digits(spec) or picture_size(spec):
        return '{"image": "<base64>"}'
    return f'{{"input": {shown(spec)}}}'


def _take_image(document: dict[str, Any], spec: InputSpec | None) -> Image:
    """Removes the image from the document and reads it."""
    if spec is not None and not takes_digits(spec):
        return _take_input(document, spec)
    given = [name for name in _IMAGE_FIELDS if name in document]
    if len(given) > 1:
        raise ErrorCode.CONFLICTING_PARAMETERS(
            "image and pixels are two images; send one of them", param="pixels"
        )
    if not given:
        raise ErrorCode.INVALID_PARAMETER(
            "the JSON body needs image (base64) or pixels (28 rows of 28)", param="image"
        )
    value = document.pop(given[0])
    return decode_base64(value) if given[0] == "image" else _parse_pixels(value)


def _take_input(document: dict[str, Any], spec: InputSpec) -> Image:
    if "image" in document and "input" in document:
        raise ErrorCode.CONFLICTING_PARAMETERS(
            "image and input are two inputs; send one of them", param="input"
        )
    if "input" in document:
        return input_from_json(document.pop("input"), spec)
    if "image" not in document:
        raise ErrorCode.INVALID_PARAMETER(
            f"the JSON body needs input: {described(spec)}", param="input"
        )
    return decode_base64(document.pop("image"))


def _image_or_error(item: Any, spec: InputSpec | None) -> Image | ApiError:
    if not isinstance(item, dict):
        return ErrorCode.INVALID_PARAMETER(f"an input must be an object such as {_example(spec)}")
    try:
        image = _take_image(item, spec)
    except ApiError as error:
        return error
    if item:
        return ErrorCode.INVALID_PARAMETER(
            "an input has image or pixels and nothing else; parameters go next to inputs"
        )
    return image


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        for name, value in pairs:
            if (type(value), value) != (type(document[name]), document[name]):
                raise ErrorCode.CONFLICTING_PARAMETERS(
                    "a name stands twice in the JSON body with different values; give it once"
                )
    return document


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _parse_pixels(value: Any) -> NDArray[np.uint8]:
    rows = value if isinstance(value, list) else []
    if len(rows) == SIDE and all(isinstance(row, list) and len(row) == SIDE for row in rows):
        rows = list(itertools.chain.from_iterable(rows))
    is_whole = len(rows) == SIDE * SIDE
    # Booleans are integers in Python, so types are compared and not tested with isinstance.
    if not is_whole or set(map(type, rows)) != {int} or min(rows) < 0 or max(rows) > 255:
        raise ErrorCode.INVALID_PIXELS(
            f"pixels must be {SIDE} rows of {SIDE} integers, where 255 is ink; send integers 0 to "
            "255",
            param="pixels",
        )
    if max(rows) <= 1:
        raise ErrorCode.INVALID_PIXELS(
            "no pixel is above 1: these look scaled to [0, 1], which would be a black image; "
            "send integers 0 to 255",
            param="pixels",
        )
    return np.array(rows, dtype=np.uint8).reshape(SIDE, SIDE)
