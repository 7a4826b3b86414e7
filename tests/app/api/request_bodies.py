"""Bodies of prediction requests: one image or many, raw, as JSON or as a form."""

import base64
import json
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from model.arrays import Pixels
from tests.conftest import sample
from tests.samples.draw import preprocess_image

BOUNDARY = "b0undary"
JSON = "application/json"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def network_input(picture: bytes) -> Pixels:
    """The 28x28 pixels that the network should see."""
    with Image.open(BytesIO(picture)) as image:
        return preprocess_image(np.array(image.convert("L")))


def encode(image: Image.Image | Pixels, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def small(name: str) -> bytes:
    """A sample as 28x28 PNG, which is decoded on the event loop."""
    return encode(network_input(sample(name)))


def threaded(name: str) -> bytes:
    """A sample as TIFF, which is decoded in a thread, since its header is anywhere."""
    return encode(Image.open(BytesIO(sample(name))), "TIFF")


def base64_of(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def as_json(**fields: Any) -> dict[str, Any]:
    return {
        "content": json.dumps(fields).encode(),
        "headers": {"content-type": JSON},
    }


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    """A field of a form, or a file."""
    named = f'; filename="{file}"' if file is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def form_bytes(files: Sequence[bytes], name: str = "file", **fields: Any) -> bytes:
    """A body of type `FORM`: files in one field, and fields of text."""
    parts = [part(name, content, "1.png") for content in files]
    return form(*parts, *(part(each, str(value).encode()) for each, value in fields.items()))


def as_form(files: Sequence[bytes], name: str = "file", **fields: Any) -> dict[str, Any]:
    return {
        "content": form_bytes(files, name, **fields),
        "headers": {"content-type": FORM},
    }


def batch_as_json(pictures: Sequence[bytes | None], **parameters: Any) -> dict[str, Any]:
    """A batch as JSON; None stands for an image that is none."""
    inputs = [
        {"image": "?"} if one is None else {"image": base64.b64encode(one).decode()}
        for one in pictures
    ]
    return {"json": {"inputs": inputs, **parameters}}


def batch_as_form(pictures: Sequence[bytes | None], **parameters: Any) -> dict[str, Any]:
    """A batch as multipart/form-data; None stands for an image that is none."""
    return as_form([one or b"none" for one in pictures], **parameters)


BATCH_FORMS: dict[str, Callable[..., dict[str, Any]]] = {
    "JSON": batch_as_json,
    "multipart": batch_as_form,
}


# A small request for each route that predicts.
PREDICTIONS: dict[str, dict[str, Any]] = {
    "/predict": {"content": small("7.png")},
    "/predict/mc": {"content": small("7.png")},
    "/predict/mc/stream": {"content": small("7.png")},
    "/predict/batch": batch_as_json([small("7.png")]),
    "/predict/mc/batch": batch_as_json([small("7.png")]),
}
