"""From a request to an image source and parameters, whatever form the body has.

The bytes of an image may come as the raw body, as a multipart file or as base64 in JSON; its pixels
as numbers in JSON. Parameters come in the query, or under the same names in the JSON body or as
form fields. Raw bodies are the fast path: multipart parsing alone takes longer than a prediction.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)
from starlette.requests import Request

from app.api.json_bodies import explain_type, image_of_json, images_of_json, too_many
from app.api.receiving import Headers, headers_of, parse_body, read_body
from app.errors import ApiError, ErrorCode
from app.inference.decoding import Image
from app.inference.image_formats import find_mistake
from app.inference.parameters import parse_parameters
from app.schemas import PredictParameters
from app.settings import Settings
from model.layered import InputSpec

_UNTYPED = ("", "application/octet-stream", "application/x-www-form-urlencoded")
_FILE_FIELDS = ("file", "image", "data")
_JSON, _FORM = "application/json", "multipart/form-data"
_BOUNDARY = re.compile(rb"--([^\r\n]{1,200})\r\n")
# In a query or a form; JSON has its own.
_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_NO_FILE_NAME = (
    "the image came as text, since its part of the form has no file name; send it as a file (curl: "
    "-F file=@digit.png, with @; requests: files={...}; fetch: a Blob in FormData)"
)
_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_MOST_FIELDS = 100
# The digits of the largest float, 309, and some to spare.
_LONGEST_NUMBER = 400
_REMEMBERED_QUERY = 256  # the longest, in bytes

P = TypeVar("P", bound=PredictParameters)
Fields = Iterable[tuple[str, Any]]


async def read_image_request(
    request: Request,
    parameters_type: type[P],
    check: Callable[[P | None, bytes, int], None],
    spec: InputSpec | None = None,
) -> tuple[Image, P]:
    """Reads and validates a request for one image: the image and the parameters.

    Args:
        request: whose body is read.
        parameters_type: of the route.
        check: refuses what would wait too long; called before the body is read, and with the first
            part of a large body. Takes the parameters, None if the body may have some; the
            beginning of the image, as far as it is there; and the size of the whole.
        spec: of the network's inputs; None: pictures of digits.

    Raises:
        ApiError: the one that says what to change.
    """
    headers, settings = headers_of(request), request.app.state.settings
    content_type = _content_type(headers)
    is_image = content_type.startswith("image/") or content_type in _UNTYPED
    query: bytes = request.scope["query_string"]
    asked = None
    if is_image and len(query) <= _REMEMBERED_QUERY:
        asked = _parameters_of_query(query, parameters_type, settings)
    check(asked, b"", 0)
    is_encoded = b"content-encoding" in headers
    look = None if asked is None or is_encoded else partial(check, asked)
    body = await read_body(request, headers, settings.max_body_bytes, look)
    if is_encoded and content_type != _JSON:
        body = await parse_body(request, headers, body, bytes)
    image: Image
    fields: Fields
    if content_type == _JSON:
        image, fields = await parse_body(
            request, headers, body, lambda text: image_of_json(text, spec)
        )
    elif content_type == _FORM:
        one_file = ErrorCode.INVALID_MULTIPART(
            "the form must have one file, the image, in the field named file "
            "(curl: -F file=@digit.png); /predict/batch takes several",
            param="file",
        )
        files, texts = _read_form(request, body, 1, one_file)
        fields = _typed(texts, parameters_type)
        if not files:
            raise one_file
        name, image = files[0]
        if name not in _FILE_FIELDS:
            raise ErrorCode.INVALID_MULTIPART(
                "the file must be in the field named file", param="file"
            )
    elif is_image:
        image, fields = body, ()  # the bytes decide
    else:
        raise ErrorCode.UNSUPPORTED_MEDIA_TYPE(
            explain_type(body)
            or "this content type cannot be read; send an image, JSON or multipart/form-data"
        )
    if len(image) == 0:
        raise ErrorCode.EMPTY_BODY()
    if not fields and len(query) <= _REMEMBERED_QUERY:
        return image, _parameters_of_query(query, parameters_type, settings)
    pairs = [*_query_pairs(query, parameters_type), *fields]
    return image, parse_parameters(pairs, parameters_type, settings)


async def read_batch_request(
    request: Request,
    parameters_type: type[P],
    check: Callable[[int, P], None],
    spec: InputSpec | None = None,
) -> tuple[list[Image | ApiError], P]:
    """Reads and validates a request for many images: the images and the parameters.

    What is wrong with one image stands in its place; what is wrong with the request is raised.

    Args:
        request: whose body is read.
        parameters_type: of the route.
        check: refuses that many images with these parameters, if that would be too much; called
            before they are parsed, which takes a tenth of the time that their answers take.
        spec: of the network's inputs; None: pictures of digits.

    Raises:
        ApiError: the one that says what to change.
    """
    headers, settings = headers_of(request), request.app.state.settings
    body = await read_body(request, headers, settings.max_body_bytes)
    query: bytes = request.scope["query_string"]
    if len(query) <= _REMEMBERED_QUERY and not names_passes(body):
        check(count_images(body), _parameters_of_query(query, parameters_type, settings))
    pairs = _query_pairs(query, parameters_type)
    content_type = _content_type(headers)
    if b"content-encoding" in headers and content_type != _JSON:
        body = await parse_body(request, headers, body, bytes)
    limit = settings.max_batch_images
    images: list[Image | ApiError]
    fields: Fields
    if content_type == _JSON:
        images, fields = await parse_body(
            request, headers, body, lambda text: images_of_json(text, limit, spec)
        )
        pairs.extend(fields)
    elif content_type == _FORM:
        files, texts = _read_form(request, body, limit, too_many(limit))
        if not files or any(name != "file" for name, _ in files):
            raise ErrorCode.INVALID_MULTIPART(
                "the form must have the images as files, all in fields named file "
                "(curl: -F file=@1.png -F file=@2.png)",
                param="file",
            )
        images = [image for _, image in files]
        pairs.extend(_typed(texts, parameters_type))
    else:
        raise ErrorCode.UNSUPPORTED_MEDIA_TYPE(
            find_mistake(body)
            or "a batch is JSON with inputs, or multipart/form-data with files; /predict and "
            "/predict/mc take the bytes of one image"
        )
    parameters = parse_parameters(pairs, parameters_type, settings)
    if parameters.return_steps:
        raise ErrorCode.INVALID_PARAMETER(
            "return_steps works with one image, on /predict and /predict/mc; ask there, or leave "
            "it out",
            param="return_steps",
        )
    return images, parameters


def names_passes(body: bytes) -> bool:
    """Whether a body may ask for fewer passes than the query."""
    return b"passes" in body


def count_images(body: bytes) -> int:
    """The images of a form or of JSON, as they are usually written; of others fewer."""
    return body.count(b"filename=") or sum(map(body.count, (b'"image"', b'"pixels"', b'"input"')))


def _query_pairs(query: bytes, parameters_type: type[P]) -> list[tuple[str, Any]]:
    if not query:
        return []
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return _typed(pairs, parameters_type)


@lru_cache(maxsize=256)
def _parameters_of_query(query: bytes, parameters_type: type[P], settings: Settings) -> P:
    """As `parse_parameters`; remembered, since clients ask again with the same query."""
    return parse_parameters(_query_pairs(query, parameters_type), parameters_type, settings)


def _typed(
    pairs: Iterable[tuple[str, str]], parameters_type: type[PredictParameters]
) -> list[tuple[str, Any]]:
    """Names and values of a query or form, the values as JSON would have them; blank is null."""
    fields = parameters_type.model_fields
    return [
        (name, _scalar(text, is_boolean=name in fields and fields[name].annotation is bool))
        for name, text in pairs
    ]


def _scalar(text: str, *, is_boolean: bool) -> Any:
    if is_boolean:
        return _BOOLEANS.get(text.lower(), text)
    if len(text) <= _LONGEST_NUMBER and _JSON_NUMBER.fullmatch(text):
        return json.loads(text)
    return text or None


def _content_type(headers: Headers) -> str:
    value = headers.get(b"content-type", b"").decode("latin-1")
    return value.partition(";")[0].strip().lower()


def _read_form(
    request: Request, body: bytes, max_files: int, too_many: ApiError
) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]]]:
    """Files and fields of a form, each with its name; `too_many` is raised for more files.

    Raises:
        ApiError: also invalid_multipart, it cannot be read, or the image is no file.
    """
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get("boundary", "")
    files: list[tuple[str, bytes]] = []
    fields: list[tuple[str, str]] = []
    part: MultipartSegment | None = None
    chunks: list[bytes] = []
    try:
        # File names are not looked at, so that any bytes may be in them.
        with PushMultipartParser(boundary, header_charset="latin-1") as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    part = event
                elif event is not None:
                    chunks.append(event)
                elif part is not None:
                    content = b"".join(chunks)
                    chunks.clear()
                    if part.filename is None:
                        fields.append((part.name, content.decode(errors="replace")))
                    else:
                        files.append((part.name, content))
                    if len(files) > max_files:
                        raise too_many
                    if len(fields) > _MOST_FIELDS:
                        raise ErrorCode.INVALID_MULTIPART(
                            f"the form has more than {_MOST_FIELDS} fields; send only parameters"
                        )
    except MultipartError as error:
        found = _BOUNDARY.match(body)
        is_other = not found or found[1].decode("latin-1") != boundary
        raise ErrorCode.INVALID_MULTIPART(explain_type(body) if is_other else None) from error
    if not files and any(name in _FILE_FIELDS for name, _ in fields):
        raise ErrorCode.INVALID_MULTIPART(_NO_FILE_NAME, param="file")
    return files, fields
