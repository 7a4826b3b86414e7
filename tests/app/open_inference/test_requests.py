"""The body of an inference request: its JSON, parameters, outputs and the length of its header."""

import json
from codecs import BOM_UTF8

import httpx
import numpy as np
import pytest

from app.open_inference.models import ServedModel, served_models
from app.open_inference.requests import InferenceRequest, parse_request
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.app.open_inference.bad_requests import (
    GOOD_JSON,
    PNG,
    SECRET,
    Bad,
    assert_refused,
    cases_of,
    in_body,
    with_length,
)
from tests.app.open_inference.inference_requests import (
    DIGIT,
    HEADER_LENGTH,
    MC_OUTPUTS,
    SEVEN,
    InferBody,
    assert_bits,
    binary_body,
    files_body,
    infer,
    json_body,
    read_outputs,
)

JSON_ITSELF = {
    "empty": Bad(b"", names="JSON"),
    "not JSON": Bad(SECRET.encode(), names="JSON"),
    "cut off": Bad(GOOD_JSON[:-20], names="JSON"),
    "two documents": Bad(GOOD_JSON * 2, names="JSON"),
    "an image": Bad(PNG, names="JSON"),
    "not UTF-8": Bad(b'{"id": "\xff\xfe"}', names="JSON"),
    "a list": Bad(b"[]", names="object"),
    "a number": Bad(b"7", names="object"),
    "null": Bad(b"null", names="object"),
    "nested without end": Bad(b'{"inputs": ' + b"[" * 100_000, names="JSON"),
    "an unknown field": in_body(json_body(DIGIT), **{SECRET: 1}, names="inputs"),
    "id is a number": in_body(json_body(DIGIT), id=7, names="id"),
}
PARAMETERS = {
    "a list": in_body(json_body(DIGIT), parameters=[SECRET], names="parameters"),
    **{
        f"{name}: {wrong!r}": in_body(json_body(DIGIT), parameters={name: wrong}, names=names)
        for name, wrong, names in (
            ("passes", 0, "1 to 1000"),
            ("passes", 1001, "1 to 1000"),
            ("passes", 10**30, "1 to 1000"),
            ("passes", 50.0, "1 to 1000"),
            ("passes", "50", "1 to 1000"),
            ("passes", True, "1 to 1000"),
            ("seed", -1, "seed"),
            ("seed", 2**53, "seed"),
            ("seed", [1], "seed"),
            ("estimator", SECRET, "independent"),
            ("preprocess", SECRET, "auto or none"),
            ("max_standard_error", -1, "max_standard_error"),
            ("dropout", 0.91, "dropout must be a number from 0 to 0.9"),
            ("dropout", "0.5", "0 to 0.9"),
            ("timeout", 0, "microseconds"),
            ("timeout", -1, "microseconds"),
            ("timeout", 1.5, "microseconds"),
            ("timeout", 10**15, "timeout_ms"),
            ("binary_data_output", "true", "binary_data_output"),
            ("binary_data_output", 1, "binary_data_output"),
            (SECRET, 1, "passes, seed"),
            ("return_passes", True, "unknown"),
            ("coverage", 0.99, "unknown"),
            ("sequence", 7, "unknown"),
        )
    },
    "passes for the model without dropout": Bad(
        json_body(DIGIT, {"passes": 5}).content, path="/v2/models/mnist/infer", names="passes"
    ),
    "two estimates that exclude each other": in_body(
        json_body(DIGIT), parameters={"estimator": "balanced", "max_standard_error": 0.1}
    ),
    "a deadline twice": in_body(json_body(DIGIT), parameters={"timeout": 10**6, "timeout_ms": 7}),
}
WANTED_OUTPUTS = {
    "an object": in_body(json_body(DIGIT), outputs={"name": "digit"}, names="outputs"),
    "strings": in_body(json_body(DIGIT), outputs=["digit"], names="digit"),
    "unknown": in_body(json_body(DIGIT), outputs=[{"name": SECRET}], names="digit"),
    "no name": in_body(json_body(DIGIT), outputs=[{}], names="digit"),
    "the name is a list": in_body(json_body(DIGIT), outputs=[{"name": [SECRET]}], names="digit"),
    "one twice": in_body(json_body(DIGIT), outputs=[{"name": "digit"}] * 2, names="twice"),
    "of the model with dropout": Bad(
        json.dumps({**json_body(DIGIT).document, "outputs": [{"name": "variance"}]}).encode(),
        path="/v2/models/mnist/infer",
        names="digit",
    ),
    "binary is a string": in_body(
        json_body(DIGIT), outputs=[{"name": "digit", "parameters": {"binary_data": "yes"}}]
    ),
    "classification": in_body(
        json_body(DIGIT),
        outputs=[{"name": "probabilities", "parameters": {"classification": 3}}],
        names="classification",
    ),
    "a scatter of one pass": in_body(
        json_body(DIGIT), parameters={"passes": 1}, outputs=[{"name": "variance"}], names="2 passes"
    ),
}


LENGTHS = {
    "header length negative": with_length("-1"),
    "header length with a sign": with_length("+157"),
    "header length a float": with_length("157.0"),
    "header length hexadecimal": with_length("0x9d"),
    "header length a word": with_length(SECRET),
    "header length empty": with_length(""),
    "header length longer than the body": with_length("100000"),
    "header length beyond 64 bits": with_length("9" * 30),
    "header length of thousands of digits": with_length("9" * 5000),
    "header length one too small": with_length(
        str(int(binary_body(DIGIT).all_headers[HEADER_LENGTH]) - 1)
    ),
    "header length one too large": with_length(
        str(int(binary_body(DIGIT).all_headers[HEADER_LENGTH]) + 1)
    ),
    "no header length": with_length(None),
    "header length of the whole body": with_length(str(len(binary_body(DIGIT).content))),
}


