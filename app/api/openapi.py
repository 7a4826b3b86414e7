"""The description of the image routes: every body form with an example that works as it stands."""

from collections.abc import Callable, Container, Mapping
from copy import deepcopy
from typing import Annotated, Any, cast

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.api.examples import example_pixels, example_png_base64
from app.schemas import ErrorBody, PredictParameters
from app.settings import Settings
from model.literals import SIDE

_Row = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=SIDE, max_length=SIDE)]

_BINARY = {"type": "string", "format": "binary"}
_RAW_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif", "image/tiff")
_KEY = {"type": "http", "scheme": "bearer", "description": "An API key."}
MODEL_PARAMETER = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "As in `GET /models`; of several versions the newest answers, unless "
    "`/versions/VERSION` follows.",
    "schema": {"type": "string"},
}
_NUMBERS = {
    "type": "array",
    "items": {},
    "description": "Numbers, nested as the network's shape says or in one list; not of networks "
    "that take pictures of digits.",
}
_UNAUTHORIZED = {
    "description": "No API key, or none that is known.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
}
_STATUSES = {
    400: "The request cannot be read.",
    408: "The request did not arrive in time.",
    413: "The body or the image is too large.",
    415: "Not a kind of body or image that is read.",
    422: "Readable, but impossible: a parameter, the pixels, or no ink.",
    429: "Too much is queued; try again after the seconds in Retry-After.",
    431: "The address and the header lines are too large.",
    503: "Starting or stopping; try again.",
    504: "The answer was not ready within timeout_ms.",
}


def describe_image_route(parameters: type[PredictParameters], answer: type[Any]) -> dict[str, Any]:
    """Arguments of the decorator of a route for one image."""
    fields = _properties(parameters)
    return _describe(fields, _image_body(fields), response_model=answer)


def describe_batch_route(parameters: type[PredictParameters], answer: type[Any]) -> dict[str, Any]:
    """Arguments of the decorator of a route for many images."""
    fields = _properties(parameters)
    del fields["return_steps"]
    return _describe(fields, _batch_body(fields), response_model=answer)


def describe_stream_route(parameters: type[PredictParameters]) -> dict[str, Any]:
    """Arguments of the decorator of a route for one image that answers with events."""
    event = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"enum": ["estimate", "result", "error"]},
            "data": {"type": "string", "description": "JSON: the answer so far, or the error."},
        },
    }
    events = {"schema": event, "example": "event: estimate\ndata: {...}\n\n"}
    fields = _properties(parameters)
    route = _describe(fields, _image_body(fields), response_class=StreamingResponse)
    route["responses"][200] = {"description": "Events.", "content": {"text/event-stream": events}}
    return route


def describe_for_model(route: dict[str, Any]) -> dict[str, Any]:
    """The same for a model that the address names, which may take numbers."""
    named = deepcopy(route)
    named["responses"][404] = {"model": ErrorBody, "description": "There is no such model."}
    named["openapi_extra"]["parameters"].insert(0, MODEL_PARAMETER)
    schema = named["openapi_extra"]["requestBody"]["content"]["application/json"]["schema"]
    one = schema["properties"]["inputs"]["items"] if "inputs" in schema["properties"] else schema
    one["properties"]["input"] = _NUMBERS
    one["oneOf"].append({"required": ["input"]})
    return named


def _describe(fields: dict[str, Any], body: dict[str, Any], **options: Any) -> dict[str, Any]:
    failures = {
        status: {"model": ErrorBody, "description": text} for status, text in _STATUSES.items()
    }
    extra = {"parameters": _query(fields), "requestBody": body}
    return {"responses": failures, "openapi_extra": extra, **options}


def describe_application(
    app: FastAPI,
    settings: Settings,
    open_paths: Container[str],
    document: Callable[[dict[str, Any]], None],
) -> None:
    """Has the application's description say what the settings decide: limits, and API keys.

    Args:
        app: the application; its description is made when it is first asked for.
        settings: how it runs.
        open_paths: what needs no key.
        document: adds to the description's paths what only the network knows.
    """
    describe = app.openapi
    most = {"passes": settings.max_passes, "timeout_ms": settings.max_timeout_ms}

    def describe_with_settings() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = describe()
            document(schema["paths"])
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    _describe_limits(operation, most, settings.max_batch_images)
                    if settings.api_keys_file is not None and path not in open_paths:
                        operation["security"] = [{"key": []}]
                        operation["responses"]["401"] = _UNAUTHORIZED
            if settings.api_keys_file is not None:
                schema["components"]["securitySchemes"] = {"key": _KEY}
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = describe_with_settings  # type: ignore[method-assign]


