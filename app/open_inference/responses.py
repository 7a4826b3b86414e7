"""Answers -> the body of an inference response: JSON, and raw data where it was asked for."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from numpy.typing import NDArray

from app.inference.encoding import encode_json
from app.schemas import Prediction

if TYPE_CHECKING:
    from app.open_inference.models import ServedModel, Tensor
    from app.open_inference.requests import RequestHeader


def build_response(
    model: "ServedModel", asked: "RequestHeader", answers: Sequence[Prediction]
) -> tuple[bytes, int | None]:
    """The body, and how many bytes of it are JSON if raw data follows.

    Args:
        model: which answered.
        asked: names the outputs, in order.
        answers: one for each image.
    """
    document: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if asked.id is not None:
        document["id"] = asked.id
    outputs = document["outputs"] = []
    raw: list[bytes] = []
    for tensor, is_binary in asked.outputs:
        values = tensor.values(answers)
        if is_binary:
            data = _to_binary(values)
            raw.append(data)
            outputs.append(_describe_binary(tensor, len(answers), len(data)))
        else:
            data_or_texts = values if isinstance(values, list) else values.ravel()
            outputs.append({**tensor.metadata(len(answers)), "data": data_or_texts})
    header = encode_json(document)
    if not raw:
        return header, None
    return b"".join([header, *raw]), len(header)


@lru_cache(maxsize=256)
def _describe_binary(tensor: "Tensor", images: int, size: int) -> orjson.Fragment:
    """An output whose data follows the JSON; as JSON, since most responses say the same."""
    described = {**tensor.metadata(images), "parameters": {"binary_data_size": size}}
    return orjson.Fragment(encode_json(described))


def _to_binary(values: NDArray[Any] | list[str]) -> bytes:
    """Little-endian values, row by row; strings each behind their length."""
    if not isinstance(values, list):
        return values.tobytes()
    encoded = [value.encode() for value in values]
    return b"".join([len(each).to_bytes(4, "little") + each for each in encoded])