TABLE = {
    **cases_of("JSON", JSON_ITSELF),
    **cases_of("parameter", PARAMETERS),
    **cases_of("output", WANTED_OUTPUTS),
    **cases_of("raw", LENGTHS),
}


@pytest.mark.parametrize("case", TABLE)
async def test_a_malformed_request_gets_its_status_and_the_server_keeps_serving(
    client: httpx.AsyncClient, case: str
) -> None:
    await assert_refused(client, TABLE[case])


def test_the_good_bodies_of_the_table_are_good() -> None:
    # What `spoil` starts from: were it bad itself, the table would prove nothing.
    assert json.loads(GOOD_JSON)["inputs"][0]["shape"] == [1, 784]
    assert len(TABLE) >= 60


@pytest.mark.parametrize("mode", ["auto", "none", None])
async def test_pixels_are_taken_as_they_are_unless_asked_otherwise(
    client: httpx.AsyncClient, mode: str | None
) -> None:
    shifted = np.roll(SEVEN, 6, axis=2)
    rows = {"pixels": shifted[0].tolist(), "preprocess": mode or "none"}
    parameters = {} if mode is None else {"preprocess": mode}

    for body in (json_body(shifted, parameters), binary_body(shifted, parameters)):
        outputs = read_outputs(await infer(client, "mnist", body))
        assert_bits(outputs, 0, (await client.post("/predict", json=rows)).json())


async def test_one_pass_has_no_scatter(client: httpx.AsyncClient) -> None:
    outputs = read_outputs(await infer(client, "mnist-mc", json_body(SEVEN, {"passes": 1})))

    assert list(outputs) == [
        name for name in MC_OUTPUTS if name not in ("variance", "standard_error")
    ]


@pytest.mark.parametrize("body", [json_body(SEVEN), binary_body(SEVEN)], ids=["JSON", "raw"])
async def test_json_may_begin_with_a_byte_order_mark(
    client: httpx.AsyncClient, body: InferBody
) -> None:
    headers = body.all_headers
    if body.raw is not None:
        headers = {HEADER_LENGTH: str(int(headers[HEADER_LENGTH]) + len(BOM_UTF8))}

    response = await client.post(
        "/v2/models/mnist/infer", content=BOM_UTF8 + body.content, headers=headers
    )
    index = await client.post("/v2/repository/index", content=BOM_UTF8 + b'{"ready": true}')

    assert response.content == (await infer(client, "mnist", body)).content
    assert index.status_code == 200


@pytest.mark.parametrize("value", [None, {"content_type": "np", "priority": 1, "sequence_id": 7}])
async def test_null_and_what_other_servers_look_at_change_nothing(
    client: httpx.AsyncClient, value: object
) -> None:
    document = json_body(SEVEN).document
    asked = {**document, "id": None, "parameters": value, "outputs": [{"name": "digit"}]}
    asked["inputs"] = [{**document["inputs"][0], "parameters": value}]
    asked["outputs"][0]["parameters"] = value

    response = await client.post("/v2/models/mnist/infer", json=asked)

    assert response.status_code == 200, response.text
    assert response.json().keys() == {"model_name", "model_version", "outputs"}
    assert response.json()["outputs"][0]["data"] == [7]


# The function alone


@pytest.fixture(scope="module")
def models(default_checkpoint: Checkpoint) -> dict[str, ServedModel]:
    return served_models(default_checkpoint, Settings())


def parse(body: InferBody, model: ServedModel) -> InferenceRequest:
    length = body.all_headers.get(HEADER_LENGTH)
    return parse_request(body.content, None if length is None else length.encode(), model)


def test_a_header_before_raw_pixels_is_parsed_once_per_model(
    models: dict[str, ServedModel],
) -> None:
    first = parse(binary_body(DIGIT, {"preprocess": "none"}), models["mnist"])
    again = parse(binary_body(DIGIT // 2, {"preprocess": "none"}), models["mnist"])
    other = parse(binary_body(DIGIT, {"preprocess": "none"}), models["mnist-mc"])

    assert again.header is first.header
    assert other.header is not first.header
    assert (again.images[0] == DIGIT[0] // 2).all()


@pytest.mark.parametrize(("microseconds", "milliseconds"), [(1, 1), (1000, 1), (1001, 2)])
def test_a_deadline_in_microseconds_is_rounded_up(
    models: dict[str, ServedModel], microseconds: int, milliseconds: int
) -> None:
    header = parse(json_body(DIGIT, {"timeout": microseconds}), models["mnist"]).header

    assert header.parameters.timeout_ms == milliseconds


def test_pixels_are_not_searched_for_ink_and_files_are(models: dict[str, ServedModel]) -> None:
    assert parse(json_body(DIGIT), models["mnist"]).header.parameters.preprocess == "none"
    assert parse(files_body([PNG]), models["mnist"]).header.parameters.preprocess == "auto"


def test_a_body_without_json_asks_for_every_output_as_raw_data(
    models: dict[str, ServedModel],
) -> None:
    header, images = parse_request(DIGIT.tobytes() * 2, b"0", models["mnist"])

    assert [output.tensor.name for output in header.outputs] == list(models["mnist"].outputs)
    assert all(output.is_binary for output in header.outputs)
    assert len(images) == 2