def _describe_limits(operation: dict[str, Any], most: Mapping[str, int], images: int) -> None:
    fields = [(each["name"], each["schema"]) for each in operation.get("parameters", ())]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        fields += schema.get("properties", {}).items()
        fields += schema.get("patternProperties", {}).items()
    for pattern, field in fields:
        name = pattern.strip("^$")
        if name in most:
            _number(field)["maximum"] = most[name]
        elif name in ("inputs", "file") and field["type"] == "array":
            field["maxItems"] = images


def _number(field: dict[str, Any]) -> dict[str, Any]:
    """Of a number that may be null, the schema of the number."""
    return cast(dict[str, Any], field.get("anyOf", [field])[0])


def _query(fields: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema["description"],
            "schema": _plain(schema),
        }
        for name, schema in fields.items()
    ]


def _form(parameters: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """A form with the file field, and perhaps parameters.

    Listed as properties, Swagger UI would send them all, with values of its own such as
    timeout_ms=1; patterns it passes over.
    """
    fields = {f"^{name}$": _plain(field) for name, field in parameters.items()}
    return {
        "type": "object",
        "required": ["file"],
        "description": "The parameters of the query may be fields here, too, of the same names.",
        "properties": {"file": file},
        "patternProperties": fields,
        "additionalProperties": False,
    }


def _properties(parameters: type[BaseModel]) -> dict[str, Any]:
    return dict(parameters.model_json_schema()["properties"])


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema alone; in a query or form, optional means absent and never null."""
    plain = {**schema, **_number(schema)}
    for key in ("title", "description", "anyOf"):
        plain.pop(key, None)
    if plain.get("default", 0) is None:
        del plain["default"]
    return plain


class _Picture(BaseModel):
    """Either image or pixels."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": ["image"]}, {"required": ["pixels"]}]},
    )

    image: str = Field(
        min_length=1,
        json_schema_extra={"format": "byte"},
        description="An image file in base64, or a data: URL of one.",
    )
    pixels: Annotated[list[_Row], Field(min_length=SIDE, max_length=SIDE)] = Field(
        description="28 rows of 28 integers, 0 to 255; 255 is ink. 784 in one list work."
    )


def _with_parameters(fields: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """A JSON body: fields of its own, and any parameters."""
    return {
        "type": "object",
        "properties": {**fields, **parameters},
        "additionalProperties": False,
    }


def _image_body(parameters: dict[str, Any]) -> dict[str, Any]:
    json_schema = _with_parameters(_properties(_Picture), parameters)
    json_schema["oneOf"] = _Picture.model_json_schema()["oneOf"]
    examples = {
        "image": {"summary": "An image file in base64", "value": {"image": example_png_base64()}},
        "pixels": {"summary": "28 x 28 values", "value": {"pixels": example_pixels().tolist()}},
    }
    form = _form(parameters, {**_BINARY, "description": "The image file."})
    content: dict[str, Any] = {kind: {"schema": _BINARY} for kind in _RAW_TYPES}
    return _body({"schema": json_schema, "examples": examples}, form, content)


def _batch_body(parameters: dict[str, Any]) -> dict[str, Any]:
    picture = _Picture.model_json_schema()
    del picture["required"]
    inputs = {"type": "array", "minItems": 1, "items": picture}
    json_schema = _with_parameters({"inputs": inputs}, parameters)
    json_schema["required"] = ["inputs"]
    image = {"image": example_png_base64()}
    examples = {"images": {"summary": "Two image files", "value": {"inputs": [image, image]}}}
    form = _form(parameters, {"type": "array", "minItems": 1, "items": _BINARY})
    return _body({"schema": json_schema, "examples": examples}, form, {})


def _body(json: dict[str, Any], form: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    content |= {"application/json": json, "multipart/form-data": {"schema": form}}
    return {"required": True, "content": content}
