"""Options that several commands have."""

import argparse
import os
from collections.abc import Collection
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from app.schemas import McParameters
from app.settings import PREFIX

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_API_KEY_VARIABLE = f"{PREFIX}API_KEY"


def add_parameter_options(
    parser: argparse.ArgumentParser, only: Collection[str] = tuple(McParameters.model_fields)
) -> None:
    """Adds an option for each parameter of a prediction, as `McParameters` declares them.

    Args:
        parser: of the command.
        only: names of the parameters that the command takes.
    """
    for name in only:
        field = McParameters.model_fields[name]
        default = "" if field.default in (None, False) else f" (default: {field.default})"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            help=f"{field.description}{default}".replace("`", "").replace("%", "%%"),
            **_option_of(field.annotation),
        )


def _option_of(annotation: Any) -> dict[str, Any]:
    """What argparse has to know of a type; None stays out of it, as it stands for the default."""
    if NoneType in get_args(annotation):
        (annotation,) = set(get_args(annotation)) - {NoneType}
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    if annotation is bool:
        return {"action": "store_true", "default": None}
    return {"type": annotation, "metavar": "N" if annotation is int else "X"}


def given_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """The parameters whose options were given, by name."""
    values = {name: getattr(options, name, None) for name in McParameters.model_fields}
    return {name: value for name, value in values.items() if value is not None}


def add_api_key_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--api-key`, whose default is the variable."""
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        default=os.environ.get(_API_KEY_VARIABLE) or None,
        help="key for a server that requires one; other users of this machine can see an option, "
        f"but not the variable [{_API_KEY_VARIABLE}]",
    )
