"""Options that follow from the parameters' declaration."""

import argparse

import pytest

from app.cli.options import add_parameter_options, given_parameters
from app.schemas import McParameters

ARGUMENTS = {
    "preprocess": ["none"],
    "return_input": [],
    "return_steps": [],
    "coverage": ["0.99"],
    "target_error": ["0.005"],
    "timeout_ms": ["500"],
    "passes": ["7"],
    "seed": ["0"],
    "estimator": ["balanced"],
    "dropout": ["0.25"],
    "max_standard_error": ["0.5"],
    "until": ["decision"],
    "return_passes": [],
}


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_parameter_options(parser)
    return parser


@pytest.mark.parametrize("name", McParameters.model_fields)
def test_every_parameter_is_an_option_of_its_type(
    parser: argparse.ArgumentParser, name: str
) -> None:
    options = parser.parse_args([f"--{name.replace('_', '-')}", *ARGUMENTS[name]])

    given = given_parameters(options)

    assert given.keys() == {name}
    assert McParameters.model_validate(given, strict=True).model_dump()[name] == given[name]


def test_without_options_the_server_decides(parser: argparse.ArgumentParser) -> None:
    assert given_parameters(parser.parse_args([])) == {}


def test_help_describes_every_parameter(parser: argparse.ArgumentParser) -> None:
    text = " ".join(parser.format_help().split())

    for field in McParameters.model_fields.values():
        assert field.description is not None
        assert " ".join(field.description.replace("`", "").split())[:40] in text
    assert "(default: 50)" in text


def test_a_command_may_take_some_of_the_parameters() -> None:
    parser = argparse.ArgumentParser()
    add_parameter_options(parser, ("seed",))

    assert vars(parser.parse_args(["--seed", "3"])) == {"seed": 3}
