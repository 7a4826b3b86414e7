"""The numbers of a row are those of the server's answer."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from app.scoring.answers import answer_columns, table_schema
from model.checkpoint import Checkpoint
from model.uncertainty.calibration import read_calibration
from model.uncertainty.statistics import summarise_images
from tests.app.scoring.inputs import PIXELS, write_folder, write_idx
from tests.app.scoring.runs import rows, score
from tests.conftest import SAMPLES

NUMBERS = (
    "confidence",
    "probabilities",
    "mean",
    "variance",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
)


async def test_a_row_has_the_numbers_of_the_servers_answer(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    pictures = [SAMPLES / name for name in ("7.png", "doubtful.png", "not_a_digit.png")]
    folder = write_folder(tmp_path / "folder", 10)
    output = tmp_path / "table.parquet"

    assert score(*pictures, folder, "--seed", "5", output=output) == 0

    found = rows(output)
    names = [*map(str, pictures), *map(str, sorted(folder.iterdir()))]
    assert [row["source"] for row in found] == names
    assert [row["row"] for row in found] == list(range(13))
    contents = [path.read_bytes() for path in map(Path, names)]
    for row, content in zip(found, contents, strict=True):
        answer = (await client.post("/predict/mc?seed=5", content=content)).json()
        assert_equal_answers(row, answer)
        assert row["decision"] == answer["decision"]["outcome"]
        assert row["reason"] == answer["decision"]["reason"]
    assert {row["reason"] for row in found} >= {None, "ambiguous", "unfamiliar"}


def assert_equal_answers(row: dict[str, Any], answer: dict[str, Any]) -> None:
    for name in ("digit", "label", "votes", "seed"):
        assert row[name] == answer[name], name
    for name in NUMBERS:
        # The answer has the shortest decimals that stand for the same float32.
        found, promised = (np.array(each[name], np.float32) for each in (row, answer))
        assert np.array_equal(found, promised, equal_nan=True), name


@pytest.mark.parametrize("passes", [1, 7])
async def test_pixels_are_answered_as_those_of_a_request(
    client: httpx.AsyncClient, tmp_path: Path, passes: int
) -> None:
    source = write_idx(tmp_path / "some-idx3-ubyte.gz", PIXELS[:3])
    output = tmp_path / "table.parquet"

    assert score(source, "--seed", "2", "--passes", passes, output=output) == 0

    for row, pixels in zip(rows(output), PIXELS, strict=False):
        asked = {"pixels": pixels.tolist(), "seed": 2, "passes": passes}
        answer = (await client.post("/predict/mc", json=asked)).json()
        assert_equal_answers(row, answer)


# The columns alone


def test_the_columns_are_those_that_the_answer_declares_for_a_table() -> None:
    schema = table_schema("0123456789")

    assert schema.names[:2] == ["row", "source"]
    assert {"decision", "reason", "seed"} <= set(schema.names)
    assert not {"input", "model", "pass_probabilities", "dropped"} & set(schema.names)
    assert schema.field("mean").type == pa.list_(pa.float32(), 10)
    assert schema.field("seed").type == pa.int64()


@pytest.mark.parametrize("passes", [1, 5])
def test_columns_have_a_row_for_each_image_in_order(
    passes: int, default_checkpoint: Checkpoint
) -> None:
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.ones(10), (6, passes)).astype(np.float32)
    calibration = read_calibration(default_checkpoint.calibration, "mc", passes)
    labels = tuple("abcdefghij")
    several = np.array([False] * 5 + [True])

    def columns_of(rows: slice) -> dict[str, pa.Array]:
        return answer_columns(summarise_images(probs[rows]), several[rows], calibration, labels)

    columns = columns_of(slice(None))

    for row in range(6):
        for name, column in columns_of(slice(row, row + 1)).items():
            assert column[0].as_py() == columns[name][row].as_py()
    assert columns["variance"].null_count == (6 if passes == 1 else 0)
    assert columns["reason"].to_pylist()[-1] == "several_digits"
    assert columns["label"].to_pylist() == [labels[n] for n in columns["class_index"].to_pylist()]
