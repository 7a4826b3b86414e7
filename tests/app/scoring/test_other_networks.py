"""Inputs of networks that take no pictures of digits: what is scored, and what is listed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.checkpoint import AnyCheckpoint, save_checkpoint
from model.engines import build_engine
from model.engines.protocol import sample_probs
from model.layered import InputSpec
from model.layers import DropoutLayer, FlattenLayer, LinearLayer
from model.sampling.masks import Passes
from tests.app.scoring.inputs import PIXELS, png, write_folder, write_idx
from tests.app.scoring.runs import failures, rows, score
from tests.model.layered_networks import draw_network, tabular

ROWS: Any = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)


@pytest.fixture
def options(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "network.safetensors"
    save_checkpoint(path, AnyCheckpoint(tabular(), training={"name": "tabular"}))
    return "--checkpoint", str(path), "--seed", "5"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "table.parquet"


def test_rows_of_numbers_are_scored_in_every_form(
    tmp_path: Path, options: tuple[str, ...], output: Path
) -> None:
    files = [tmp_path / name for name in ("a.npy", "b.npz", "c.npy", "d.parquet")]
    np.save(files[0], ROWS)
    np.savez(files[1], labels=np.arange(6), inputs=ROWS.astype(np.float64))
    np.save(files[2], ROWS.astype(">f4"))
    table = pa.table({"label": ["a"] * 6, "values": pa.array(ROWS.astype(np.float64).tolist())})
    pq.write_table(table, files[3])

    assert score(*files, *options, output=output) == 0

    found, engine = rows(output), build_engine(tabular())
    assert [row["row"] for row in found] == list(range(24))
    for row, values in zip(found, [*ROWS] * 4, strict=True):
        mean = sample_probs(engine, values, Passes(50, 5)).astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(row["mean"], mean, atol=1e-6)
        index = int(mean.argmax())
        assert (row["class_index"], row["label"]) == (index, f"class {index}")
        assert row["decision"] is None  # there is no threshold
        assert "digit" not in row


@pytest.mark.parametrize(
    ("array", "number", "code", "message"),
    [
        (ROWS[:, :11], 6, "invalid_pixels", "input must be 12 finite numbers"),
        (ROWS[:0], 1, "unreadable_file", "there is no image, or no file has such a name"),
        (np.array([["1"] * 12]), 1, "corrupt_file", "numbers in C order"),
        (np.asfortranarray(ROWS), 1, "corrupt_file", "numbers in C order"),
    ],
)
def test_an_array_of_another_form_is_listed(
    tmp_path: Path,
    options: tuple[str, ...],
    output: Path,
    array: Any,
    number: int,
    code: str,
    message: str,
) -> None:
    np.save(tmp_path / "rows.npy", array)

    assert score(tmp_path / "rows.npy", *options, output=output) == 1

    listed = failures(output)
    assert [each["code"] for each in listed] == [code] * number
    assert all(message in each["message"] for each in listed)


def test_one_bad_row_costs_no_other(tmp_path: Path, options: tuple[str, ...], output: Path) -> None:
    changed = ROWS.copy()
    changed[2, 3] = np.nan
    np.save(tmp_path / "rows.npy", changed)
    lists = [row.tolist() for row in ROWS]
    lists[1][0], lists[4] = None, lists[4][:5]
    pq.write_table(pa.table({"x": pa.array([*lists, None])}), tmp_path / "rows.parquet")
    (tmp_path / "picture.png").write_bytes(png(np.zeros((4, 4), np.uint8)))

    files = [tmp_path / name for name in ("rows.npy", "rows.parquet", "picture.png")]
    assert score(*files, *options, output=output) == 1

    listed = {each["row"]: (each["code"], each["message"]) for each in failures(output)}
    wrong = ("invalid_pixels", "input must be 12 finite numbers")
    assert listed.pop(12)[0] == "missing_image"
    assert listed.pop(13)[0] == "unsupported_media_type"
    missing = ("invalid_pixels", "a number of it is missing, or its rows differ in length")
    assert listed == {2: wrong, 7: missing, 10: wrong}
    assert [row["row"] for row in rows(output)] == [0, 1, 3, 4, 5, 6, 8, 9, 11]


@pytest.mark.parametrize("form", ["array", "picture"])
def test_another_network_of_digits_gets_them_prepared(
    tmp_path: Path, output: Path, form: str
) -> None:
    pytest.importorskip("torch")
    spec = InputSpec((1, 28, 28), "uint8", 1 / 255, preparation="digit")
    layers = FlattenLayer(), LinearLayer(16), DropoutLayer(0.5), LinearLayer(10)
    network = draw_network(spec, *layers, classes=10)
    path, source = tmp_path / "network.safetensors", tmp_path / "folder"
    save_checkpoint(path, AnyCheckpoint(network))
    write_folder(source, 3)
    if form == "array":
        source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS[:3])

    assert score(source, "--checkpoint", path, "--seed", "5", output=output) == 0

    for row, pixels in zip(rows(output), PIXELS, strict=False):
        probs = sample_probs(build_engine(network), pixels, Passes(50, 5))
        mean = probs.astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(row["mean"], mean, atol=1e-6)


def test_pixels_are_whole_numbers_and_pictures_are_scaled(tmp_path: Path, output: Path) -> None:
    pytest.importorskip("torch")
    spec = InputSpec((4, 6, 3), "uint8", 1 / 255, channels="last")
    layers = FlattenLayer(), LinearLayer(5), DropoutLayer(0.5), LinearLayer(2)
    path = tmp_path / "network.safetensors"
    save_checkpoint(path, AnyCheckpoint(draw_network(spec, *layers, classes=2)))
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[:4, :, 0], picture[4:, :, 2] = 255, 128
    small = picture[::2, ::2]
    np.save(tmp_path / "a.npy", np.stack([small, small // 2]).astype(np.int64))
    np.save(tmp_path / "b.npy", small[None].reshape(1, -1) / 255)
    (tmp_path / "c.png").write_bytes(png(picture))

    files = [tmp_path / name for name in ("a.npy", "b.npy", "c.png")]
    assert score(*files, "--checkpoint", path, "--seed", "1", output=output) == 1

    (failure,) = failures(output)
    assert failure["row"] == 2
    assert "whole numbers from 0 to 255" in failure["message"]
    exact, darker, scaled = (row["mean"] for row in rows(output))
    assert exact == scaled != darker
