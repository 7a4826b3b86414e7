"""The API's description agrees with what the API does."""

import base64
import dataclasses
import json
import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any, cast, get_type_hints

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi.openapi.models import OpenAPI
from PIL import Image
from pydantic import TypeAdapter

import app.api.feedback
import app.api.health
import app.api.predictions
import app.schemas
from app.schemas import ErrorBody, McParameters, PredictParameters
from tests.conftest import assert_error, sample
from tests.samples.draw import preprocess_image

SINGLE: dict[str, type[PredictParameters]] = {
    "/predict": PredictParameters,
    "/predict/mc": McParameters,
    "/predict/mc/stream": McParameters,
}
BATCH: dict[str, type[PredictParameters]] = {
    "/predict/batch": PredictParameters,
    "/predict/mc/batch": McParameters,
}
ROUTES = {**SINGLE, **BATCH}
# Where the models of answers are.
DECLARING = (app.schemas, app.api.predictions, app.api.health, app.api.feedback)
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/openapi.json")
    assert response.status_code == 200
    description: dict[str, Any] = response.json()
    return description


def encode(image_format: str) -> bytes:
    """A seven as the network sees it, so that `preprocess=none` takes it too."""
    with Image.open(BytesIO(sample("7.png"))) as image:
        pixels = preprocess_image(np.array(image))
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


PICTURE = encode("PNG")


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def every_value(node: Any, key: str) -> Iterator[Any]:
    """The values of a key, wherever it stands in the document."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from every_value(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from every_value(value, key)


def resolve(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for name in reference.removeprefix("#/").split("/"):
        node = node[name]
    return node


def body_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    content: dict[str, Any] = document["paths"][path]["post"]["requestBody"]["content"]
    return content


def declared_model(operation: dict[str, Any], status: int) -> type[Any] | None:
    """The model of the answers with a status; None: the description does not say."""
    content = operation["responses"][str(status)]["content"]
    schema = content.get("application/json", {}).get("schema", {})
    if "$ref" not in schema:
        return None
    name = schema["$ref"].rpartition("/")[2]
    model: type[Any] = next(getattr(each, name) for each in DECLARING if hasattr(each, name))
    return model


def assert_declared(operation: dict[str, Any], response: httpx.Response) -> None:
    """Asserts that an answer is what the operation declares for its status."""
    model = declared_model(operation, response.status_code)
    if model is not None:
        TypeAdapter(model).validate_json(response.content, strict=True)
        assert_no_more(json.loads(response.content), model)


def assert_no_more(answer: dict[str, Any], model: type[Any]) -> None:
    types = get_type_hints(model)
    assert answer.keys() <= types.keys()
    for name, value in answer.items():
        if dataclasses.is_dataclass(types[name]):
            assert_no_more(value, cast(type[Any], types[name]))


# The description


def test_the_description_is_openapi(document: dict[str, Any]) -> None:
    OpenAPI.model_validate(document)
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"].keys() >= {"title", "version", "description"}
    for reference in every_value(document, "$ref"):
        assert resolve(document, reference)
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for path, method, operation in operations(document):
        assert path.startswith("/")
        assert method in METHODS
        assert operation["summary"]
        assert operation["description"]
        assert "200" in operation["responses"]
        assert all(answer["description"] for answer in operation["responses"].values())
        where = [(one["in"], one["name"]) for one in operation.get("parameters", [])]
        assert len(set(where)) == len(where)


def test_every_route_that_people_call_is_described(document: dict[str, Any]) -> None:
    described = {(method, path) for path, method, _ in operations(document)}

    posted = {path for method, path in described if method == "post"}
    named = {f"/models/{{model}}{path}" for path in ROUTES}
    assert posted == {*ROUTES, *named, "/feedback", "/v2/models/{model}/infer"}
    asked = ("/health/live", "/health/ready", "/model", "/models", "/models/{model}")
    assert described >= {("get", path) for path in asked}


@pytest.mark.parametrize("path", ROUTES)
async def test_a_route_of_a_named_model_is_described_as_the_short_one(
    client: httpx.AsyncClient, document: dict[str, Any], path: str
) -> None:
    short = document["paths"][path]["post"]
    named = document["paths"][f"/models/{{model}}{path}"]["post"]
    model, *parameters = named["parameters"]
    assert (model["name"], model["in"], model["required"]) == ("model", "path", True)
    assert model["schema"]["default"] == (await client.get("/model")).json()["name"]
    assert parameters == short["parameters"]
    refused = await client.post(f"/models/none{path}", content=PICTURE)
    assert refused.status_code == 404
    assert_declared(named, refused)
    del named["responses"]["404"]
    assert named["responses"] == short["responses"]
    body = body_of(document, f"/models/{{model}}{path}")["application/json"]["schema"]
    one = body["properties"]["inputs"]["items"] if path in BATCH else body
    assert "input" in one["properties"]
    assert {"required": ["input"]} in one["oneOf"]


@pytest.mark.parametrize("path", ROUTES)
def test_the_parameters_described_are_those_that_exist(document: dict[str, Any], path: str) -> None:
    query = document["paths"][path]["post"]["parameters"]
    content = body_of(document, path)
    in_json = content["application/json"]["schema"]["properties"]
    in_form = content["multipart/form-data"]["schema"]["properties"]
    in_form_too = content["multipart/form-data"]["schema"]["patternProperties"]
    fields = dict(ROUTES[path].model_fields)
    pictures = {"image", "pixels"}
    if path in BATCH:
        del fields["return_steps"]
        pictures = {"inputs"}

    assert [one["name"] for one in query] == list(fields)
    assert in_json.keys() == fields.keys() | pictures
    # Whatever is described here, the docs page sends, wanted or not.
    assert in_form.keys() == {"file"}
    for one in query:
        field = fields[one["name"]]
        assert (one["in"], one["required"]) == ("query", False)
        assert one["description"] == field.description
        assert one["schema"].get("default") == field.default
        described = dict(in_json[one["name"]])
        assert described.pop("description") == field.description
        del described["title"]
        if not field.is_required() and field.default is None:  # null is the same
            number, null = described.pop("anyOf")
            assert null == {"type": "null"}
            described |= number
        assert described == one["schema"]
        assert in_form_too[f"^{one['name']}$"] == one["schema"]


def edges(schema: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Values that a parameter's schema just allows, and values that it just does not."""
    if "enum" in schema:
        return schema["enum"], ["other"]
    if "const" in schema:
        return [schema["const"]], ["other"]
    if schema["type"] == "boolean":
        return [True, False], ["maybe", 1]
    if "examples" in schema:  # what is allowed depends on the checkpoint
        return schema["examples"], [0.5, "high"]
    assert schema.keys() & {"minimum", "exclusiveMinimum"}
    allowed, refused = [], ["many"]
    for bound, step in (("minimum", -1), ("maximum", 1)):
        if bound in schema:
            allowed.append(schema[bound])
            refused.append(schema[bound] + step)
    if "exclusiveMinimum" in schema:
        refused.append(schema["exclusiveMinimum"])
    return allowed, refused


