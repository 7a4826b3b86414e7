"""The description of the image routes: every body form with an example that works as it stands."""

from typing import Any

from pydantic import BaseModel

from app.examples import example_pixels, example_png_base64
from app.schemas import ErrorBody, PredictParameters

_BINARY = {"type": "string", "format": "binary"}
_RAW_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif", "image/tiff")
_STATUSES = {
    400: "The request cannot be read.",
    413: "The body or the image is too large.",
    415: "Not a kind of body or image that is read.",
    422: "Readable, but impossible: a parameter, the pixels, or no ink.",
    503: "Starting or stopping; try again.",
}


def describe_image_route(
    parameters: type[PredictParameters], answer: type[BaseModel]
) -> dict[str, Any]:
    """Arguments of a route's decorator: parameters, body forms and answers for OpenAPI."""
    properties = parameters.model_json_schema()["properties"]
    query = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.get("description", ""),
            "schema": _plain(schema),
        }
        for name, schema in properties.items()
    ]
    return {
        "response_model": answer,
        "responses": {
            status: {"model": ErrorBody, "description": text} for status, text in _STATUSES.items()
        },
        "openapi_extra": {"parameters": query, "requestBody": _body(properties)},
    }


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without what is said beside it; optional means absent, never null."""
    plain = {
        key: value for key, value in schema.items() if key not in ("title", "description", "anyOf")
    }
    for option in schema.get("anyOf", ()):
        if option.get("type") != "null":
            plain |= option
    if plain.get("default", 0) is None:
        del plain["default"]
    return plain


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    fields = {
        name: {**_plain(schema), "description": schema.get("description", "")}
        for name, schema in properties.items()
    }
    pixels = {
        "type": "array",
        "description": "28 rows of 28 integers, 0 to 255; 255 is ink. 784 in one list work too.",
        "minItems": 28,
        "maxItems": 28,
        "items": {
            "type": "array",
            "minItems": 28,
            "maxItems": 28,
            "items": {"type": "integer", "minimum": 0, "maximum": 255},
        },
    }
    image = {"type": "string", "description": "An image file in base64, or a data: URL of one."}
    json_schema = {
        "type": "object",
        "description": "Either image or pixels, and any parameters.",
        "properties": {"image": image, "pixels": pixels, **fields},
        "additionalProperties": False,
    }
    form_schema = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {**_BINARY, "description": "The image file."}, **fields},
    }
    content: dict[str, Any] = {kind: {"schema": _BINARY} for kind in _RAW_TYPES}
    content["application/json"] = {
        "schema": json_schema,
        "examples": {
            "image": {
                "summary": "An image file in base64",
                "value": {"image": example_png_base64()},
            },
            "pixels": {
                "summary": "28 x 28 values",
                "value": {"pixels": example_pixels().tolist()},
            },
        },
    }
    content["multipart/form-data"] = {"schema": form_schema}
    return {"required": True, "content": content}
