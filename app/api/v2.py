"""`/v2`: the Open Inference Protocol, for the stock clients of Triton and KServe.

Raw routes, outside FastAPI's description: these clients send no Content-Type, or any.
"""

from collections.abc import Mapping
from importlib.metadata import version
from weakref import WeakKeyDictionary

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from app.api.answers import BytesResponse, JsonResponse
from app.api.compression import deflate
from app.api.dispatch import answer_many, answer_one, predictor_of, refuse_early
from app.api.receiving import Headers, headers_of, parse_body, read_body
from app.api.routes import DirectRoute
from app.errors import ApiError, ErrorCode
from app.inference.pipeline import Predictor
from app.open_inference.models import EXTENSIONS, SERVER_NAME, ServedModel, served_models
from app.open_inference.protocol import VERSION, invalid
from app.open_inference.requests import InferenceRequest, load_json, parse_request
from app.open_inference.responses import build_response
from app.schemas import Prediction

_HEADER_LENGTH = b"inference-header-content-length"
# By what answers; a reloaded checkpoint may have other labels.
_served: WeakKeyDictionary[Predictor, Mapping[str, ServedModel]] = WeakKeyDictionary()


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
    return JsonResponse([model.index() for model in _models(request).values()])


async def model_metadata(request: Request) -> JsonResponse:
    """`GET /v2/models/NAME`: inputs and outputs."""
    return JsonResponse(_find_model(request).metadata())


async def model_ready(request: Request) -> JsonResponse:
    """`GET /v2/models/NAME/ready`."""
    return JsonResponse({"name": _find_model(request).name, "ready": True})


async def model_config(request: Request) -> JsonResponse:
    """`GET /v2/models/NAME/config`: perf_analyzer reads the largest batch from it."""
    return JsonResponse(_find_model(request).config())


async def infer(request: Request) -> Response:
    """`POST /v2/models/NAME/infer`: the numbers of the native routes, as tensors."""
    refuse_early(request, _find_model(request).parameters_type)
    headers = headers_of(request)
    asked = await _read_request(request, headers)
    model, predictor = _find_model(request), predictor_of(request)
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
    model = _find_model(request)

    def parse(body: bytes) -> InferenceRequest:
        return parse_request(body, headers.get(_HEADER_LENGTH), model)

    return await parse_body(request, headers, body, parse)


def _models(request: Request) -> Mapping[str, ServedModel]:
    """The models by name.

    Raises:
        ApiError: not_ready, no model can answer yet, or any more.
    """
    predictor = predictor_of(request)
    models = _served.get(predictor)
    if models is None:
        models = served_models(predictor.checkpoint, request.app.state.settings)
        _served[predictor] = models
    return models


def _find_model(request: Request) -> ServedModel:
    """The model that the address names.

    Raises:
        ApiError: not_ready, no model can answer yet, or any more.
        ApiError: not_found, there is no such model, or no such version of it.
    """
    models = _models(request)
    model = models.get(request.path_params["model"])
    if model is None:
        raise ErrorCode.NOT_FOUND(f"there is no such model; the models are {', '.join(models)}")
    if request.path_params.get("version", VERSION) != VERSION:
        raise ErrorCode.NOT_FOUND(f"there is no such version; the one version is {VERSION}")
    return model


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
    ],
)
# A mount does not have its own address without a slash.
root_route = Route("/v2", server_metadata)
