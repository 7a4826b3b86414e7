"""Values and names of parameters: what is refused, and what the answer points at."""

from typing import Any

import httpx
import pytest

from app.errors import ErrorCode
from app.inference.parameters import parse_parameters
from app.schemas import McParameters, PredictParameters
from app.settings import Settings
from tests.api_errors import raises_error
from tests.app.api.bad_requests import (
    DIGIT,
    IMAGE,
    SECRET,
    Bad,
    assert_refused,
    json_parameter,
    parameter,
)
from tests.app.api.request_bodies import FORM, JSON, form, part
from tests.conftest import assert_error, sample

PARAMETERS: dict[str, Bad] = {
    **parameter("0", "passes", names="1 to 1000"),
    **parameter("-1", "passes"),
    **parameter("1001", "passes", names="1 to 1000"),
    **parameter("1000000000", "passes", names="1 to 1000"),
    **parameter("9" * 5000, "passes"),
    **parameter("many", "passes"),
    **parameter("1.5", "passes"),
    **parameter("50.0", "passes"),
    **parameter("5e1", "passes"),
    **parameter("1e999", "passes"),
    **parameter("NaN", "passes"),
    **parameter("true", "passes"),
    **parameter("", "passes"),
    **parameter("0x10", "passes"),
    **parameter("1_0", "passes"),
    **parameter(str(2**53), "seed", names="2^53 - 1"),
    **parameter("-1", "seed"),
    **parameter("0.5", "seed"),
    **parameter("false", "seed"),
    **parameter(SECRET, "seed"),
    **parameter(SECRET, "preprocess", names="auto or none"),
    **parameter("AUTO", "preprocess"),
    **parameter("even", "estimator", names="independent or balanced"),
    **parameter("0.91", "dropout", names="a number from 0 to 0.9"),
    **parameter("1", "dropout"),
    **parameter("-0.1", "dropout"),
    **parameter("NaN", "dropout"),
    **parameter("-1e999", "dropout"),
    **parameter("true", "dropout"),
    **parameter("half", "dropout"),
    **parameter("0", "max_standard_error", names="above 0"),
    **parameter("1e999", "max_standard_error"),
    **parameter("NaN", "max_standard_error"),
    **parameter("2", "return_passes", names="true or false"),
    **parameter("0", "timeout_ms", names="1 to 30000"),
    **parameter("30001", "timeout_ms", names="1 to 30000"),
    **parameter("maybe", "return_input", names="true or false"),
    **parameter("", "return_input"),
    **parameter("1.0", "return_input"),
    **parameter("yes", "seed"),
    **json_parameter("0", "passes", names="1 to 1000"),
    **json_parameter("-1", "passes"),
    **json_parameter("1000000000", "passes"),
    **json_parameter('"many"', "passes"),
    **json_parameter('"50"', "passes"),
    **json_parameter("1.5", "passes"),
    **json_parameter("50.0", "passes"),
    **json_parameter("true", "passes"),
    **json_parameter("null", "passes"),
    **json_parameter("[50]", "passes"),
    **json_parameter("{}", "passes"),
    **json_parameter("1e999", "passes"),
    **json_parameter('"0.5"', "passes"),
    **json_parameter('"0.5"', "dropout", names="a number from 0 to 0.9"),
    **json_parameter("1e999", "dropout"),
    **json_parameter("[0.5]", "dropout"),
    **json_parameter(str(2**53), "seed"),
    **json_parameter(str(10**30), "seed"),
    **json_parameter("-1", "seed"),
    **json_parameter('"1"', "seed"),
    **json_parameter("1e999", "seed"),
    **json_parameter(f'"{SECRET}"', "preprocess"),
    **json_parameter("1", "return_input"),
    **json_parameter('"true"', "return_input"),
    "deep nesting as a value": Bad(
        422,
        "invalid_parameter",
        f'{{"image": "{IMAGE}", "seed": {"[" * 300 + "]" * 300}}}',
        JSON,
        param="seed",
    ),
}
NAMES: dict[str, Bad] = {
    "pases": Bad(422, "unknown_parameter", query="pases=5", names="passes", param="passes"),
    "Seed": Bad(422, "unknown_parameter", query="Seed=5", names="seed", param="seed"),
    "RETURN_INPUT": Bad(422, "unknown_parameter", query="RETURN_INPUT=1", names="return_input"),
    "preproces": Bad(422, "unknown_parameter", query="preproces=none", names="preprocess"),
    "a secret": Bad(422, "unknown_parameter", query=f"{SECRET}={SECRET}", names="known"),
    "no name": Bad(422, "unknown_parameter", query="=5"),
    "a NUL": Bad(422, "unknown_parameter", query="%00=5"),
    "no UTF-8": Bad(422, "unknown_parameter", query="%ff=5"),
    "no value": Bad(422, "invalid_parameter", query="passes", param="passes"),
    "200 names": Bad(
        422, "unknown_parameter", query="&".join(f"{SECRET}{number}=1" for number in range(200))
    ),
    "a field of a form": Bad(
        422,
        "unknown_parameter",
        form(part("file", DIGIT, "7.png"), part("sed", SECRET.encode())),
        FORM,
        names="seed",
        param="seed",
    ),
    "passes without dropout": Bad(
        422, "unknown_parameter", query="passes=5", path="/predict", names="/predict/mc"
    ),
    "seed without dropout": Bad(
        422, "unknown_parameter", query="seed=5", path="/predict", names="/predict/mc", param="seed"
    ),
    "pases without dropout": Bad(
        422, "unknown_parameter", query="pases=5", path="/predict", names="passes, of /predict/mc"
    ),
    "preproces without dropout": Bad(
        422, "unknown_parameter", query="preproces=none", path="/predict", names="is preprocess"
    ),
    "a dropout rate without dropout": Bad(
        422,
        "unknown_parameter",
        query="dropout=0.5",
        path="/predict",
        names="dropout is a parameter of /predict/mc",
        param="dropout",
    ),
    "seed in JSON without dropout": Bad(
        422,
        "unknown_parameter",
        f'{{"image": "{IMAGE}", "seed": 5}}',
        JSON,
        path="/predict",
        names="/predict/mc",
    ),
    "twice in the query": Bad(
        400, "conflicting_parameters", query="seed=1&seed=2", names="seed", param="seed"
    ),
    "1 and 1.0 in the query": Bad(400, "conflicting_parameters", query="seed=1&seed=1.0"),
    "1 and true in the query": Bad(400, "conflicting_parameters", query="seed=1&seed=true"),
    "in the query and in JSON": Bad(
        400,
        "conflicting_parameters",
        f'{{"image": "{IMAGE}", "passes": 5}}',
        JSON,
        query="passes=6",
        names="passes",
        param="passes",
    ),
    "in the query and in a form": Bad(
        400,
        "conflicting_parameters",
        form(part("file", DIGIT, "7.png"), part("preprocess", b"auto")),
        FORM,
        query="preprocess=none",
    ),
    "twice in a form": Bad(
        400,
        "conflicting_parameters",
        form(part("seed", b"1"), part("file", DIGIT, "7.png"), part("seed", b"2")),
        FORM,
    ),
}


