"""Options that several commands have."""

import argparse
from collections.abc import Collection
from types import NoneType
from typing import Any, Literal, TypeAlias, get_args, get_origin

from app.schemas import McParameters
from app.settings import PREFIX, Settings

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


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


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option that chooses one of several models."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="which of several models; without it the default [DROPSERVE_DEFAULT_MODEL]",
    )


def add_setting_options(
    parser: argparse.ArgumentParser, only: Collection[str] = tuple(Settings.model_fields)
) -> None:
    """Adds an option for each setting, as `Settings` declares them."""
    for name in only:
        field = Settings.model_fields[name]
        default = f"; default {field.default}" if field.default not in (None, ()) else ""
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            action="append" if get_origin(field.annotation) is tuple else "store",
            metavar="VALUE",
            help=f"{field.description}{default} [{PREFIX}{name.upper()}]",
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
