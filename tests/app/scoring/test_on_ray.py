"""`dropserve score --ray`: the table of a run on cores, from a Ray of its own."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from app.__main__ import main
from model.checkpoint import AnyCheckpoint, save_checkpoint
from tests.app.scoring.inputs import PIXELS, write_idx, write_zip
from tests.conftest import OURS, ROOT, SAMPLES
from tests.isolation import ISOLATED, can_isolate
from tests.model.layered_networks import tabular
from tests.pages import command_for

needs_ray = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("ray") is None, reason=f"no ray: {command_for('Ray')}"),
    pytest.mark.skipif(not can_isolate(), reason="no network namespace for Ray to listen in"),
]
_PATIENCE_SECONDS = 120
_FILES = ("table.parquet", "table.errors.jsonl")


def start(*arguments: object, output: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*ISOLATED, *OURS, "score", *map(str, arguments), "-o", str(output)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    try:
        return process.communicate(timeout=_PATIENCE_SECONDS)[1]
    finally:
        process.kill()


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    damaged = write_zip(tmp_path / "a.zip", 6, compression=0)
    content = bytearray(damaged.read_bytes())
    content[400] ^= 1
    damaged.write_bytes(content)
    many = write_idx(tmp_path / "x-idx3-ubyte", np.concatenate([PIXELS] * 160))
    return [damaged, SAMPLES / "doubtful.png", many, tmp_path / "none.png"]


@pytest.fixture
def on_cores(inputs: list[Path], tmp_path: Path) -> list[bytes]:
    folder = tmp_path / "cores"
    folder.mkdir()
    process = start(*inputs, "--seed", "1", output=folder / "table.parquet")
    finish(process)
    assert process.returncode == 1
    return [(folder / name).read_bytes() for name in _FILES]


class TestWithRay:
    pytestmark = needs_ray

    def test_the_table_has_the_bytes_of_a_run_on_cores_though_an_actor_is_killed(
        self, inputs: list[Path], on_cores: list[bytes], tmp_path: Path
    ) -> None:
        process = start(*inputs, "--seed", "1", "--ray", "local", output=tmp_path / _FILES[0])
        parts = tmp_path / f"{_FILES[0]}.parts"
        wait_until_there(parts, process)
        os.kill(actors_under(process.pid)[0], signal.SIGKILL)

        errors = finish(process)

        assert process.returncode == 1, errors
        assert "there is no such file" in errors
        assert [(tmp_path / name).read_bytes() for name in _FILES] == on_cores

    def test_a_run_interrupted_on_ray_goes_on_on_cores(
        self, inputs: list[Path], on_cores: list[bytes], tmp_path: Path
    ) -> None:
        arguments = [*inputs, "--seed", "1"]
        process = start(*arguments, "--ray", "local", output=tmp_path / _FILES[0])
        wait_until_there(tmp_path / f"{_FILES[0]}.parts", process)
        process.send_signal(signal.SIGINT)
        errors = finish(process)
        assert process.returncode == 130, errors
        assert errors.endswith("interrupted; run the same command again to continue\n")
        assert not (tmp_path / _FILES[0]).exists()

        process = start(*arguments, output=tmp_path / _FILES[0])
        errors = finish(process)

        assert f"{160 * 32 + 8:,} images" in errors
        assert f"{160 * 32 + 8:,} of them" not in errors
        assert [(tmp_path / name).read_bytes() for name in _FILES] == on_cores

    def test_the_rows_of_another_network_are_scored_as_on_cores(self, tmp_path: Path) -> None:
        network, source = tmp_path / "network.safetensors", tmp_path / "rows.npy"
        save_checkpoint(network, AnyCheckpoint(tabular(), training={"name": "tabular"}))
        values = np.random.default_rng(0).normal(size=(3000, 12)).astype(np.float32)
        values[7, 3] = np.nan
        np.save(source, values)
        arguments = [source, "--seed", "1", "--checkpoint", network]
        for name, options in (("cores", []), ("ray", ["--ray", "local"])):
            (tmp_path / name).mkdir()
            process = start(*arguments, *options, output=tmp_path / name / _FILES[0])
            errors = finish(process)
            assert process.returncode == 1, errors
            assert "rows.npy[7]: input must be 12 finite numbers" in errors

        for name in _FILES:
            on_cores = (tmp_path / "cores" / name).read_bytes()
            assert (tmp_path / "ray" / name).read_bytes() == on_cores

    def test_an_address_without_a_cluster_is_wrong_usage(
        self, inputs: list[Path], tmp_path: Path
    ) -> None:
        process = start(*inputs, "--ray", "127.0.0.1:9", output=tmp_path / _FILES[0])
        errors = finish(process)
        assert process.returncode == 2
        assert "there is no Ray cluster at 127.0.0.1:9" in errors.splitlines()[-1]
        assert "Traceback" not in errors

    def test_a_network_that_cannot_be_used_is_refused(
        self, inputs: list[Path], tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(b"no network")
        arguments = [*inputs, "--ray", "local", "--checkpoint", broken]
        process = start(*arguments, output=tmp_path / _FILES[0])
        errors = finish(process)
        assert process.returncode == 2, errors
        assert "Traceback" not in errors


def wait_until_there(parts: Path, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while not any(parts.glob("*.arrow")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert any(parts.glob("*.arrow"))


def actors_under(pid: int) -> list[int]:
    """The processes below one that score for Ray."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = []
    for child in map(int, children):
        name = Path(f"/proc/{child}/cmdline").read_bytes()
        found += [child] if b"MapWorker" in name else []
        found += actors_under(child)
    return found


def test_without_ray_the_command_says_what_to_install(
    inputs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as caught:
        main(["score", *map(str, inputs), "-o", str(tmp_path / _FILES[0]), "--ray", "local"])
    assert caught.value.code == 1
    assert "pip install 'dropserve[ray]'" in capsys.readouterr().err