TABLE: dict[str, Bad] = {
    f"{group}: {name}": bad
    for group, cases in {
        "parameter": PARAMETERS,
        "name": NAMES,
    }.items()
    for name, bad in cases.items()
}


@pytest.mark.parametrize("case", TABLE)
async def test_bad_input_gets_its_status_and_code_and_the_server_keeps_serving(
    client: httpx.AsyncClient, case: str
) -> None:
    await assert_refused(client, TABLE[case])


@pytest.mark.parametrize(
    ("query", "content", "content_type"),
    [
        ("seed=9&seed=9", DIGIT, None),
        ("seed=9", f'{{"image": "{IMAGE}", "seed": 9}}', JSON),
        ("seed=9", form(part("seed", b"9"), part("file", DIGIT, "a.png")), FORM),
        ("seed=9&", DIGIT, None),
        ("%73eed=%39", DIGIT, None),
        ("&".join(["seed=9"] * 200), DIGIT, None),
    ],
)
async def test_the_same_value_twice_is_no_conflict(
    client: httpx.AsyncClient, query: str, content: bytes | str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}

    response = await client.post(f"/predict/mc?{query}", content=content, headers=headers)

    assert response.status_code == 200, response.text
    assert response.json()["seed"] == 9


SPELLINGS = {
    **dict.fromkeys(("true", "True", "TRUE", "1", "yes", "on", "On"), True),
    **dict.fromkeys(("false", "False", "0", "no", "off"), False),
}


@pytest.mark.parametrize("text", SPELLINGS)
async def test_true_and_false_have_several_spellings_in_queries_and_forms(
    client: httpx.AsyncClient, text: str
) -> None:
    query = await client.post(f"/predict?return_input={text}", content=DIGIT)
    fields = form(part("file", DIGIT, "7.png"), part("return_input", text.encode()))
    field = await client.post("/predict", content=fields, headers={"content-type": FORM})

    assert ("input" in query.json()) is SPELLINGS[text]
    assert field.content == query.content


