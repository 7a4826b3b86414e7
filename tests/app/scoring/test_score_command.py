"""`dropserve score`: the table, what is listed beside it, and how a run ends and goes on."""

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.cli.main import main
from app.scoring import parts, sources
from model.files import write_atomically
from tests.app.scoring.inputs import (
    PIXELS,
    encoded,
    png,
    write_folder,
    write_idx,
    write_npz,
    write_parquet,
    write_tar,
    write_zip,
)
from tests.conftest import OURS, ROOT, SAMPLES

NUMBERS = (
    "confidence",
    "probabilities",
    "mean",
    "variance",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """No settings from outside."""
    for variable in os.environ:
        if variable.startswith("DROPSERVE_"):
            monkeypatch.delenv(variable)


def score(*arguments: object, output: Path) -> int:
    """The exit code; in this process."""
    with pytest.raises(SystemExit) as caught:
        main(["score", *map(str, arguments), "-o", str(output), "--workers", "1"])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def rows(output: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(output).to_pylist()
    return table


def failures(output: Path) -> list[dict[str, Any]]:
    lines = output.with_suffix(".errors.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# The numbers


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


def test_every_kind_of_input_gives_the_same_rows(tmp_path: Path) -> None:
    flat = [list(map(int, each.reshape(-1))) for each in PIXELS[:20]]
    nested = [each.tolist() for each in PIXELS[:20]]
    nested_type = pa.list_(pa.list_(pa.uint8()))
    records = pa.array([{"bytes": png(each), "path": None} for each in PIXELS[:20]])
    np.save(tmp_path / "array.npy", PIXELS[:20])
    inputs = [
        write_folder(tmp_path / "folder", 20),
        write_zip(tmp_path / "a.zip", 20),
        write_tar(tmp_path / "a.tar", 20),
        write_tar(tmp_path / "a.tar.gz", 20),
        write_idx(tmp_path / "plain", PIXELS[:20]),
        write_idx(tmp_path / "packed.gz", PIXELS[:20]),
        tmp_path / "array.npy",
        write_npz(tmp_path / "a.npz", PIXELS[:20].astype(np.int32)),
        write_npz(tmp_path / "flat.npz", PIXELS[:20].reshape(20, 784)),
        write_parquet(tmp_path / "files.parquet", encoded(20)),
        write_parquet(tmp_path / "flat.parquet", pa.array(flat, pa.list_(pa.uint8(), 784))),
        write_parquet(tmp_path / "nested.parquet", pa.array(nested, nested_type), name="digits"),
        write_parquet(tmp_path / "records.parquet", records),
    ]
    output = tmp_path / "table.parquet"

    assert score(*inputs, "--seed", "1", "--passes", "4", output=output) == 0

    found = [{**row, "source": None} for row in rows(output)]
    assert [row["row"] for row in found] == list(range(20 * len(inputs)))
    for number in range(len(inputs)):
        part = found[20 * number : 20 * number + 20]
        assert [{**row, "row": row["row"] - 20 * number} for row in part] == found[:20]


def test_without_a_seed_each_image_draws_its_own(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    assert score(source, "--passes", "2", output=tmp_path / "t.parquet") == 0
    assert len({row["seed"] for row in rows(tmp_path / "t.parquet")}) == len(PIXELS)


# What cannot be scored


def test_damaged_members_fail_and_the_rest_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = write_zip(tmp_path / "a.zip", 6, compression=0)
    content = bytearray(stored.read_bytes())
    content[content.index(png(PIXELS[2])) + 60] ^= 1
    stored.write_bytes(content)
    cut = write_tar(tmp_path / "a.tar", 6)
    whole = cut.read_bytes()
    cut.write_bytes(whole[: whole.index(png(PIXELS[4])) + 20])
    broken = write_tar(tmp_path / "b.tar", 6)
    whole = broken.read_bytes()
    at = whole.index(b"digit03.png")
    broken.write_bytes(whole[:at] + b"\xff" * 512 + whole[at + 512 :])
    output = tmp_path / "table.parquet"

    assert score(stored, cut, broken, "--passes", "2", "--seed", "1", output=output) == 1

    assert [(each["source"], each["code"]) for each in failures(output)] == [
        (f"{stored}:digit02.png", "corrupt_member"),
        (f"{cut}:digit04.png", "corrupt_member"),
        (str(cut), "corrupt_archive"),
        (str(broken), "corrupt_archive"),
    ]
    assert len(rows(output)) == 5 + 4 + 3
    every = [each["row"] for each in [*rows(output), *failures(output)]]
    assert sorted(every) == list(range(16))
    errors = capsys.readouterr().err
    assert "this member of the archive is damaged" in errors
    assert f"4 of 16 images failed; {output.with_suffix('.errors.jsonl')} says" in errors


def test_a_damaged_column_costs_its_row_group(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", encoded(24))
    begin = pq.read_metadata(source).row_group(1).column(1).data_page_offset
    content = bytearray(source.read_bytes())
    content[begin : begin + 16] = b"\xff" * 16
    source.write_bytes(content)
    output = tmp_path / "table.parquet"

    assert score(source, "--passes", "2", output=output) == 1

    assert {each["code"] for each in failures(output)} == {"unreadable_column"}
    assert [each["row"] for each in failures(output)] == list(range(8, 16))
    assert [row["row"] for row in rows(output)] == [*range(8), *range(16, 24)]


def bad_sources(folder: Path) -> dict[str, Path]:
    labels = folder / "labels.npy"
    np.save(labels, np.arange(10))
    (folder / "cut.zip").write_bytes(write_zip(folder / "b.zip", 2).read_bytes()[:-30])
    (folder / "text.png").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "cut.parquet").write_bytes(b"PAR1, and no more")
    numbers = pa.array(range(3))
    return {
        "invalid_pixels labels": labels,
        "invalid_pixels floats": write_npz(folder / "f.npz", PIXELS[:2] / 255),
        "invalid_pixels scaled": write_idx(folder / "s-idx3-ubyte", PIXELS[:1] // 255),
        "invalid_pixels colours": write_npz(folder / "c.npz", np.zeros((2, 28, 28, 3), np.uint8)),
        "invalid_pixels idx": write_idx(folder / "l-idx3-ubyte", PIXELS[0, 0]),
        "corrupt_archive": folder / "cut.zip",
        "corrupt_file": folder / "cut.parquet",
        "unreadable_column": write_parquet(folder / "n.parquet", numbers),
        "not_an_image": folder / "text.png",
        "unreadable_file none": folder / "none.png",
        "unreadable_file empty": folder / "empty",
        "unreadable_file pattern": folder / "*.gif",
        "no_ink": write_idx(folder / "k-idx3-ubyte", np.full((1, 28, 28), 9, np.uint8)),
    }


def test_what_cannot_be_read_is_one_failure_with_its_code(tmp_path: Path) -> None:
    bad = bad_sources(tmp_path)
    output = tmp_path / "table.parquet"

    assert score(*bad.values(), SAMPLES / "7.png", "--passes", "2", output=output) == 1

    expected = {code.partition(" ")[0]: None for code in bad}
    assert {each["code"] for each in failures(output)} == set(expected)
    assert [each["code"] for each in failures(output)] == [code.partition(" ")[0] for code in bad]
    assert all(each["message"] for each in failures(output))
    assert [row["digit"] for row in rows(output)] == [7]


def test_an_idx_file_that_ends_early_loses_what_is_missing(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    source.write_bytes(source.read_bytes()[: 16 + 20 * 784 + 5])
    output = tmp_path / "table.parquet"

    assert score(source, "--passes", "2", output=output) == 1

    assert [row["row"] for row in rows(output)] == list(range(20))
    assert {each["code"] for each in failures(output)} == {"corrupt_file"}


def test_a_named_column_is_taken_and_an_unknown_one_explained(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", encoded(3), name="scan")
    output = tmp_path / "table.parquet"
    assert score(source, "--column", "scan", "--passes", "2", output=output) == 0
    assert score(source, "--column", "x", "--overwrite", "--passes", "2", output=output) == 1
    assert "there is no column x in this file; it has id, scan" in failures(output)[0]["message"]


# How it ends, and goes on


@pytest.mark.parametrize(
    "wrong", [["--passes", "0"], ["--seed", "-1"], ["--checkpoint", "none.safetensors"]]
)
def test_wrong_usage_is_refused(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(SAMPLES / "7.png", *wrong, output=tmp_path / "t.parquet") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_finished_table_is_not_made_again_nor_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "table.parquet"
    assert score(SAMPLES / "7.png", "--passes", "2", output=output) == 0
    before = output.read_bytes()

    assert score(SAMPLES / "7.png", "--passes", "2", output=output) == 0
    assert "is there already" in capsys.readouterr().err
    assert score(SAMPLES / "7.png", "--passes", "3", output=output) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [output]

    assert score(SAMPLES / "7.png", "--passes", "3", "--overwrite", output=output) == 0
    assert output.read_bytes() != before


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", 5)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("writes", [1, 3, 7])
def test_a_run_goes_on_where_it_was_killed(
    small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    plain, output = tmp_path / "plain.parquet", tmp_path / "table.parquet"
    arguments = (source, SAMPLES / "none.png", "--seed", "1", "--passes", "2")
    assert score(*arguments, output=plain) == 1
    written: list[Path] = []

    def write_some(path: Path, content: bytes) -> None:
        if len(written) == writes:
            raise Killed
        written.append(path)
        write_atomically(path, content)

    monkeypatch.setattr(parts, "write_atomically", write_some)
    with pytest.raises(Killed):
        score(*arguments, output=output)
    monkeypatch.setattr(parts, "write_atomically", write_atomically)
    assert not output.exists()
    done = set(output.with_name("table.parquet.parts").glob("*.parquet"))
    assert len(done) == writes - 1  # the first is the manifest

    assert score(*arguments[:-1], "3", output=output) == 2  # other settings
    assert score(*arguments, output=output) == 1

    assert [row["row"] for row in rows(output)] == list(range(len(PIXELS)))
    assert output.read_bytes() == plain.read_bytes()
    assert failures(output) == failures(plain)


def start(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*OURS, "score", *map(str, arguments)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def until(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_together_and_another_run_continues(
    how: signal.Signals, tmp_path: Path
) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", np.concatenate([PIXELS] * 480))
    output = tmp_path / "table.parquet"
    arguments = (source, "-o", output, "--passes", "50", "--seed", "1", "--workers", "2")
    process = start(*arguments, start_new_session=True)
    parts = output.with_name("table.parquet.parts")
    until(lambda: any(parts.glob("*.parquet")), process)
    # A terminal sends Ctrl-C to all of them.
    (os.killpg if how is signal.SIGINT else os.kill)(process.pid, how)

    _, errors = process.communicate(timeout=60)

    assert not output.exists()
    if how is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert errors.endswith("\ndropserve: interrupted; run the same command again to continue\n")
        assert "Traceback" not in errors
    until_gone(process.pid)
    assert score(*arguments[:1], *arguments[3:], output=output) == 0
    table = pq.read_table(output)
    assert table["row"].to_pylist() == list(range(32 * 480))


@pytest.mark.slow
def test_killed_twice_a_run_ends_with_the_bytes_of_one_that_was_not(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", np.concatenate([PIXELS] * 240))
    plain, output = tmp_path / "plain.parquet", tmp_path / "table.parquet"
    arguments = (source, "--seed", "1", "--passes", "100")
    parts = output.with_name("table.parquet.parts")
    for wanted in (1, 3):
        process = start(*arguments, "-o", output, "--workers", "2", start_new_session=True)
        until(lambda: len(list(parts.glob("*.parquet"))) >= wanted, process)  # noqa: B023
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert not output.exists()
        until_gone(process.pid)

    assert score(*arguments, output=output) == 0

    assert score(*arguments, output=plain) == 0
    assert output.read_bytes() == plain.read_bytes()
    assert pq.read_table(output)["row"].to_pylist() == list(range(32 * 240))


def until_gone(session: int) -> None:
    """Waits until no process of the session is left."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        listed = subprocess.run(["pgrep", "-s", str(session)], capture_output=True, check=False)
        if not listed.stdout:
            return
        time.sleep(0.05)
    pytest.fail("a process is left")


@pytest.mark.slow
def test_a_full_disk_is_explained_and_room_lets_it_go_on(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", np.concatenate([PIXELS] * 40))
    output = tmp_path / "table.parquet"
    arguments = (source, "-o", output, "--passes", "2", "--seed", "1", "--workers", "1")
    # A limit on the size of files stands for the end of the disk: it comes from the same calls.
    assert sources.CHUNK_ROWS * 200 > 2**16
    process = start(*arguments, preexec_fn=lambda: limit_file_size(2**16))

    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "there is no room for the table" in errors
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    assert score(source, *arguments[3:], output=output) == 0
    assert len(rows(output)) == 32 * 40


# A disk of its own in a mount namespace: first too small, then larger.
_ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" none "$3" || exit 99
"${@:4}"; echo "$?"
mount -o "remount,size=$2" "$3"
"${@:4}"; echo "$?"
cp "$3/table.parquet" "$3.parquet"
"""
_IN_A_MOUNT_NAMESPACE = ("unshare", "--map-root-user", "--mount", "bash", "-c")


@pytest.mark.slow
def test_a_small_disk_is_explained_and_a_larger_one_lets_it_go_on(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", np.concatenate([PIXELS] * 160))
    plain, disk = tmp_path / "plain.parquet", tmp_path / "disk"
    disk.mkdir()
    options = ("--passes", "2", "--seed", "1")
    command = [*OURS, "score", source, "-o", disk / "table.parquet", *options, "--workers", "1"]
    try:
        done = subprocess.run(
            [
                *_IN_A_MOUNT_NAMESPACE,
                _ON_A_SMALL_DISK,
                "disk",
                "600k",
                "60m",
                disk,
                *map(str, command),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode == 99 or not done.stdout:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")

    assert done.stdout.split() == ["1", "0"], done.stderr
    assert "there is no room for the table" in done.stderr
    assert "Traceback" not in done.stderr
    assert score(source, *options, output=plain) == 0
    assert disk.with_name("disk.parquet").read_bytes() == plain.read_bytes()
    # What was scored before the end of the disk was not scored again.
    assert "5,120 images" in done.stderr
    assert "5,120 of them" not in done.stderr


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
