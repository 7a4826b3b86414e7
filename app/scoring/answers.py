"""The server's answer for many images at once, as columns of the table.

Every number is made by the functions of `model` that make the server's, over an axis more, and
rounded to float32 as its answer is: a row equals the answer for the same image and seed.
"""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.schemas import TABLE, McPrediction, index_name
from model.uncertainty.calibration import Calibration, apply_temperature
from model.uncertainty.decisions import decide_images
from model.uncertainty.statistics import Summaries

_WORD = pa.dictionary(pa.int32(), pa.string())
# Arrow's type of a value by the type that the answer's field declares.
_VALUES = {int: pa.int32(), float: pa.float32(), str: _WORD}


@cache
def table_schema(labels: Sequence[str]) -> pa.Schema:
    """The columns of the table, one row an answered image: what `schemas` declares for it.

    A decision is two columns, its outcome and its reason. `row` is the number in the input.
    """
    types = get_type_hints(McPrediction)
    fields = [("row", pa.int64()), ("source", pa.string())]
    for each in dataclasses.fields(McPrediction):
        if TABLE in each.metadata["places"] and each.name == "decision":
            fields += [("decision", _WORD), ("reason", _WORD)]
        elif TABLE in each.metadata["places"]:
            name = index_name(labels) if each.name == "digit" else each.name
            kind = pa.int64() if name == "seed" else _VALUES[_value_of(types[each.name])]
            fields.append((name, pa.list_(kind, len(labels)) if each.metadata["axes"] else kind))
    return pa.schema(fields)


def _value_of(declared: Any) -> Any:
    """`float` of `list[float] | None`."""
    arguments = get_args(declared)
    return _value_of(arguments[0]) if arguments else declared


def answer_columns(
    summaries: Summaries,
    several_digits: NDArray[np.bool_],
    calibration: Calibration,
    labels: Sequence[str],
) -> dict[str, pa.Array]:
    """The columns that follow from the passes of images, some of which hold several digits."""
    probabilities = apply_temperature(summaries.mean, calibration.temperature)
    digits = probabilities.argmax(axis=-1)
    outcomes, reasons = decide_images(summaries, calibration, several_digits)
    columns = {
        **summaries._asdict(),
        index_name(labels): digits,
        "label": [labels[digit] for digit in digits.tolist()],
        "confidence": probabilities.max(axis=-1),
        "probabilities": probabilities,
        "decision": outcomes,
        "reason": reasons,
    }
    schema = table_schema(labels)
    if summaries.variance is None:
        columns["variance"] = [None] * len(digits)
    return {name: _column(values, schema.field(name).type) for name, values in columns.items()}


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(values.reshape(-1), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.array(values, kind)
