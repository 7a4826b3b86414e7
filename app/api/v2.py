"""`/v2`: the Open Inference Protocol, for the stock clients of Triton and KServe.

Raw routes, outside FastAPI's description: these clients send no Content-Type, or any.
"""

import asyncio
from collections.abc import Mapping
from importlib.metadata import version
from weakref import WeakKeyDictionary

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from app.api.answers import BytesResponse, JsonResponse
from app.api.compression import deflate
from app.api.dispatch import answer_many, answer_one
from app.api.receiving import Headers, headers_of, parse_body, read_body
from app.api.routes import DirectRoute
from app.errors import ApiError, ErrorCode
from app.inference.catalogue import newest
from app.inference.pipeline import Predictor
from app.open_inference.models import (
    EXTENSIONS,
    MC_SUFFIX,
    SERVER_NAME,
    ServedModel,
    missing_model,
    served_models,
)
from app.open_inference.protocol import invalid
from app.open_inference.requests import InferenceRequest, load_json, parse_request
from app.open_inference.responses import build_response
from app.schemas import Prediction
from model.errors import ModelError

_HEADER_LENGTH = b"inference-header-content-length"
_Versions = tuple[str, ...]
# By what answers, and the versions next to it; a reloaded checkpoint may have other labels.
_served: WeakKeyDictionary[Predictor, tuple[_Versions, Mapping[str, ServedModel]]]
_served = WeakKeyDictionary()


async def server_metadata(request: Request) -> JsonResponse:
    """`GET /v2`: which server, and what it can do beyond the protocol."""
    return JsonResponse(
        {"name": SERVER_NAME, "version": version("dropserve"), "extensions": EXTENSIONS}
    )


async def live(request: Request) -> JsonResponse:
    """`GET /v2/health/live`: KServe's client wants a body."""
    return JsonResponse({"live": True})


async def ready(request: Request) -> JsonResponse:
    """`GET /v2/health/ready`: 503 before, and from when the server is to end."""
    state = request.app.state
    if not state.models.is_ready or state.is_draining:
        raise ErrorCode.NOT_READY()
    return JsonResponse({"live": True, "ready": True})