@pytest.mark.parametrize("path", ROUTES)
async def test_the_bounds_described_are_those_that_hold(
    client: httpx.AsyncClient, document: dict[str, Any], path: str
) -> None:
    picture = {"image": base64.b64encode(PICTURE).decode()}
    body: dict[str, Any] = picture if path in SINGLE else {"inputs": [picture]}
    for one in document["paths"][path]["post"]["parameters"]:
        name, (allowed, refused) = one["name"], edges(one["schema"])
        # The shortest deadline is allowed, and may pass.
        answered = (200, 504) if name == "timeout_ms" else (200,)
        if name in ("target_error", "until"):  # a checkpoint may support none
            answered = (200, 422)
        for value in allowed:
            response = await client.post(path, json={**body, name: value})
            assert response.status_code in answered, (name, value, response.text)
        for value in refused:
            response = await client.post(path, json={**body, name: value})
            assert_error(response, 422, "invalid_parameter")


# The examples


@pytest.mark.parametrize("path", ROUTES)
async def test_every_example_works_as_it_stands(
    client: httpx.AsyncClient, document: dict[str, Any], path: str
) -> None:
    operation = document["paths"][path]["post"]
    examples = body_of(document, path)["application/json"]["examples"]
    digits = set()
    for name, example in examples.items():
        assert example["summary"]
        response = await client.post(path, json=example["value"])
        assert response.status_code == 200, (name, response.text)
        assert_declared(operation, response)
        assert '"error"' not in response.text  # in the place of an image
        digits.update(re.findall(r'"digit":(\d)', response.text))

    assert examples.keys() == ({"image", "pixels"} if path in SINGLE else {"images"})
    # All of them show the same picture.
    assert len(digits) == 1


