"""Named values of a query, a form, JSON or V2 -> validated parameters."""

import difflib
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from app.errors import ErrorCode
from app.schemas import McParameters, MustBe, PredictParameters
from app.settings import Settings

P = TypeVar("P", bound=PredictParameters)

# Of a name that is unknown, only the beginning is compared: megabytes would take seconds.
_LONGEST_NAME = 64


def parse_parameters(
    pairs: Sequence[tuple[str, Any]], parameters_type: type[P], settings: Settings
) -> P:
    """Validates parameters.

    Args:
        pairs: names with values of JSON's types.
        parameters_type: of the route.
        settings: the limits.

    Raises:
        ApiError: conflicting_parameters, a name has two different values;
            unknown_parameter, a name is not one of this route's;
            invalid_parameter, a value has another type or is outside its range.
    """
    parameters = _validated(pairs, parameters_type, settings) if pairs else parameters_type()
    if (parameters.timeout_ms or 0) > settings.max_timeout_ms:
        _raise_invalid("timeout_ms", parameters_type, settings)
    if isinstance(parameters, McParameters):
        if parameters.passes > settings.max_passes:
            _raise_invalid("passes", parameters_type, settings)
        if parameters.max_standard_error is not None and parameters.estimator == "balanced":
            raise ErrorCode.INVALID_PARAMETER(
                "max_standard_error works with estimator=independent only, since balanced masks "
                "depend on the number of passes; leave out one of the two",
                param="max_standard_error",
            )
        if parameters.until is not None and (
            parameters.estimator == "balanced" or parameters.max_standard_error is not None
        ):
            raise ErrorCode.INVALID_PARAMETER(
                "until works with estimator=independent and without max_standard_error; leave it "
                "out, or the other",
                param="until",
            )
        if parameters.dropout is not None:
            for name in ("coverage", "target_error", "until"):
                if getattr(parameters, name) is not None:
                    raise ErrorCode.INVALID_PARAMETER(
                        f"{name} works with the checkpoint's own dropout rate only, with which it "
                        f"was calibrated; leave out {name} or dropout",
                        param=name,
                    )
    return parameters


def _validated(pairs: Sequence[tuple[str, Any]], parameters_type: type[P], settings: Settings) -> P:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name not in parameters_type.model_fields:
            _raise_unknown(name, parameters_type)
        # 1, 1.0 and true are equal in Python and different values here.
        if name in values and (type(values[name]), values[name]) != (type(value), value):
            raise ErrorCode.CONFLICTING_PARAMETERS(
                f"{name} is given twice with different values; give it once", param=name
            )
        values[name] = value
    try:
        return parameters_type.model_validate(values)
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
        _raise_invalid(name, parameters_type, settings)


def _raise_invalid(
    name: str, parameters_type: type[PredictParameters], settings: Settings
) -> NoReturn:
    metadata = parameters_type.model_fields[name].metadata
    words = next(item.words for item in metadata if isinstance(item, MustBe))
    limits = {"max_passes": settings.max_passes, "max_timeout_ms": settings.max_timeout_ms}
    raise ErrorCode.INVALID_PARAMETER(f"{name} must be {words.format(**limits)}", param=name)


def _raise_unknown(name: str, parameters_type: type[PredictParameters]) -> NoReturn:
    known = list(McParameters.model_fields)
    beginning = name[:_LONGEST_NAME].lower()
    nearest = difflib.get_close_matches(beginning, known, n=1, cutoff=0.0)[0]
    message = f"a parameter is unknown; the nearest known one is {nearest}"
    if name == nearest:
        message = f"{name} is a parameter of /predict/mc; ask there, or leave it out"
    elif nearest not in parameters_type.model_fields:
        message += ", of /predict/mc; ask there, or leave it out"
    here = ", ".join(parameters_type.model_fields)
    raise ErrorCode.UNKNOWN_PARAMETER(f"{message} (known here: {here})", param=nearest)
