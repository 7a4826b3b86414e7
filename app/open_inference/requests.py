"""The body of an inference request -> what is asked for: images, parameters, outputs."""

from codecs import BOM_UTF8
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from app.errors import ErrorCode
from app.inference.json_structure import check_structure
from app.inference.parameters import parse_parameters
from app.inference.plain_inputs import json_shape
from app.open_inference.protocol import IMAGE, invalid, parameters_of
from app.open_inference.tensors import InputHeader, raw_input_header, read_images, read_input_header
from app.schemas import McParameters, PredictParameters
from model.arrays import Floats, Pixels
from model.literals import SIDE

if TYPE_CHECKING:
    from app.open_inference.models import ServedModel, Tensor

# KServe's client repeats the model's name in the body.
_FIELDS = frozenset({"id", "parameters", "inputs", "outputs", "model_name", "model_version"})
# What the native routes return in addition to numbers, and tensors of this protocol do not hold.
_NOT_HERE = frozenset({"return_input", "return_steps", "return_passes", "coverage"})
_REMEMBERED_BYTES = 512  # the longest header
_LONGEST_NUMBER = 20  # digits
# One pass has no scatter.
_NEEDS_TWO_PASSES = frozenset({"variance", "standard_error"})


class WantedOutput(NamedTuple):
    """An output, and whether it comes as raw bytes after the JSON."""

    tensor: "Tensor"
    is_binary: bool


class RequestHeader(NamedTuple):
    """All of a request but its raw data.

    Attributes:
        id: to be repeated in the answer; None: there was none.
        input: what is said of the images.
        parameters: how they are to be answered.
        outputs: what the answer shall hold, in order.
    """

    id: str | None
    input: InputHeader
    parameters: PredictParameters
    outputs: tuple[WantedOutput, ...]


class InferenceRequest(NamedTuple):
    """What was asked, and of which images: at least one, all of one kind."""

    header: RequestHeader
    images: "list[Pixels | Floats] | list[bytes]"


def parse_request(
    body: bytes, header_length: bytes | None, model: "ServedModel"
) -> InferenceRequest:
    """Reads and validates a request.

    Args:
        body: JSON, and after it raw data.
        header_length: the value of Inference-Header-Content-Length, which says how many bytes are
            JSON; None: all. 0: none, and all of the body is pixels.
        model: which is asked.

    Raises:
        ApiError: the one that says what to change.
    """
    length = _read_length(header_length, body)
    if length == 0 and body:
        header = _raw_header(len(body), model)
    elif length == len(body):
        header = _parse_header(body, model)
    elif length <= _REMEMBERED_BYTES:
        header = _remembered_header(body[:length], model)
    else:
        header = _parse_header(body[:length], model)
    images = read_images(header.input, memoryview(body)[length:], model.inputs)
    return InferenceRequest(header, images)


def _read_length(value: bytes | None, body: bytes) -> int:
    if value is None:
        return len(body)
    # More digits are too large anyway.
    if not value.isdigit() or len(value) > _LONGEST_NUMBER or int(value) > len(body):
        raise invalid(
            "Inference-Header-Content-Length must be the number of bytes of the JSON, and not "
            "more than the body has"
        )
    return int(value)


def _raw_header(size: int, model: "ServedModel") -> RequestHeader:
    known = model.parameters_type(preprocess="none")
    outputs = _read_outputs(None, model, known, is_binary=True)
    tensor = raw_input_header(size, model.settings.max_batch_images, model.inputs)
    return RequestHeader(None, tensor, known, outputs)


def _parse_header(text: bytes, model: "ServedModel") -> RequestHeader:
    shape = json_shape(model.inputs.spec)
    document = _parse_json(text, model.settings.max_batch_images, shape)
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise invalid(f"inputs must be a list of one input, such as {model.inputs.first.name}")
    tensor = read_input_header(inputs[0], model.settings.max_batch_images, model.inputs)
    parameters = parameters_of(document)
    is_binary = _boolean(parameters, "binary_data_output", default=False)
    if tensor.name != IMAGE:
        # A tensor of 28x28 is the network's input, whatever it shows; perf_analyzer sends noise.
        parameters = {"preprocess": "none", **parameters}
    known = _read_parameters(parameters, model)
    outputs = _read_outputs(document.get("outputs"), model, known, is_binary=is_binary)
    return RequestHeader(document.get("id"), tensor, known, outputs)


