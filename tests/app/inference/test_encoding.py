"""Answers as JSON, and small pictures."""

from base64 import b64decode
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.inference.encoding import encode_json, encode_small


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), b"0.1"),
        (np.array([[1, 2], [3, 4]], dtype=np.uint8), b"[[1,2],[3,4]]"),
        ({"a": np.array([0.1, 1 / 3], dtype=np.float32)}, b'{"a":[0.1,0.33333334]}'),
        (np.int64(2**53 - 1), b"9007199254740991"),
    ],
)
def test_numpy_values_are_written_in_their_shortest_form(value: Any, text: bytes) -> None:
    assert encode_json(value) == text


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (160, 160), (161, 9), (3000, 2000), (1, 9000)])
def test_a_small_picture_is_small_and_the_same_if_it_was(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    with Image.open(BytesIO(b64decode(encode_small(pixels)))) as picture:
        assert picture.format == "PNG"
        assert max(picture.size) == min(160, max(shape))
        if max(shape) <= 160:
            np.testing.assert_array_equal(picture, pixels)
