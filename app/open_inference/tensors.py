"""One input tensor -> images: every claim of its header is checked against what was sent.

Sizes are compared before anything is converted, so a shape can claim whatever it wants: it is never
allocated, and its product is a Python integer, which does not overflow.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from app.errors import ErrorCode
from app.inference.base64_images import decode_base64
from app.inference.plain_inputs import described, flatten, picture_size, takes_digits
from app.open_inference.protocol import (
    IMAGE,
    INPUT,
    PIXEL_COUNT,
    PIXELS,
    invalid,
    parameters_of,
)
from model.arrays import Floats, Pixels
from model.layered import InputSpec
from model.literals import SIDE

Datatype = Literal["UINT8", "FP32", "INT64", "BYTES"]

_FIELDS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_BYTES_OF_A_VALUE: Mapping[str, int] = {"UINT8": 1, "FP32": 4, "BYTES": 0}
_LENGTH_BYTES = 4


class InputTensor(NamedTuple):
    """An input that a request may have.

    Attributes:
        name: pixels, image or input.
        datatypes: that it may have, the one of the metadata first.
        item_shapes: that one of its items may have, the one of the metadata first.
    """

    name: str
    datatypes: tuple[Datatype, ...]
    item_shapes: tuple[tuple[int, ...], ...]


class ModelInputs:
    """What a network takes, of which a request has one.

    Attributes:
        spec: of the network's inputs.
        first: the input that the metadata shows.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        flat = (math.prod(spec.shape),)
        shapes: tuple[tuple[int, ...], ...]
        if takes_digits(spec):
            shapes = ((PIXEL_COUNT,), (SIDE, SIDE))
            self.first = InputTensor(PIXELS, ("UINT8", "FP32"), shapes)
        else:
            shapes = (spec.shape,) if spec.shape == flat else (spec.shape, flat)
            self.first = InputTensor(INPUT, ("UINT8" if spec.dtype == "uint8" else "FP32",), shapes)
        tensors = [self.first]
        if takes_digits(spec) or picture_size(spec):
            tensors.append(InputTensor(IMAGE, ("BYTES",), ((),)))
        self._tensors = {tensor.name: tensor for tensor in tensors}

    def named(self, name: Any) -> InputTensor:
        """An input; raises an ApiError, invalid_request, if there is none of this name."""
        if not isinstance(name, str) or name not in self._tensors:
            raise invalid(self._known())
        return self._tensors[name]

    def _known(self) -> str:
        if IMAGE not in self._tensors:
            return f"the one input is {INPUT}, {self.first.datatypes[0]}"
        kinds = " or ".join(self.first.datatypes)
        return (
            f"the inputs are {self.first.name} ({kinds}) and {IMAGE} (BYTES, encoded image files)"
        )


DIGITS = ModelInputs(InputSpec((SIDE, SIDE), "uint8", preparation="digit"))