# Remembered, since a client sends the same one before other pixels.
_remembered_header = lru_cache(maxsize=256)(_parse_header)


def load_json(text: bytes, images: int, shape: tuple[int, ...] = (SIDE, SIDE)) -> Any:
    """Parses UTF-8, perhaps with a byte order mark, of a request for at most `images`.

    Raises:
        ApiError: as `check_structure`.
        JSONDecodeError: it is not valid.
    """
    check_structure(text, images, shape)
    return orjson.loads(text.removeprefix(BOM_UTF8))


def _parse_json(text: bytes, images: int, shape: tuple[int, ...]) -> dict[str, Any]:
    try:
        document = load_json(text, images, shape)
    except orjson.JSONDecodeError as error:
        raise invalid(
            "the body is not valid JSON; where raw data follows the JSON, the header "
            "Inference-Header-Content-Length must be the number of bytes of the JSON"
        ) from error
    if not isinstance(document, dict) or not document.keys() <= _FIELDS:
        raise invalid(
            "the JSON must be an object with inputs and, if need be, id, parameters and outputs"
        )
    if not isinstance(document.get("id"), str | None):
        raise invalid("id must be a string")
    return document


def _read_parameters(parameters: Mapping[str, Any], model: "ServedModel") -> PredictParameters:
    pairs = []
    for name, value in parameters.items():
        if name == "timeout":
            pairs.append(("timeout_ms", _milliseconds(value)))
        elif name in model.parameters_type.model_fields and name not in _NOT_HERE:
            pairs.append((name, value))
        elif name != "binary_data_output":
            raise invalid(_explain_parameters(name, model))
    return parse_parameters(pairs, model.parameters_type, model.settings)


def _milliseconds(microseconds: Any) -> int:
    """Triton's deadline, which tritonclient sends as `timeout`."""
    if type(microseconds) is not int or microseconds < 1:
        raise ErrorCode.INVALID_PARAMETER(
            "timeout must be a whole number of microseconds, at least 1"
        )
    return -(-microseconds // 1000)


def _explain_parameters(name: str, model: "ServedModel") -> str:
    here = [each for each in model.parameters_type.model_fields if each not in _NOT_HERE]
    known = f"the parameters of {model.name} are {', '.join(here)}, timeout, binary_data_output"
    if name in McParameters.model_fields and name not in _NOT_HERE:
        return f"{name} is a parameter of the model with dropout; {known}"
    return f"a parameter is unknown here; {known}"


def _read_outputs(
    outputs: Any, model: "ServedModel", parameters: PredictParameters, *, is_binary: bool
) -> tuple[WantedOutput, ...]:
    """The outputs in the order asked for; all that there are if none is named."""
    missing: frozenset[str] = frozenset()
    if isinstance(parameters, McParameters) and parameters.passes == 1:
        missing = _NEEDS_TWO_PASSES
    if outputs is None or outputs == []:
        outputs = [{"name": name} for name in model.outputs if name not in missing]
    if not isinstance(outputs, list):
        raise invalid('outputs must be a list of objects such as {"name": "probabilities"}')
    wanted: dict[str, WantedOutput] = {}
    for output in outputs:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in model.outputs:
            raise invalid(f"the outputs of {model.name} are {', '.join(model.outputs)}")
        if name in wanted:
            raise invalid("an output is asked for twice; name it once")
        if name in missing:
            raise invalid(f"one pass has no {name}; ask for at least 2 passes")
        wanted[name] = WantedOutput(model.outputs[name], _is_wanted_binary(output, is_binary))
    return tuple(wanted.values())


def _is_wanted_binary(output: dict[str, Any], default: bool) -> bool:
    parameters = parameters_of(output)
    if not output.keys() <= {"name", "parameters"} or not parameters.keys() <= {"binary_data"}:
        raise invalid(
            "an output has a name and, as its only parameter, binary_data; classification and "
            "shared memory are not supported"
        )
    return _boolean(parameters, "binary_data", default=default)


def _boolean(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false")
    return value