async def test_a_blank_value_is_none(client: httpx.AsyncClient) -> None:
    nothing = "seed=&coverage=&timeout_ms=&dropout=&max_standard_error="
    first = await client.post(f"/predict/mc?{nothing}", content=DIGIT)
    again = await client.post(f"/predict/mc?{nothing}", content=DIGIT)

    assert first.status_code == 200, first.text
    assert first.json()["seed"] != again.json()["seed"]


@pytest.mark.parametrize("path", ["/predict", "/predict/mc", "/predict/mc/stream"])
async def test_a_deadline_beyond_the_servers_is_refused(
    client: httpx.AsyncClient, path: str
) -> None:
    most = Settings().max_timeout_ms
    within = await client.post(f"{path}?timeout_ms={most}", content=sample("7.png"))
    beyond = await client.post(f"{path}?timeout_ms={most + 1}", content=sample("7.png"))

    assert within.status_code == 200
    error = assert_error(beyond, 422, "invalid_parameter")
    assert error["param"] == "timeout_ms"
    assert str(most) in error["message"]


# The function alone


def mc(*pairs: tuple[str, Any]) -> McParameters:
    return parse_parameters(pairs, McParameters, Settings())


def test_without_pairs_all_is_as_declared() -> None:
    assert mc() == McParameters()
    assert parse_parameters((), PredictParameters, Settings()) == PredictParameters()


@pytest.mark.parametrize("other", [2, 1.0, True, "1", None])
def test_a_name_with_two_values_is_a_conflict_also_where_python_calls_them_equal(
    other: Any,
) -> None:
    assert mc(("seed", 1), ("seed", 1)).seed == 1
    with raises_error(ErrorCode.CONFLICTING_PARAMETERS) as caught:
        mc(("seed", 1), ("seed", other))
    assert caught.value.param == "seed"


@pytest.mark.parametrize(
    ("name", "parameters", "nearest", "message"),
    [
        ("pases", McParameters, "passes", "the nearest known one is passes ("),
        ("SEED", McParameters, "seed", "the nearest known one is seed ("),
        ("pases", PredictParameters, "passes", "passes, of /predict/mc"),
        ("passes", PredictParameters, "passes", "passes is a parameter of /predict/mc"),
        ("preproces", PredictParameters, "preprocess", "the nearest known one is preprocess ("),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(
    name: str, parameters: type[PredictParameters], nearest: str, message: str
) -> None:
    with raises_error(ErrorCode.UNKNOWN_PARAMETER) as caught:
        parse_parameters([(name, 1)], parameters, Settings())

    assert caught.value.param == nearest
    assert message in caught.value.message
    assert f"(known here: {', '.join(parameters.model_fields)})" in caught.value.message


def test_limits_are_those_of_the_settings() -> None:
    settings = Settings(max_passes=7, max_timeout_ms=100)
    within = [("passes", 7), ("timeout_ms", 100)]
    assert parse_parameters(within, McParameters, settings).passes == 7

    for name, value, words in (("passes", 8, "1 to 7"), ("timeout_ms", 101, "1 to 100")):
        with raises_error(ErrorCode.INVALID_PARAMETER, match=words) as caught:
            parse_parameters([(name, value)], McParameters, settings)
        assert caught.value.param == name


def test_defaults_are_held_to_the_limits_too() -> None:
    with raises_error(ErrorCode.INVALID_PARAMETER, match="1 to 10"):
        parse_parameters((), McParameters, Settings(max_passes=10))


def test_balanced_masks_and_a_target_exclude_each_other() -> None:
    with raises_error(ErrorCode.INVALID_PARAMETER, match="leave out one") as caught:
        mc(("estimator", "balanced"), ("max_standard_error", 0.1))
    assert caught.value.param == "max_standard_error"


@pytest.mark.parametrize("rate", [0, 0.3, 0.9])
@pytest.mark.parametrize(
    ("name", "value"), [("coverage", 0.99), ("target_error", 0.01), ("until", "decision")]
)
def test_what_was_calibrated_and_another_rate_exclude_each_other(
    rate: float, name: str, value: Any
) -> None:
    with raises_error(ErrorCode.INVALID_PARAMETER) as caught:
        mc(("dropout", rate), (name, value))
    assert caught.value.param == name
    assert caught.value.message == (
        f"{name} works with the checkpoint's own dropout rate only, with which it was calibrated; "
        f"leave out {name} or dropout"
    )


@pytest.mark.parametrize(
    "other", [("estimator", "balanced"), ("max_standard_error", 0.1)], ids=lambda pair: pair[0]
)
def test_a_decision_that_settles_excludes_what_else_depends_on_the_passes(
    other: tuple[str, Any],
) -> None:
    with raises_error(ErrorCode.INVALID_PARAMETER, match="leave it out") as caught:
        mc(("until", "decision"), other)
    assert caught.value.param == "until"