class InputHeader(NamedTuple):
    """What a request says of its input, checked as far as that goes without the raw data.

    Attributes:
        name: of the input.
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


def read_input_header(tensor: Any, max_images: int, inputs: ModelInputs = DIGITS) -> InputHeader:
    """Checks the names, the shape and the sizes of an input.

    Args:
        tensor: the input as it stands in the JSON.
        max_images: the most that one request may have.
        inputs: that the network takes.

    Raises:
        ApiError: invalid_request, names what does not fit together.
        ApiError: too_many_images, the batch is larger than `max_images`.
    """
    known, datatype = _read_names(tensor, inputs)
    shape: list[int] = tensor["shape"]
    _check_shape(known, shape, max_images)
    return InputHeader(known.name, datatype, shape, _binary_size(tensor), tensor.get("data"))


def raw_input_header(size: int, max_images: int, inputs: ModelInputs = DIGITS) -> InputHeader:
    """What a body without JSON stands for: the first input, as many images as there are.

    Raises:
        ApiError: invalid_request, it is no whole number of images.
        ApiError: too_many_images, the batch is larger than `max_images`.
    """
    known = inputs.first
    datatype, item = known.datatypes[0], known.item_shapes[0]
    each = math.prod(item) * _BYTES_OF_A_VALUE[datatype]
    count, rest = divmod(size, each)
    if rest:
        raise invalid(f"without a JSON header the body must be {each} bytes for each image")
    shape = [count, *item]
    _check_shape(known, shape, max_images)
    return InputHeader(known.name, datatype, shape, size, None)


def read_images(
    header: InputHeader, binary: memoryview, inputs: ModelInputs = DIGITS
) -> "list[Pixels | Floats] | list[bytes]":
    """The images of a request's input, in order.

    Args:
        header: what the request says of it.
        binary: all that follows the JSON.
        inputs: that the network takes.

    Returns:
        Pixels, each (28, 28), encoded image files, or inputs of the network's own shape.

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
    is_unit_range = datatype == "FP32" and takes_digits(inputs.spec)
    values = (
        _values_from_json(data, shape, datatype, is_unit_range=is_unit_range)
        if size is None
        else _values_from_binary(binary, shape, datatype, is_unit_range=is_unit_range)
    )
    if not takes_digits(inputs.spec):
        if datatype == "FP32" and not np.isfinite(values).all():
            raise invalid(f"an item of {name} must be {described(inputs.spec)}")
        return cast("list[Pixels | Floats]", list(values.reshape(count, *inputs.spec.shape)))
    # As values.max(), without the layer of Python in it.
    if datatype == "UINT8" and np.maximum.reduce(values) == 1:
        raise invalid(
            "no pixel is above 1: these look scaled to 0 to 1, which would be black images; send "
            "UINT8 from 0 to 255, or FP32"
        )
    return [*cast(Pixels, values).reshape(count, SIDE, SIDE)]


def _read_names(tensor: Any, inputs: ModelInputs) -> tuple[InputTensor, str]:
    if not isinstance(tensor, dict) or not tensor.keys() >= {"name", "shape", "datatype"}:
        raise invalid("an input is an object with name, shape, datatype and data")
    if not tensor.keys() <= _FIELDS:
        raise invalid("an input has name, shape, datatype, parameters and data only")
    known, datatype = inputs.named(tensor["name"]), tensor["datatype"]
    if not isinstance(datatype, str) or datatype not in known.datatypes:
        raise invalid(_DATATYPE_CURES.get(known.name, f"input must be {known.datatypes[0]}"))
    return known, datatype


_DATATYPE_CURES = {
    PIXELS: "pixels must be UINT8, 0 to 255, or FP32, 0 to 1; convert them",
    IMAGE: "image must be BYTES: encoded image files",
}


def _check_shape(known: InputTensor, shape: Any, max_images: int) -> None:
    # Booleans are integers in Python, so types are compared.
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise invalid("shape must be a list of whole numbers")
    if not shape or tuple(shape[1:]) not in known.item_shapes or shape[0] < 1:
        shapes = " or ".join(str(["B", *item]).replace("'", "") for item in known.item_shapes)
        raise invalid(f"the shape of {known.name} must be {shapes}, B at least 1")
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


def _values_from_binary(
    binary: memoryview, shape: list[int], datatype: str, *, is_unit_range: bool
) -> Pixels | Floats:
    if len(binary) != math.prod(shape) * _BYTES_OF_A_VALUE[datatype]:
        raise invalid("binary_data_size is not what the shape and datatype come to")
    if datatype == "UINT8":
        # A copy, since the pixels outlive the body.
        return np.frombuffer(binary, dtype=np.uint8).copy()
    values = np.frombuffer(binary, dtype="<f4")
    return _from_unit_range(values) if is_unit_range else values.astype(np.float32)


def _values_from_json(
    data: Any, shape: list[int], datatype: str, *, is_unit_range: bool
) -> Pixels | Floats:
    flat = flatten(data, tuple(shape))
    if flat is None:
        raise invalid(
            f"data must have the {'x'.join(map(str, shape))} values that the shape says, "
            "in one list or nested like the shape"
        )
    types = set(map(type, flat))
    if datatype == "UINT8":
        with suppress(ValueError):  # a number that is no byte
            if types == {int}:
                return np.frombuffer(bytearray(flat), dtype=np.uint8)
        raise invalid("UINT8 pixels must be whole numbers from 0 to 255, where 255 is ink")
    if not types <= {int, float}:
        raise invalid(_SEND_UNIT_RANGE if is_unit_range else "FP32 values must be numbers")
    values = np.array(flat, dtype=np.float64)
    if is_unit_range:
        return _from_unit_range(values)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


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
