"""Answers as JSON."""

from typing import Any

import numpy as np
import pytest

from app.inference.encoding import encode_json


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
