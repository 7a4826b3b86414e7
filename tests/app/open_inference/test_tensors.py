"""One input tensor: its names, shape and data are checked against what was sent."""

import base64
import json

import httpx
import numpy as np
import pytest

from app.open_inference.tensors import read_images, read_input_header
from tests.app.open_inference.bad_requests import (
    GOOD_JSON,
    PNG,
    SECRET,
    VALUES,
    Bad,
    assert_refused,
    cases_of,
    floats,
    in_body,
    in_input,
    json_text,
    spoil,
    value,
    with_raw,
)
from tests.app.open_inference.inference_requests import (
    DIGIT,
    HEADER_LENGTH,
    binary_body,
    files_body,
    json_body,
    length_prefixed,
)

REPEATED = json_body(np.repeat(DIGIT, 257, axis=0))
INPUTS = {
    "no inputs": Bad(b"{}", names="inputs"),
    "inputs is empty": in_body(json_body(DIGIT), inputs=[], names="inputs"),
    "inputs is an object": in_body(json_body(DIGIT), inputs={SECRET: 1}, names="inputs"),
    "two inputs": spoil(
        json_body(DIGIT), lambda document: document["inputs"].append(document["inputs"][0])
    ),
    "an input is a string": in_body(json_body(DIGIT), inputs=[SECRET], names="object"),
    "no name": in_input(json_body(DIGIT), name=None, names="name"),
    "an unknown name": in_input(json_body(DIGIT), name=SECRET, names="pixels"),
    "the name is a list": in_input(json_body(DIGIT), name=[SECRET], names="pixels"),
    "no datatype": in_input(json_body(DIGIT), datatype=None, names="datatype"),
    "an unknown datatype": in_input(json_body(DIGIT), datatype=SECRET, names="UINT8"),
    "a datatype of other models": in_input(json_body(DIGIT), datatype="FP64", names="UINT8"),
    "the datatype is an object": in_input(json_body(DIGIT), datatype={}, names="UINT8"),
    "pixels as BYTES": in_input(json_body(DIGIT), datatype="BYTES", names="UINT8"),
    "image as UINT8": in_input(files_body([PNG]), datatype="UINT8", names="BYTES"),
    "an unknown field": in_input(json_body(DIGIT), **{SECRET: 1}, names="shape"),
    "shared memory": in_input(
        json_body(DIGIT),
        data=None,
        parameters={"shared_memory_region": SECRET, "shared_memory_byte_size": 784},
        names="shared memory",
    ),
    "parameters is a list": in_input(json_body(DIGIT), parameters=[SECRET], names="parameter"),
}
SHAPES = {
    "no shape": in_input(json_body(DIGIT), shape=None, names="shape"),
    **{
        name: in_input(json_body(DIGIT), shape=shape, names="shape")
        for name, shape in {
            "a string": SECRET,
            "empty": [],
            "without the batch": [784],
            "28 rows without the batch": [28, 28],
            "of no image": [0, 784],
            "negative": [-1, 784],
            "negative twice": [-1, -784],
            "another size": [1, 783],
            "a product of 784": [2, 392],
            "a fourth axis": [1, 1, 28, 28],
            "a float": [1.0, 784],
            "true": [True, 784],
            "null": [None, 784],
            "a string in it": ["1", 784],
            "a list in it": [[1], 784],
            "beyond 64 bits": [2**70, 784],
            "with 100,000 axes": [1] * 100_000,
        }.items()
    },
    "more images than a request may have": in_input(
        json_body(DIGIT), shape=[257, 784], status=413, names="256"
    ),
    "two billion images": in_input(json_body(DIGIT), shape=[2**31 - 1, 784], status=413),
    "a product beyond 64 bits": in_input(json_body(DIGIT), shape=[2**62, 28, 28], status=413),
    "a product that wraps to 784": in_input(binary_body(DIGIT), shape=[2**32 + 1, 784], status=413),
    "two images, data of one": in_input(json_body(DIGIT), shape=[2, 784], names="2x784"),
    "257 images": Bad(REPEATED.content, status=413, names="256"),
}
DATA = {
    "none": in_input(json_body(DIGIT), data=None, names="data"),
    "null": json_text("null"),
    "a string": json_text(f'"{SECRET}"'),
    "an object": json_text(f'{{"{SECRET}": 1}}'),
    "empty": json_text("[]"),
    "empty rows": json_text("[[]]"),
    "one value missing": json_text(json.dumps(VALUES[:-1])),
    "one value too many": json_text(json.dumps([*VALUES, 0])),
    "ragged rows": json_text(json.dumps([VALUES[:700], VALUES[700:]])),
    "a row among values": json_text(json.dumps([[*VALUES[:-1], [0]]])),
    "nested too deep": json_text(json.dumps([[[value] for value in VALUES]])),
    "a negative value": value("-1"),
    "256": value("256"),
    "2 to the power of 64": value("18446744073709551616"),
    "a float": value("1.0"),
    "a string among values": value(f'"{SECRET}"'),
    "true": value("true"),
    "null among values": value("null"),
    "NaN": Bad(value("NaN").content, names="JSON"),
    "Infinity": Bad(value("-Infinity").content, names="JSON"),
    "FP32: NaN": Bad(value("NaN", "FP32").content, names="JSON"),
    "FP32: beyond float64": Bad(value("1e999", "FP32").content, names="JSON"),
    "FP32: beyond float32": value("1e300", "FP32"),
    "FP32: above 1": in_input(floats(DIGIT / 255), data=[1.01] * 784, names="0 to 1"),
    "FP32: below 0": in_input(floats(DIGIT / 255), data=[-0.01] * 784, names="0 to 1"),
    "FP32: 0 to 255": Bad(floats(DIGIT).content, names="UINT8"),
    "FP32: true": value("true", "FP32"),
}