async def repository_index(request: Request) -> JsonResponse:
    """`POST /v2/repository/index`: the models and their state; `ready` leaves out the others."""
    state = request.app.state
    text = await read_body(request, headers_of(request), state.settings.max_body_bytes)
    try:
        document = load_json(text, 1) if text else {}
    except orjson.JSONDecodeError as error:
        raise invalid("the body is not valid JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("ready", False), bool):
        raise invalid('the body must be an object; {"ready": true} asks for ready ones')
    models = state.models
    entries = [
        model.index()
        for name, versions in models.models.items()
        for version, predictor in versions.items()
        for model in _models_of(request, name, version, predictor).values()
    ]
    if not document.get("ready", False):
        for name, reason in models.catalogue.unloaded.items():
            entries += missing_model(name, reason)
    return JsonResponse(entries)


async def load(request: Request) -> JsonResponse:
    """`POST /v2/repository/models/NAME/load`: answered when all workers serve it."""
    return await _change(request, is_load=True)


async def unload(request: Request) -> JsonResponse:
    """`POST /v2/repository/models/NAME/unload`: answered when no worker serves it any more."""
    return await _change(request, is_load=False)


async def _change(request: Request, *, is_load: bool) -> JsonResponse:
    state = request.app.state
    if state.settings.admin_keys_file is None:
        raise ErrorCode.UNAUTHORIZED(
            "models are neither loaded nor unloaded here; DROPSERVE_ADMIN_KEYS_FILE names the file "
            "with the keys of those who may"
        )
    await read_body(request, headers_of(request), state.settings.max_body_bytes)
    name = request.path_params["model"]
    if name.endswith(MC_SUFFIX):
        raise invalid(f"a network is loaded and unloaded under its name without {MC_SUFFIX}")
    _ = state.models.predictor  # there is one, or the server is starting or stopping
    try:
        async with asyncio.timeout(state.settings.max_timeout_ms / 1000):
            await state.change_model(name, is_load)
    except ModelError as error:
        raise invalid(str(error)) from error
    except TimeoutError as error:
        raise ErrorCode.DEADLINE_EXCEEDED(
            "the change takes longer than DROPSERVE_MAX_TIMEOUT_MS; it goes on, and the repository "
            "index shows when it is done"
        ) from error
    return JsonResponse({})


async def model_metadata(request: Request) -> JsonResponse:
    """`GET /v2/models/NAME`: inputs and outputs."""
    return JsonResponse(_find_model(request)[1].metadata())


async def model_ready(request: Request) -> JsonResponse:
    """`GET /v2/models/NAME/ready`."""
    return JsonResponse({"name": _find_model(request)[1].name, "ready": True})


async def model_config(request: Request) -> JsonResponse:
    """`GET /v2/models/NAME/config`: perf_analyzer reads the largest batch from it."""
    return JsonResponse(_find_model(request)[1].config())


async def infer(request: Request) -> Response:
    """`POST /v2/models/NAME/infer`: the numbers of the native routes, as tensors."""
    predictor, model = _find_model(request)
    predictor.check(model.parameters_type)
    headers = headers_of(request)
    asked = await _read_request(request, headers)
    predictor, model = _find_model(request)  # again: a reload may have closed the one before
    answers = await _answer(request, predictor, asked)
    content, json_length = build_response(model, asked.header, answers)
    accepted = headers.get(b"accept-encoding", b"").decode("latin-1")
    content, compression = await deflate(content, accepted)
    described = {} if compression is None else {"content-encoding": compression}
    if json_length is None:
        return BytesResponse(content, b"application/json", headers=described)
    described = {_HEADER_LENGTH.decode(): str(json_length), **described}
    return BytesResponse(content, b"application/octet-stream", headers=described)


async def _read_request(request: Request, headers: Headers) -> InferenceRequest:
    body = await read_body(request, headers, request.app.state.settings.max_body_bytes)
    _, model = _find_model(request)

    def parse(body: bytes) -> InferenceRequest:
        return parse_request(body, headers.get(_HEADER_LENGTH), model)

    return await parse_body(request, headers, body, parse)


def _models_of(
    request: Request, name: str, version: str, predictor: Predictor
) -> Mapping[str, ServedModel]:
    """The two models of a network, by name."""
    state = request.app.state
    versions = tuple(state.models.models[name])
    known = _served.get(predictor)
    if known is None or known[0] != versions:
        models = served_models(predictor.checkpoint, state.settings, name, version, versions)
        known = _served[predictor] = versions, models
    return known[1]


def _find_model(request: Request) -> tuple[Predictor, ServedModel]:
    """The network and the model that the address names.

    Raises:
        ApiError: not_ready, no model can answer yet, or any more.
        ApiError: not_found, there is no such model, or no such version of it.
    """
    repository, asked = request.app.state.models, request.path_params["model"]
    _ = repository.predictor
    name = asked.removesuffix(MC_SUFFIX)
    versions = repository.models.get(name)
    if versions is None:
        names = [each + suffix for each in repository.models for suffix in ("", MC_SUFFIX)]
        raise ErrorCode.NOT_FOUND(f"there is no such model; the models are {', '.join(names)}")
    version = request.path_params.get("version") or newest(versions)
    if version not in versions:
        known = "the one version is" if len(versions) == 1 else "the versions are"
        raise ErrorCode.NOT_FOUND(f"there is no such version; {known} {', '.join(versions)}")
    predictor = versions[version]
    request.scope["state"]["model"] = predictor.name  # for the log
    return predictor, _models_of(request, name, version, predictor)[asked]


async def _answer(
    request: Request, predictor: Predictor, asked: InferenceRequest
) -> list[Prediction]:
    """An answer for each image; one image is answered as by the native routes."""
    parameters = asked.header.parameters
    if len(asked.images) == 1:
        return [await answer_one(request, predictor, asked.images[0], parameters)]
    answers = await answer_many(request, predictor, list(asked.images), parameters)
    for number, answer in enumerate(answers):
        if isinstance(answer, ApiError):  # a tensor has no place for it, so it fails the request
            message = f"image {number} of the batch: {answer.message}"
            raise answer.kind(message, headers=answer.headers)
    return [answer for answer in answers if isinstance(answer, Prediction)]


_MODEL_PATHS = ("/models/{model}", "/models/{model}/versions/{version}")
infer_routes = [
    DirectRoute(f"/v2{path}/infer", infer, methods=["POST"], include_in_schema=False)
    for path in _MODEL_PATHS
]
mount = Mount(
    "/v2",
    routes=[
        *(Route(path, model_metadata) for path in _MODEL_PATHS),
        *(Route(f"{path}/ready", model_ready) for path in _MODEL_PATHS),
        *(Route(f"{path}/config", model_config) for path in _MODEL_PATHS),
        # The direct ones again: the mount answers for every address below its own, 405 included.
        *(Route(f"{path}/infer", infer, methods=["POST"]) for path in _MODEL_PATHS),
        Route("/", server_metadata),
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/repository/index", repository_index, methods=["POST"]),
        Route("/repository/models/{model}/load", load, methods=["POST"]),
        Route("/repository/models/{model}/unload", unload, methods=["POST"]),
    ],
)
# A mount does not have its own address without a slash.
root_route = Route("/v2", server_metadata)
