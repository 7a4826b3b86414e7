"""How an option is declared, with its default, help text and range, and how these are checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal

from training.errors import TrainingError


def about(
    help: str,
    least: float | None = None,
    most: float | None = None,
    *,
    choices: Sequence[str] | None = None,
    kind: Any = None,
    metavar: str | None = None,
    recorded: Literal["always", "if on"] = "always",
    is_positional: bool = False,
    group: str | None = None,
) -> dict[str, Any]:
    """The metadata of a setting's field, for the command line and for checks.

    Args:
        help: shown by `--help`.
        least: the smallest value allowed.
        most: the largest value allowed.
        choices: the values allowed, of a string.
        kind: converts the text of the command line; None: the type of the default, or a path.
        metavar: the value's name in `--help`; None: the option's own.
        recorded: whether a recipe holds the setting while it has its default. A setting that is
            recorded "if on" leaves the recipes, and so the bytes, of earlier runs as they were.
        is_positional: whether the command line takes it without its name.
        group: title of the group in `--help` that begins with this setting.
    """
    allowed = {"least": least, "most": most, "choices": choices, "recorded": recorded}
    return {
        **allowed,
        "help": help,
        "kind": kind,
        "metavar": metavar,
        "is_positional": is_positional,
        "group": group,
    }


def setting(default: Any, *arguments: Any, **options: Any) -> Any:
    """A field with its default; see `about`."""
    return field(default=default, metadata=about(*arguments, **options))


option = partial(setting, recorded="if on")


def flag_of(name: str) -> str:
    """The command-line option of a field."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Checked:
    """Settings whose values are held against their ranges and choices.

    Raises:
        TrainingError: a value is out of its range, or is none of the choices.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            found, allowed = getattr(self, each.name), each.metadata
            if allowed["choices"] and found not in allowed["choices"]:
                raise TrainingError(
                    f"{flag_of(each.name)} must be one of {', '.join(allowed['choices'])}"
                )
            least, most = allowed["least"], allowed["most"]
            for value in found if isinstance(found, tuple) else (found,):
                if least is not None and not least <= value <= most:
                    raise TrainingError(
                        f"{flag_of(each.name)} must be from {least} to {most}, not {value}"
                    )
