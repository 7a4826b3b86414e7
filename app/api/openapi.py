"""The description of the image routes: every body form with an example that works as it stands."""

from collections.abc import Container, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from app.api.examples import example_pixels, example_png_base64
from app.schemas import ErrorBody, PredictParameters
from app.settings import Settings
from model.literals import SIDE

_BINARY = {"type": "string", "format": "binary"}
_RAW_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif", "image/tiff")
_EITHER = [{"required": ["image"]}, {"required": ["pixels"]}]
_KEY = {"type": "http", "scheme": "bearer", "description": "An API key."}
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
    return _describe(parameters, _image_body(parameters), response_model=answer)


def describe_batch_route(parameters: type[PredictParameters], answer: type[Any]) -> dict[str, Any]:
    """Arguments of the decorator of a route for many images."""
    return _describe(parameters, _batch_body(parameters), response_model=answer)


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
    route = _describe(parameters, _image_body(parameters), response_class=StreamingResponse)
    route["responses"][200] = {
        "description": "Events.",
        "content": {"text/event-stream": events},
    }
    return route


def _describe(
    parameters: type[PredictParameters], body: dict[str, Any], **options: Any
) -> dict[str, Any]:
    failures = {
        status: {"model": ErrorBody, "description": text} for status, text in _STATUSES.items()
    }
    extra = {"parameters": _query(parameters), "requestBody": body}
    return {"responses": failures, "openapi_extra": extra, **options}


def describe_application(app: FastAPI, settings: Settings, open_paths: Container[str]) -> None:
    """Has the application's description say what the settings decide: limits, and API keys.

    Args:
        app: the application; its description is made when it is first asked for.
        settings: how it runs.
        open_paths: what needs no key.
    """
    describe = app.openapi
    most = {"passes": settings.max_passes, "timeout_ms": settings.max_timeout_ms}

    def describe_with_settings() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = describe()
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
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in most:
            parameter["schema"]["maximum"] = most[parameter["name"]]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        fields = {**schema.get("properties", {}), **schema.get("patternProperties", {})}
        for pattern, field in fields.items():
            name = pattern.strip("^$")
            if name in most:
                field["maximum"] = most[name]
            elif name in ("inputs", "file") and field["type"] == "array":
                field["maxItems"] = images


def _query(parameters: type[PredictParameters]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.get("description", ""),
            "schema": _plain(schema),
        }
        for name, schema in _properties(parameters).items()
    ]


def _fields(parameters: type[PredictParameters]) -> dict[str, Any]:
    """The parameters as they stand in a JSON body, where null is the default of some."""
    fields = {}
    for name, schema in _properties(parameters).items():
        field = {**_plain(schema), "description": schema.get("description", "")}
        if "anyOf" in schema:
            field["type"] = [field["type"], "null"]
        fields[name] = field
    return fields


def _form(parameters: type[PredictParameters], file: dict[str, Any]) -> dict[str, Any]:
    """A form with the file field, and perhaps parameters.

    Listed as properties, Swagger UI would send them all, with values of its own such as
    timeout_ms=1; patterns it passes over.
    """
    fields = {f"^{name}$": _plain(field) for name, field in _properties(parameters).items()}
    return {
        "type": "object",
        "required": ["file"],
        "description": "The parameters of the query may be fields here, too, of the same names.",
        "properties": {"file": file},
        "patternProperties": fields,
        "additionalProperties": False,
    }


def _properties(parameters: type[PredictParameters]) -> dict[str, Any]:
    properties: dict[str, Any] = parameters.model_json_schema()["properties"]
    return properties


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without its title and description; optional means absent, never null."""
    plain = {
        key: value for key, value in schema.items() if key not in ("title", "description", "anyOf")
    }
    for option in schema.get("anyOf", ()):
        if option.get("type") != "null":
            plain |= option
    if plain.get("default", 0) is None:
        del plain["default"]
    return plain


def _image_properties() -> dict[str, Any]:
    row = {
        "type": "array",
        "minItems": SIDE,
        "maxItems": SIDE,
        "items": {"type": "integer", "minimum": 0, "maximum": 255},
    }
    return {
        "image": {
            "type": "string",
            "format": "byte",
            "minLength": 1,
            "description": "An image file in base64, or a data: URL of one.",
        },
        "pixels": {
            "type": "array",
            "description": "28 rows of 28 integers, 0 to 255; 255 is ink. 784 in one list work.",
            "minItems": SIDE,
            "maxItems": SIDE,
            "items": row,
        },
    }


def _image_body(parameters: type[PredictParameters]) -> dict[str, Any]:
    json_schema = {
        "type": "object",
        "description": "Either image or pixels, and any parameters.",
        "properties": {**_image_properties(), **_fields(parameters)},
        "additionalProperties": False,
        "oneOf": _EITHER,
    }
    image = {"image": example_png_base64()}
    pixels = {"pixels": example_pixels().tolist()}
    examples = {
        "image": {"summary": "An image file in base64", "value": image},
        "pixels": {"summary": "28 x 28 values", "value": pixels},
    }
    content: dict[str, Any] = {kind: {"schema": _BINARY} for kind in _RAW_TYPES}
    content["application/json"] = {"schema": json_schema, "examples": examples}
    content["multipart/form-data"] = {
        "schema": _form(parameters, {**_BINARY, "description": "The image file."})
    }
    return {"required": True, "content": content}


def _batch_body(parameters: type[PredictParameters]) -> dict[str, Any]:
    item = {
        "type": "object",
        "description": "Either image or pixels.",
        "properties": _image_properties(),
        "additionalProperties": False,
        "oneOf": _EITHER,
    }
    json_schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "inputs": {"type": "array", "minItems": 1, "items": item},
            **_fields(parameters),
        },
        "additionalProperties": False,
    }
    image = {"image": example_png_base64()}
    form_schema = _form(parameters, {"type": "array", "minItems": 1, "items": _BINARY})
    content = {
        "application/json": {
            "schema": json_schema,
            "examples": {
                "images": {"summary": "Two image files", "value": {"inputs": [image, image]}}
            },
        },
        "multipart/form-data": {"schema": form_schema},
    }
    return {"required": True, "content": content}
