"""One input tensor -> images: every claim of its header is checked against what was sent.

Sizes are compared before anything is converted, so a shape can claim whatever it wants: it is never
allocated, and its product is a Python integer, which does not overflow.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import ErrorCode
from app.inference.decoding import decode_base64
from app.open_inference.protocol import IMAGE, PIXEL_COUNT, PIXELS, invalid, parameters_of
from model.arrays import Pixels
from model.literals import SIDE

_FIELDS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_ITEM_SHAPES: Mapping[str, tuple[list[int], ...]] = {
    PIXELS: ([PIXEL_COUNT], [SIDE, SIDE]),
    IMAGE: ([],),
}
_SHAPES = {PIXELS: f"[B, {PIXEL_COUNT}] or [B, {SIDE}, {SIDE}]", IMAGE: "[B]"}
_DATATYPES: Mapping[str, Mapping[str, int]] = {
    PIXELS: {"UINT8": 1, "FP32": 4},  # bytes of a value
    IMAGE: {"BYTES": 0},
}
_LENGTH_BYTES = 4


class InputHeader(NamedTuple):
    """What a request says of its input, checked as far as that goes without the raw data.

    Attributes:
        name: pixels or image.
        datatype: one that the input takes.
        shape: one that the input takes.
        binary_size: bytes of raw data behind the JSON; None: the data is in the JSON.
        data: the data in the JSON, if it is there.
    """

    name: str
    datatype: str
    shape: list[int]
    binary_size: int | None
    data: Any


def read_input_header(tensor: Any, max_images: int) -> InputHeader:
    """Checks the names, the shape and the sizes of an input.

    Args:
        tensor: the input as it stands in the JSON.
        max_images: the most that one request may have.

    Raises:
        ApiError: invalid_request, names what does not fit together.
        ApiError: too_many_images, the batch is larger than `max_images`.
    """
    name, datatype, shape = _read_names(tensor)
    _check_shape(name, shape, max_images)
    return InputHeader(name, datatype, shape, _binary_size(tensor), tensor.get("data"))


def raw_input_header(size: int, max_images: int) -> InputHeader:
    """What a body without JSON stands for: pixels, as many images as there are.

    Raises:
        ApiError: invalid_request, it is no whole number of images.
        ApiError: too_many_images, the batch is larger than `max_images`.
    """
    count, rest = divmod(size, PIXEL_COUNT)
    if rest:
        raise invalid(f"without a JSON header the body must be {PIXEL_COUNT} bytes for each image")
    shape = [count, PIXEL_COUNT]
    _check_shape(PIXELS, shape, max_images)
    return InputHeader(PIXELS, "UINT8", shape, size, None)


def read_images(header: InputHeader, binary: memoryview) -> "list[Pixels] | list[bytes]":
    """The images of a request's input, in order.

    Args:
        header: what the request says of it.
        binary: all that follows the JSON.

    Returns:
        Pixels, each (28, 28), or encoded image files.

    Raises:
        ApiError: invalid_request, the data is not what the header says.
    """
    name, datatype, shape, size, data = header
    if size is None and len(binary):
        raise invalid("no input claims the bytes that follow the JSON; see binary_data_size")
    if size is not None and size != len(binary):
        raise invalid(
            "binary_data_size must be the number of bytes after the JSON; the header "
            "Inference-Header-Content-Length must be the number of bytes of the JSON"
        )
    count = shape[0]
    if name == IMAGE:
        files = _files_from_json(data, count) if size is None else _split_elements(binary, count)
        if not all(files):
            raise invalid("an element of image is empty; send encoded image files")
        return files
    if size is None:
        values = _pixels_from_json(data, shape, datatype)
    else:
        values = _pixels_from_binary(binary, count, datatype)
    # As values.max(), without the layer of Python in it.
    if datatype == "UINT8" and np.maximum.reduce(values) == 1:
        raise invalid(
            "no pixel is above 1: these look scaled to 0 to 1, which would be black images; send "
            "UINT8 from 0 to 255, or FP32"
        )
    return list(values.reshape(count, SIDE, SIDE))


def _read_names(tensor: Any) -> tuple[str, str, list[int]]:
    if not isinstance(tensor, dict) or not tensor.keys() >= {"name", "shape", "datatype"}:
        raise invalid("an input is an object with name, shape, datatype and data")
    if not tensor.keys() <= _FIELDS:
        raise invalid("an input has name, shape, datatype, parameters and data only")
    name, datatype, shape = tensor["name"], tensor["datatype"], tensor["shape"]
    if not isinstance(name, str) or name not in _DATATYPES:
        raise invalid(
            f"the inputs are {PIXELS} (UINT8 or FP32) and {IMAGE} (BYTES, encoded image files)"
        )
    if not isinstance(datatype, str) or datatype not in _DATATYPES[name]:
        raise invalid(
            "pixels must be UINT8, 0 to 255, or FP32, 0 to 1; convert them"
            if name == PIXELS
            else "image must be BYTES: encoded image files"
        )
    return name, datatype, shape


def _check_shape(name: str, shape: Any, max_images: int) -> None:
    # Booleans are integers in Python, so types are compared.
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise invalid("shape must be a list of whole numbers")
    if not shape or shape[1:] not in _ITEM_SHAPES[name] or shape[0] < 1:
        raise invalid(f"the shape of {name} must be {_SHAPES[name]}, B at least 1")
    if shape[0] > max_images:
        raise ErrorCode.TOO_MANY_IMAGES(
            f"a request takes at most {max_images} images; send several smaller ones"
        )


def _binary_size(tensor: dict[str, Any]) -> int | None:
    """How many bytes after the JSON are the tensor's data; None: the data is in the JSON."""
    parameters = parameters_of(tensor)
    if not parameters.keys() <= {"binary_data_size"}:
        raise invalid(
            "an input's only parameter is binary_data_size; shared memory is not supported"
        )
    if not parameters:
        if "data" not in tensor:
            raise invalid("the input has no data, and no binary_data_size either")
        return None
    size = parameters["binary_data_size"]
    if "data" in tensor:
        raise invalid("the input has both data and binary_data_size; send one of them")
    if type(size) is not int or size < 0:
        raise invalid("binary_data_size must be a whole number of bytes")
    return size


