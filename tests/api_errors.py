"""Assertions on `ApiError` by its code."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.errors import ApiError, ErrorCode


def is_error(value: object, *kinds: ErrorCode) -> bool:
    return isinstance(value, ApiError) and value.kind in kinds


@contextmanager
def raises_error(*kinds: ErrorCode, match: str = "") -> Iterator[pytest.ExceptionInfo[ApiError]]:
    """As `pytest.raises`, for one of the kinds."""
    with pytest.raises(ApiError) as caught:
        yield caught
    assert caught.value.kind in kinds
    assert re.search(match, str(caught.value)), caught.value