async def test_the_answers_shown_are_answers(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/json", {})
            if status.endswith("XX"):  # in the form of the Open Inference Protocol
                continue
            model = declared_model(operation, int(status)) if content else None
            if model is None:
                continue
            example = json.dumps(content["example"])
            TypeAdapter(model).validate_json(example, strict=True)
            assert_no_more(content["example"], model)
            if status.startswith("4"):
                assert content["example"]["error"]["message"]
    example = document["paths"]["/predict/mc"]["post"]["responses"]["200"]["content"]
    answer = example["application/json"]["example"]
    # This network's own answer to what shows a digit.
    assert (answer["digit"], sum(answer["votes"]), answer["decision"]["outcome"]) == (
        1,
        50,
        "accept",
    )


async def test_the_example_of_v2_works_as_it_stands(
    client: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    operation = document["paths"]["/v2/models/{model}/infer"]["post"]
    (parameter,) = operation["parameters"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    for name in parameter["schema"]["enum"]:
        assert (await client.get(f"/v2/models/{name}")).json()["name"] == name
    response = await client.post(f"/v2/models/{parameter['schema']['default']}/infer", json=example)
    outputs = {one["name"]: one["data"] for one in response.json()["outputs"]}
    assert (outputs["digit"], sum(outputs["votes"])) == ([7], 50)


@pytest.mark.parametrize("path", SINGLE)
async def test_every_body_type_described_is_read(
    client: httpx.AsyncClient, document: dict[str, Any], path: str
) -> None:
    content = body_of(document, path)
    raw = content.keys() - {"application/json", "multipart/form-data"}

    assert raw == {f"image/{kind}" for kind in ("png", "jpeg", "webp", "bmp", "gif", "tiff")}
    for kind in raw:
        # What makes the docs page show a file picker.
        assert content[kind]["schema"] == {"type": "string", "format": "binary"}
        picture = encode(kind.removeprefix("image/").upper())
        response = await client.post(path, content=picture, headers={"content-type": kind})
        assert (response.status_code, '"digit":7' in response.text) == (200, True)
    form = content["multipart/form-data"]["schema"]
    assert form["required"] == ["file"]
    assert form["properties"]["file"]["format"] == "binary"
    response = await client.post(path, files={"file": PICTURE})
    assert (response.status_code, '"digit":7' in response.text) == (200, True)


@pytest.mark.parametrize("path", BATCH)
async def test_the_form_of_a_batch_is_read(
    client: httpx.AsyncClient, document: dict[str, Any], path: str
) -> None:
    content = body_of(document, path)
    form = content["multipart/form-data"]["schema"]

    assert content.keys() == {"application/json", "multipart/form-data"}
    assert form["required"] == ["file"]
    assert form["properties"]["file"]["items"]["format"] == "binary"
    files = [("file", ("1.png", PICTURE)), ("file", ("2.png", PICTURE))]
    response = await client.post(path, files=files)
    assert [one["digit"] for one in response.json()["predictions"]] == [7, 7]


# The answers


QUERIES: dict[str, list[str]] = {
    "/predict": ["", "return_input=true", "return_steps=true"],
    "/predict/mc": [
        "",
        "passes=1",
        "seed=1&return_input=true",
        "return_passes=true&passes=2",
        "dropout=0.9",
    ],
}


async def test_every_answer_is_what_its_route_declares(
    client: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    for path, method, operation in operations(document):
        if method == "get" and "{" not in path:
            response = await client.get(path)
            assert response.status_code == 200
            assert_declared(operation, response)
    for path, queries in QUERIES.items():
        operation = document["paths"][path]["post"]
        assert declared_model(operation, 200) is not None
        for query in queries:
            response = await client.post(f"{path}?{query}", content=sample("doubtful.png"))
            assert response.status_code == 200
            assert_declared(operation, response)


async def test_the_stream_is_described_as_what_it_is(
    client: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    answers = document["paths"]["/predict/mc/stream"]["post"]["responses"]
    response = await client.post("/predict/mc/stream", content=PICTURE)

    (described,) = answers["200"]["content"]
    assert response.headers["content-type"].startswith(described)


@pytest.mark.parametrize("path", SINGLE)
async def test_every_error_is_what_its_route_declares(
    client: httpx.AsyncClient, document: dict[str, Any], path: str
) -> None:
    operation = document["paths"][path]["post"]
    declared = {int(status) for status in operation["responses"]}
    requests: list[dict[str, Any]] = [
        {"content": b""},
        {"content": bytes(11 * 2**20)},
        {"content": b"text", "headers": {"content-type": "text/plain"}},
        {"content": PICTURE, "params": {"preprocess": "odd"}},
        {"json": {"pixels": [[90] * 28] * 28, "return_steps": True}},
    ]

    statuses = set()
    for request in requests:
        response = await client.post(path, **request)
        statuses.add(response.status_code)
        assert declared_model(operation, response.status_code) is ErrorBody
        assert_declared(operation, response)

    assert statuses == {400, 413, 415, 422}
    assert declared == statuses | {200, 408, 429, 431, 503, 504}


def test_the_descriptions_of_the_answers_name_every_field(document: dict[str, Any]) -> None:
    for name in ("Prediction", "McPrediction", "ErrorDetail"):
        schema = document["components"]["schemas"][name]
        for field, described in schema["properties"].items():
            assert described.get("description") or "$ref" in described, (name, field)