def _pixels_from_binary(binary: memoryview, count: int, datatype: str) -> Pixels:
    if len(binary) != count * PIXEL_COUNT * _DATATYPES[PIXELS][datatype]:
        raise invalid("binary_data_size is not what the shape and datatype come to")
    if datatype == "UINT8":
        # A copy, since the pixels outlive the body.
        return np.frombuffer(binary, dtype=np.uint8).copy()
    return _from_unit_range(np.frombuffer(binary, dtype="<f4"))


def _pixels_from_json(data: Any, shape: list[int], datatype: str) -> Pixels:
    flat = _flatten(data, shape)
    types = set(map(type, flat))
    if datatype == "UINT8":
        with suppress(ValueError):  # a number that is no byte
            if types == {int}:
                return np.frombuffer(bytearray(flat), dtype=np.uint8)
        raise invalid("UINT8 pixels must be whole numbers from 0 to 255, where 255 is ink")
    if not types <= {int, float}:
        raise invalid(_SEND_UNIT_RANGE)
    return _from_unit_range(np.array(flat, dtype=np.float64))


_SEND_UNIT_RANGE = (
    "FP32 pixels must be numbers from 0 to 1, where 1 is ink; send 0 to 255 as UINT8 instead"
)


def _from_unit_range(values: NDArray[np.floating[Any]]) -> Pixels:
    """Pixels from shares of full ink; what came from 8 bits gets them back exactly."""
    # Written so that NaN, which compares as false, is refused.
    if not (values.min() >= 0 and values.max() <= 1):
        raise invalid(_SEND_UNIT_RANGE)
    pixels: Pixels = np.rint(values * 255).astype(np.uint8)
    return pixels


def _flatten(data: Any, shape: list[int]) -> list[Any]:
    """The values of a list that is flat, or nested as the shape says."""
    expected = invalid(
        f"data must have the {'x'.join(map(str, shape))} values that the shape says, "
        "in one list or nested like the shape"
    )
    if not isinstance(data, list) or not data:
        raise expected
    values: list[Any] = data
    is_flat = not isinstance(values[0], list)
    if len(values) != (math.prod(shape) if is_flat else shape[0]):
        raise expected
    for size in () if is_flat else shape[1:]:
        if any(type(row) is not list or len(row) != size for row in values):
            raise expected
        values = list(chain.from_iterable(values))
    return values


def _files_from_json(data: Any, count: int) -> list[bytes]:
    if not isinstance(data, list) or len(data) != count:
        raise invalid("data must have as many strings as the shape says, in one list")
    return [decode_base64(item) for item in data]


def _split_elements(binary: memoryview, count: int) -> list[bytes]:
    """BYTES as raw data: each element is its length, 4 bytes, little-endian, and its bytes."""
    elements = []
    offset = 0
    for _ in range(count):
        begin = offset + _LENGTH_BYTES
        offset = begin + int.from_bytes(binary[begin - _LENGTH_BYTES : begin], "little")
        elements.append(bytes(binary[begin:offset]))
    # Also where one of them reached beyond the end: the offset only grows.
    if offset != len(binary):
        raise invalid(
            "the elements of image do not fill binary_data_size: each is its length, as 4 bytes, "
            "little-endian, and that many bytes"
        )
    return elements