RAW = {
    "truncated": with_raw(binary_body(DIGIT), DIGIT.tobytes()[:-1], size=784, names="binary"),
    "a byte too many": with_raw(binary_body(DIGIT), DIGIT.tobytes() + b"\0", size=784),
    "declared and sent, but not of the shape": with_raw(
        binary_body(DIGIT), DIGIT.tobytes() + b"\0", names="shape"
    ),
    "size negative": with_raw(binary_body(DIGIT), DIGIT.tobytes(), size=-784),
    "size beyond 64 bits": with_raw(binary_body(DIGIT), DIGIT.tobytes(), size=2**70),
    "size is zero": with_raw(binary_body(DIGIT), b"", names="shape"),
    "size is a float": in_input(
        binary_body(DIGIT), parameters={"binary_data_size": 784.0}, names="binary_data_size"
    ),
    "size is true": in_input(binary_body(DIGIT), parameters={"binary_data_size": True}),
    "size is a string": in_input(binary_body(DIGIT), parameters={"binary_data_size": "784"}),
    "data both ways": in_input(binary_body(DIGIT), data=VALUES, names="both"),
    "unclaimed bytes": Bad(
        GOOD_JSON + SECRET.encode(), headers={HEADER_LENGTH: str(len(GOOD_JSON))}, names="claims"
    ),
    "FP32 with the bytes of UINT8": in_input(binary_body(DIGIT), datatype="FP32", names="shape"),
    "FP32: NaN": Bad(
        binary_body(np.full((1, 784), np.nan, np.float32)).content,
        headers=binary_body(np.full((1, 784), np.nan, np.float32)).all_headers,
        names="FP32",
    ),
    "FP32: infinity": Bad(
        binary_body(np.full((1, 784), np.inf, np.float32)).content,
        headers=binary_body(np.full((1, 784), np.inf, np.float32)).all_headers,
        names="FP32",
    ),
    "FP32: big-endian": with_raw(
        binary_body((DIGIT.reshape(1, 784) / 255).astype(np.float32)),
        (DIGIT / 255).astype(">f4").tobytes(),
        names="FP32",
    ),
    "all of the body, and not whole images": Bad(
        bytes(785), headers={HEADER_LENGTH: "0"}, names="784"
    ),
    "all of the body, and too many images": Bad(
        bytes(784 * 257), headers={HEADER_LENGTH: "0"}, status=413
    ),
    "all of the body, and none": Bad(b"", headers={HEADER_LENGTH: "0"}, names="JSON"),
    "scaled to 0 and 1": Bad(
        binary_body(DIGIT // 255).content,
        headers=binary_body(DIGIT // 255).all_headers,
        names="above 1",
    ),
    "nothing, and ink is looked for": Bad(
        binary_body(DIGIT * 0, {"preprocess": "auto"}).content,
        headers=binary_body(DIGIT * 0, {"preprocess": "auto"}).all_headers,
        names="no ink",
    ),
}


FILES = {
    "big-endian lengths": with_raw(
        files_body([PNG]), len(PNG).to_bytes(4, "big") + PNG, names="little-endian"
    ),
    "a length beyond the end": with_raw(files_body([PNG]), b"\xff\xff\xff\xff" + PNG),
    "a length that ends too early": with_raw(files_body([PNG]), b"\x01\0\0\0" + PNG),
    "half a length": with_raw(files_body([PNG]), length_prefixed([PNG]) + b"\0\0", names="length"),
    "no length": with_raw(files_body([PNG]), b"", names="length"),
    "fewer than the shape says": in_input(files_body([PNG]), shape=[2], names="length"),
    "more than the shape says": in_input(files_body([PNG, PNG]), shape=[1], names="length"),
    "empty": Bad(files_body([b""]).content, headers=files_body([b""]).all_headers, names="empty"),
    "two axes": in_input(files_body([PNG]), shape=[1, 1], names="[B]"),
    "not an image": Bad(
        files_body([SECRET.encode()]).content,
        headers=files_body([SECRET.encode()]).all_headers,
        status=415,
    ),
    "not an image among images": Bad(
        files_body([PNG, SECRET.encode()]).content,
        headers=files_body([PNG, SECRET.encode()]).all_headers,
        status=415,
        names="image 1",
    ),
    "a truncated image": Bad(
        files_body([PNG[:-200]]).content, headers=files_body([PNG[:-200]]).all_headers
    ),
    **{
        f"in JSON: {name}": Bad(
            json.dumps(
                {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}]}
            ).encode(),
            names=names,
        )
        for name, data, names in (
            ("not base64", [f"{SECRET}!"], "base64"),
            ("a number", [7], "base64"),
            ("two", [base64.b64encode(PNG).decode()] * 2, "strings"),
            ("a string without a list", base64.b64encode(PNG).decode(), "strings"),
            ("empty", [""], "empty"),
        )
    },
}


TABLE = {
    **cases_of("input", INPUTS),
    **cases_of("shape", SHAPES),
    **cases_of("data", DATA),
    **cases_of("raw", RAW),
    **cases_of("image", FILES),
}


@pytest.mark.parametrize("case", TABLE)
async def test_a_malformed_request_gets_its_status_and_the_server_keeps_serving(
    client: httpx.AsyncClient, case: str
) -> None:
    await assert_refused(client, TABLE[case])


def test_every_level_of_8_bits_survives_as_fp32() -> None:
    levels = np.arange(784, dtype=np.uint8).reshape(1, 784)
    unit = (levels / np.float32(255)).astype(np.float32)
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 784]}

    raw = {**tensor, "parameters": {"binary_data_size": unit.nbytes}}
    written = {**tensor, "data": unit.ravel().tolist()}
    (from_raw,) = read_images(read_input_header(raw, 1), memoryview(unit.tobytes()))
    (from_json,) = read_images(read_input_header(written, 1), memoryview(b""))

    assert isinstance(from_raw, np.ndarray)
    assert isinstance(from_json, np.ndarray)
    assert from_raw.tobytes() == levels.tobytes() == from_json.tobytes()
