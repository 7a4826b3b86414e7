"""V2 requests as the tests send them, and their answers as arrays."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from app.api.examples import example_digits, example_pixels

HEADER_LENGTH = "inference-header-content-length"
TYPES = {"UINT8": "u1", "FP32": "<f4", "INT64": "<i8"}

Array = NDArray[Any]

DIGIT = example_pixels()[None]
DIGITS = np.stack(example_digits())
SEVEN = DIGITS[7:8]
MC_OUTPUTS = [
    *("digit", "probabilities", "predictive_entropy", "mean", "variance", "standard_error"),
    *("expected_entropy", "mutual_information", "votes", "seed", "decision"),
]
OUTPUTS = ["digit", "probabilities", "predictive_entropy", "decision"]


@dataclass
class InferBody:
    """The body of an inference request: JSON, and perhaps raw data after it."""

    document: dict[str, Any]
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return json.dumps(self.document).encode() + (self.raw or b"")

    @property
    def all_headers(self) -> dict[str, str]:
        if self.raw is None:
            return self.headers
        length = len(json.dumps(self.document).encode())
        return {HEADER_LENGTH: str(length), **self.headers}


def pixels_input(values: Array, *, shape: Sequence[int] | None = None) -> dict[str, Any]:
    """An input whose values stand in the JSON, flat."""
    datatype = "FP32" if values.dtype.kind == "f" else "UINT8"
    return {
        "name": "pixels",
        "datatype": datatype,
        "shape": list(shape or (len(values), 784)),
        "data": values.ravel().tolist(),
    }


def json_body(values: Array, parameters: Mapping[str, Any] | None = None) -> InferBody:
    document: dict[str, Any] = {"inputs": [pixels_input(values)]}
    if parameters:
        document["parameters"] = dict(parameters)
    return InferBody(document)


def binary_body(values: Array, parameters: Mapping[str, Any] | None = None) -> InferBody:
    """As `json_body`, the pixels behind the JSON, and the outputs wanted so as well."""
    tensor = pixels_input(values)
    del tensor["data"]
    raw = values.tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    parameters = {"binary_data_output": True, **(parameters or {})}
    return InferBody({"inputs": [tensor], "parameters": parameters}, raw)


def length_prefixed(files: Sequence[bytes]) -> bytes:
    return b"".join(len(file).to_bytes(4, "little") + file for file in files)


def files_body(files: Sequence[bytes], parameters: Mapping[str, Any] | None = None) -> InferBody:
    """Encoded image files as raw BYTES."""
    raw = length_prefixed(files)
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(raw)},
    }
    return InferBody({"inputs": [tensor], "parameters": dict(parameters or {})}, raw)


async def infer(client: httpx.AsyncClient, model: str, body: InferBody) -> httpx.Response:
    return await client.post(
        f"/v2/models/{model}/infer", content=body.content, headers=body.all_headers
    )


def read_outputs(response: httpx.Response) -> dict[str, Array]:
    """The outputs of a success, JSON and raw ones alike, in their shapes."""
    assert response.status_code == 200, response.text
    content = response.content
    length = response.headers.get(HEADER_LENGTH)
    expected = "application/json" if length is None else "application/octet-stream"
    assert response.headers["content-type"] == expected
    header = content if length is None else content[: int(length)]
    raw = content[len(header) :]
    outputs = {}
    for output in json.loads(header)["outputs"]:
        is_raw = "parameters" in output
        assert is_raw != ("data" in output)
        size = output["parameters"]["binary_data_size"] if is_raw else 0
        data, raw = raw[:size], raw[size:]
        if output["datatype"] == "BYTES":
            values = np.array(_elements(data) if is_raw else output["data"])
        else:
            dtype = TYPES[output["datatype"]]
            values = np.frombuffer(data, dtype) if is_raw else np.array(output["data"], dtype)
        outputs[output["name"]] = values.reshape(output["shape"])
    assert raw == b""
    return outputs


def _elements(raw: bytes) -> list[str]:
    elements = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        elements.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return elements


def assert_bits(outputs: dict[str, Array], index: int, native: dict[str, Any]) -> None:
    """One image's outputs are the native answer's numbers; floats bit for bit."""
    for name, values in outputs.items():
        value = values[index]
        if name == "decision":
            assert value == ("none" if native[name] is None else native[name]["outcome"])
            continue
        expected = np.array(native[name], dtype=value.dtype)
        assert value.shape == expected.shape, name
        assert value.tobytes() == expected.tobytes(), name
