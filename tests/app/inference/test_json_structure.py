"""What JSON may hold: everything that is valid, and not much more."""

import base64
import json
import random

import pytest

from app.errors import ApiError
from app.inference.json_structure import check_structure

ROWS = [[255] * 28] * 28
FLOATS = [[0.12345678901234567] * 28] * 28
PICTURE = base64.b64encode(random.Random(1).randbytes(5_000_000)).decode()

LARGEST: dict[str, tuple[object, int]] = {
    "rows": ({"pixels": ROWS, "passes": 5, "seed": 1}, 1),
    "a picture": ({"image": "data:image/png;base64," + PICTURE}, 1),
    "a picture in lines": (
        {"image": "\r\n".join(PICTURE[start : start + 64] for start in range(0, len(PICTURE), 64))},
        1,
    ),
    "a batch of rows": ({"inputs": [{"pixels": ROWS}] * 256, "passes": 5}, 256),
    "a batch of pictures": (
        {"inputs": [{"image": "data:image/png;base64," + PICTURE[:20_000]}] * 256},
        256,
    ),
    "a tensor": (
        {
            "inputs": [
                {
                    "name": "pixels",
                    "shape": [256, 28, 28],
                    "datatype": "FP32",
                    "data": [FLOATS] * 256,
                }
            ],
            "outputs": [{"name": "digit", "parameters": {"binary_data": True}}] * 11,
        },
        256,
    ),
}


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("indent", [None, 1])
def test_the_largest_valid_requests_pass(name: str, indent: int | None) -> None:
    document, images = LARGEST[name]
    text = json.dumps(document, indent=indent).encode()

    check_structure(text, images)
    check_structure(text.replace(b"/", b"\\/"), images)  # as PHP writes it


@pytest.mark.parametrize(
    ("text", "images", "code"),
    [
        (b"[" + b"[]," * 9000 + b"0]", 1, "invalid_json"),
        (b"[" + b"[]," * 300_000 + b"0]", 256, "too_many_images"),
        (b"[" * 20_000, 256, "invalid_json"),
        (b'{"image":' * 20_000, 256, "invalid_json"),
        (b"{" + b'"a":0,' * 20_000, 256, "invalid_json"),
        (b"[" + b'"",' * 20_000 + b"0]", 256, "invalid_json"),
        (b"[" + b"0," * 5_000 + b"0]", 1, "invalid_json"),
        (b"[" + b"0," * 250_000 + b"0]", 256, "too_many_images"),
        (b'{"image":"' + b"\\n" * 1_000_001 + b'"}', 256, "invalid_json"),
        (b'{"image":"' + b"\\u0041" * 1_000_001 + b'"}', 256, "invalid_json"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
def test_more_structure_than_any_valid_request_has_is_refused(
    text: bytes, images: int, code: str
) -> None:
    with pytest.raises(ApiError) as caught:
        check_structure(text, images)

    assert caught.value.code == code
    assert str(images) in caught.value.message


def test_a_batch_of_more_images_than_fit_is_called_so() -> None:
    text = json.dumps({"inputs": [{"pixels": ROWS}] * 300}).encode()

    with pytest.raises(ApiError) as caught:
        check_structure(text, 256)

    assert caught.value.code == "too_many_images"
