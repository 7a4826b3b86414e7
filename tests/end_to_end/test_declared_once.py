"""An answer's field and a parameter are declared once; everything else follows from that.

A copy of the server gets one of each, in the declaration and in the code that computes the field,
and is asked where they appear.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, SAMPLES

SCHEMAS = "app/schemas.py"
ANSWERS = "app/inference/answers.py"
FIELD = """    margin: float = describe("Lead of the largest probability.", not_in=[TABLE])
"""
PARAMETER = """    margin_digits: Annotated[int, MustBe("a whole number from 1 to 7")] = Field(
        default=7, ge=1, le=7, description="Decimal places of `margin`."
    )
"""
VALUE = """            "margin": round(
                confidence - sorted(probabilities)[-2], parameters.margin_digits
            ),
"""
# What is added before which line.
ADDITIONS = {
    SCHEMAS: {
        "    decision: Decision | None = describe(": FIELD,
        "    return_input: Annotated[bool,": PARAMETER,
    },
    ANSWERS: {'            "decision": decision,': VALUE},
}

SCRIPT = """
import asyncio, contextlib, io, json, sys
import httpx
from app.api.application import create_app
from app.__main__ import main
from app.client import AsyncDropserveClient
from app.settings import Settings

picture = sys.argv[1]

async def ask():
    app = create_app(Settings())
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(
        transport=transport, base_url="http://dropserve"
    ) as http, AsyncDropserveClient("http://dropserve", transport=transport) as client:
        content = open(picture, "rb").read()
        found = {
            "json": (await http.post("/predict?margin_digits=3", content=content)).json(),
            "mc": (await http.post("/predict/mc?margin_digits=3", content=content)).json(),
            "refused": (await http.post("/predict?margin_digits=8", content=content)).json(),
            "misspelt": (await http.post("/predict?margin_digit=3", content=content)).json(),
            "client": (await client.predict(picture, margin_digits=3)).margin,
            "metadata": (await http.get("/v2/models/mnist")).json(),
            "openapi": (await http.get("/openapi.json")).json(),
        }
        request = {
            "inputs": [
                {"name": "pixels", "shape": [1, 784], "datatype": "UINT8", "data": [0, 255] * 392}
            ],
            "parameters": {"margin_digits": 3},
            "outputs": [{"name": "margin"}],
        }
        found["v2"] = (await http.post("/v2/models/mnist/infer", json=request)).json()
        return found

def run(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(arguments)
    return printed.getvalue()

found = asyncio.run(ask())
found["csv"] = run("predict", picture, "--csv", "--margin-digits", "3")
found["help"] = run("predict", "--help")
print(json.dumps(found))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the changed copy says, by where it says it."""
    folder = tmp_path_factory.mktemp("changed")
    for package in ("app", "model"):
        shutil.copytree(ROOT / package, folder / package)
    for name, additions in ADDITIONS.items():
        text = Path(folder, name).read_text()
        for line, addition in additions.items():
            assert text.count(line) == 1, line
            text = text.replace(line, addition + line)
        Path(folder, name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(SAMPLES / "7.png")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_a_declared_field_is_in_the_json_answer(found: dict[str, Any]) -> None:
    for route in ("json", "mc"):
        first, second = sorted(found[route]["probabilities"])[-1:-3:-1]
        assert found[route]["margin"] == pytest.approx(first - second, abs=5e-4)
        assert list(found[route]).index("margin") == list(found[route]).index("decision") - 1


def test_a_declared_field_is_in_the_clients_result(found: dict[str, Any]) -> None:
    assert found["client"] == found["json"]["margin"]


def test_a_declared_field_is_a_tensor_of_v2(found: dict[str, Any]) -> None:
    outputs = {output["name"]: output for output in found["metadata"]["outputs"]}
    assert outputs["margin"] == {"name": "margin", "datatype": "FP32", "shape": [-1]}
    (output,) = found["v2"]["outputs"]
    assert output["name"] == "margin"
    assert output["data"][0] == pytest.approx(round(output["data"][0], 3))


def test_a_declared_field_is_a_column_of_the_csv(found: dict[str, Any]) -> None:
    header, row = (line.split(",") for line in found["csv"].splitlines())
    assert 0 < float(row[header.index("margin")]) <= 1


def test_a_declared_field_and_parameter_are_described(found: dict[str, Any]) -> None:
    schemas = found["openapi"]["components"]["schemas"]
    assert schemas["Prediction"]["properties"]["margin"]["type"] == "number"
    assert "margin" in schemas["McPrediction"]["required"]
    for path in ("/predict", "/predict/mc", "/predict/mc/batch"):
        operation = found["openapi"]["paths"][path]["post"]
        parameters = {each["name"]: each for each in operation["parameters"]}
        assert parameters["margin_digits"]["schema"]["maximum"] == 7


def test_a_declared_parameter_is_validated_and_named(found: dict[str, Any]) -> None:
    assert found["refused"]["error"]["message"] == (
        "margin_digits must be a whole number from 1 to 7"
    )
    assert found["misspelt"]["error"]["param"] == "margin_digits"


def test_a_declared_parameter_is_an_option(found: dict[str, Any]) -> None:
    assert "--margin-digits" in found["help"]
    assert "Decimal places of" in found["help"]
