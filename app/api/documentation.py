"""What the docs page shows in addition to the routes themselves: real answers, errors, and V2."""

import json
from collections.abc import Iterable
from typing import Any

from app.api.cards import model_card
from app.api.examples import example_png_base64
from app.api.routes import MODEL_PREFIXES
from app.errors import ErrorCode
from app.inference.encoding import encode_json
from app.inference.pipeline import Predictor
from app.open_inference.models import served_models
from app.schemas import error_body
from app.settings import Settings

_V2 = "Open Inference Protocol"
_OBJECT = {"application/json": {"schema": {"type": "object"}}}
_REFUSED = {"description": "What is wrong, in the protocol's own form.", "content": _OBJECT}


def document_network(paths: dict[str, Any], predictor: Predictor, settings: Settings) -> None:
    """Adds to the description's paths real answers, and the routes of V2."""
    _add_real_examples(paths, predictor)
    paths |= _v2_paths(served_models(predictor.checkpoint, settings))


def _add_real_examples(paths: dict[str, Any], predictor: Predictor) -> None:
    """Gives every answer an example that the network computed, and every error its own words."""
    plain, sampled = (json.loads(encode_json(answer)) for answer in predictor.warm_up())
    answers = {
        "/predict": plain,
        "/predict/mc": sampled,
        "/predict/batch": {"predictions": [plain]},
        "/predict/mc/batch": {"predictions": [sampled]},
        "/model": (card := model_card(predictor)),
        "": card,  # of `/models/{model}`
        "/feedback": {"correct": True},
        "/health/live": {"status": "live"},
        "/health/ready": {"status": "ready"},
    }
    for path, operations in paths.items():
        for operation in operations.values():
            if path.startswith("/models/"):
                operation["parameters"][0]["schema"]["default"] = predictor.name
            for status, response in operation["responses"].items():
                content = response.get("content", {}).get("application/json")
                if content is None:
                    continue
                if status.startswith(("4", "5")):
                    content["example"] = _error_example(int(status))
                elif (short := path.removeprefix(MODEL_PREFIXES[1])) in answers:
                    content["example"] = answers[short]
    text = f"event: result\ndata: {json.dumps(sampled, separators=(',', ':'))}\n\n"
    for prefix in MODEL_PREFIXES[:2]:
        events = paths[f"{prefix}/predict/mc/stream"]["post"]["responses"]["200"]["content"]
        events["text/event-stream"]["example"] = text


def _error_example(status: int) -> dict[str, Any]:
    kind = next(each for each in ErrorCode if each.status == status)
    example: dict[str, Any] = json.loads(encode_json(error_body(kind(), "2f1e9c0a7b6d4e53")))
    return example


def _v2_paths(models: Iterable[str]) -> dict[str, Any]:
    """The routes of V2 that clients call most, for models of these names; the last is sampled."""
    names = list(models)
    model = {
        "name": "model",
        "in": "path",
        "required": True,
        "description": "With dropout off, or on: the name with -mc.",
        "schema": {"type": "string", "enum": names, "default": names[-1]},
    }
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [example_png_base64()]}
    request = {
        "parameters": {"seed": 1},
        "inputs": [tensor],
        "outputs": [{"name": "digit"}, {"name": "mean"}, {"name": "votes"}],
    }
    content = {"application/json": {**_OBJECT["application/json"], "example": request}}
    body = {"required": True, "content": content}
    return {
        "/v2": {"get": _operation("v2_server", "Which server, and its extensions", [])},
        "/v2/models/{model}": {
            "get": _operation("v2_model", "Inputs and outputs of a model", [model])
        },
        "/v2/models/{model}/infer": {
            "post": {
                **_operation("v2_infer", "Predict, with tensors", [model]),
                "requestBody": body,
            }
        },
    }


def _operation(name: str, summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tags": [_V2],
        "summary": summary,
        "description": "Of the Open Inference Protocol (V2), for clients of Triton and KServe.",
        "operationId": name,
        "parameters": parameters,
        "responses": {
            "200": {"description": "As the protocol says.", "content": _OBJECT},
            "4XX": _REFUSED,
            "5XX": _REFUSED,
        },
    }
