"""Inputs of networks that take what is sent, and no pictures of digits: numbers, and pictures."""

import math
from itertools import chain
from typing import Any, cast

import cv2
import numpy as np

from app.errors import ErrorCode
from model.arrays import Floats, Pixels
from model.layered import InputSpec
from model.literals import SIDE, Preprocess

Size = tuple[int, int, int]  # height, width and channels


def picture_size(spec: InputSpec) -> Size | None:
    """The height, the width and the channels of a network's inputs; None: they are no pictures.

    Only of pixels it is known what their numbers are.
    """
    shape = spec.shape
    if spec.dtype != "uint8" or len(shape) not in (2, 3):
        return None
    if len(shape) == 2:
        return (*shape, 1)
    channels, height, width = (shape[2], *shape[:2]) if spec.channels == "last" else shape
    return (height, width, channels) if channels in (1, 3) else None


def require_pictures(spec: InputSpec) -> Size:
    """The size of a network's pictures; refuses them where it takes none.

    Raises:
        ApiError: unsupported_media_type, it takes numbers.
    """
    size = picture_size(spec)
    if size is None:
        raise ErrorCode.UNSUPPORTED_MEDIA_TYPE(
            f'this network takes numbers and no pictures; send JSON, {{"input": {shown(spec)}}}'
        )
    return size


def fit_plain(given: Pixels | Floats, mode: Preprocess, spec: InputSpec) -> Pixels | Floats:
    """A network's input.

    Args:
        given: the input, already of the network's shape; or a picture, 0 to 255.
        mode: "auto" scales a picture to the network's size; "none" takes one that has it.
        spec: what the network takes.

    Raises:
        ApiError: invalid_pixels, it is neither.
    """
    if given.shape == spec.shape and given.dtype == spec.dtype:
        return given
    size = picture_size(spec)
    if size is None or given.dtype != np.uint8 or given.ndim not in (2, 3):
        raise ErrorCode.INVALID_PIXELS(f"an input of this network is {described(spec)}")
    return _fit(cast(Pixels, given), mode, spec, size)


def _fit(picture: Pixels, mode: Preprocess, spec: InputSpec, size: Size) -> Pixels | Floats:
    height, width, channels = size
    if picture.shape[:2] != (height, width):
        if mode == "none":
            raise ErrorCode.INVALID_PIXELS(
                f"preprocess=none takes a picture of {width}x{height} pixels; scale it, or leave "
                "preprocess out"
            )
        is_smaller = height < picture.shape[0] and width < picture.shape[1]
        method = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=method))
    if picture.ndim == 2 and channels == 3:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    elif picture.ndim == 3 and channels == 1:
        raise ErrorCode.INVALID_PIXELS(f"an input of this network is {described(spec)}")
    if spec.channels == "first" and len(spec.shape) == 3:
        picture = picture.reshape(height, width, channels).transpose(2, 0, 1)
    return np.ascontiguousarray(picture).reshape(spec.shape)


def flatten(data: Any, shape: tuple[int, ...]) -> list[Any] | None:
    """The values of a list that is flat, or nested as the shape says; None: it is neither."""
    if not isinstance(data, list) or not data:
        return None
    values: list[Any] = data
    is_flat = not isinstance(values[0], list)
    if len(values) != (math.prod(shape) if is_flat else shape[0]):
        return None
    for size in () if is_flat else shape[1:]:
        if any(type(row) is not list or len(row) != size for row in values):
            return None
        values = list(chain.from_iterable(values))
    return values


def as_input(values: list[Any] | None, spec: InputSpec) -> Pixels | Floats | None:
    """The network's input from the numbers of JSON; None: they are others than it takes."""
    # Booleans are integers in Python, so types are compared and not tested with isinstance.
    if values is None or not set(map(type, values)) <= {int, float}:
        return None
    if spec.dtype == "uint8":
        if set(map(type, values)) != {int} or min(values) < 0 or max(values) > 255:
            return None
        return np.array(values, np.uint8).reshape(spec.shape)
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, np.float64).astype(np.float32)
    except OverflowError:
        return None
    return array.reshape(spec.shape) if np.isfinite(array).all() else None


def input_from_json(data: Any, spec: InputSpec) -> Pixels | Floats:
    """The network's input from JSON's lists.

    Raises:
        ApiError: invalid_pixels, the numbers are not those that the network takes.
    """
    array = as_input(flatten(data, spec.shape), spec)
    if array is None:
        raise ErrorCode.INVALID_PIXELS(f"input must be {described(spec)}", param="input")
    return array


def shown(spec: InputSpec) -> str:
    """An input's lists in a message."""
    return "[" * len(spec.shape) + "..." + "]" * len(spec.shape)


def described(spec: InputSpec) -> str:
    """What an input is, in words."""
    kind = "whole numbers from 0 to 255" if spec.dtype == "uint8" else "finite numbers"
    flat = "" if len(spec.shape) == 1 else ", nested or in one list"
    return f"{'x'.join(map(str, spec.shape))} {kind}{flat}"


def takes_digits(spec: InputSpec) -> bool:
    """Whether a picture of a digit becomes an input, of 28x28 pixels."""
    return spec.preparation == "digit"


def json_shape(spec: InputSpec) -> tuple[int, ...]:
    """How numbers in JSON are nested."""
    return (SIDE, SIDE) if takes_digits(spec) else spec.shape
