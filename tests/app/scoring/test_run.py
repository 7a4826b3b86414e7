"""How a run ends where there is no room for its table."""

import argparse
import errno
import io
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest

from app.cli.scoring import run_score
from app.errors import UsageError
from app.scoring import sources
from app.scoring.question import ClusterError
from app.settings import SettingsError
from model.errors import CheckpointError
from tests.app.scoring.inputs import PIXELS, write_idx
from tests.app.scoring.runs import rows, score, start
from tests.conftest import OURS, ROOT


@pytest.mark.slow
def test_a_full_disk_is_explained_and_room_lets_it_go_on(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", np.concatenate([PIXELS] * 40))
    output = tmp_path / "table.parquet"
    arguments = (source, "-o", output, "--passes", "2", "--seed", "1", "--workers", "1")
    # A limit on the size of files stands for the end of the disk: it comes from the same calls.
    assert sources.BLOCK_ROWS * 20 > 2**14
    process = start(*arguments, preexec_fn=lambda: limit_file_size(2**14))

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
                "400k",
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


# How errors end a run


def run(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and standard error where an error ends the run."""

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("app.cli.scoring._run", fail)
    stderr = io.StringIO()
    code = run_score(argparse.Namespace(output=tmp_path / "t.parquet"), stderr)
    return code, stderr.getvalue()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("what to do"), 2, "dropserve: what to do"),
        (SettingsError("what to do"), 2, "dropserve: what to do"),
        (CheckpointError("what to do"), 2, "dropserve: what to do"),
        (ClusterError("what to do"), 1, "dropserve: what to do"),
        (OSError(errno.ENOSPC, "No space left"), 1, "there is no room for the table (No space"),
        (OSError(errno.EDQUOT, "Quota exceeded"), 1, "there is no room for the table (Quota"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "t.parquet: Permission denied"),
    ],
)
def test_an_error_ends_the_run_with_its_code_and_one_line(
    error: BaseException,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, printed = run(error, tmp_path, monkeypatch)

    assert found == code
    assert message in printed
    assert len(printed.strip().splitlines()) == 1
