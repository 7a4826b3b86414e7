"""`dropserve serve`: its options, and what it refuses at start."""

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

import app.process.listening
import app.process.server
import app.process.signals
from app.inference.repository import Loaded
from app.settings import Settings
from model.checkpoint import DEFAULT_CHECKPOINT, AnyCheckpoint, Checkpoint, save_checkpoint
from model.network import MLPConfig
from tests.app.cli.conftest import run
from tests.conftest import ROOT
from training.network import TrainableMLP


class Server:
    """Stands for the server and keeps what it was started with."""

    def __init__(self) -> None:
        self.started: list[tuple[Settings, AnyCheckpoint]] = []

    def run(self, settings: Settings, loaded: Loaded, listeners: list[socket.socket]) -> int:
        assert listeners == []
        self.started.append((settings, next(iter(loaded.values()))))
        return 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    # Patched and not passed in: `main` is where the program begins.
    server = Server()
    monkeypatch.setattr(app.process.server, "run_server", server.run)
    monkeypatch.setattr(app.process.listening, "bind_listeners", lambda settings: [])
    monkeypatch.setattr(app.process.signals, "hold_reloads", lambda is_held: None)
    return server


def test_help_lists_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")  # no line is broken
    assert run("serve", "--help") == 0

    helps = capsys.readouterr().out.split("\n  --")
    for name, field in Settings.model_fields.items():
        (text,) = [text for text in helps if text.startswith(name.replace("_", "-") + " ")]
        assert field.description is not None
        assert field.description in text
        assert f"[DROPSERVE_{name.upper()}]" in text
        assert field.default in (None, ()) or f"default {field.default}" in text


@pytest.mark.parametrize("content", [None, "", "a secret"])
def test_keys_that_cannot_be_read_are_refused_at_start(
    content: str | None, server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)

    assert run("serve", "--api-keys-file", str(file)) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    assert "secret" not in line
    assert server.started == []


def test_the_server_gets_the_settings_and_the_default_checkpoint(
    server: Server, default_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPSERVE_MAX_PASSES", "7")
    monkeypatch.setenv("DROPSERVE_PORT", "81")

    assert run("serve", "--port", "82", "--log-level", "error") == 0

    ((settings, checkpoint),) = server.started
    assert settings == Settings(max_passes=7, port=82, log_level="error")
    assert checkpoint.version == default_checkpoint.version


def test_a_copy_of_the_checkpoint_can_be_served(
    server: Server, default_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(DEFAULT_CHECKPOINT.read_bytes())

    assert run("serve", "--checkpoint", str(copy)) == 0

    ((settings, checkpoint),) = server.started
    assert (settings.checkpoint, checkpoint.version) == (copy, default_checkpoint.version)


def nothing(path: Path) -> None:
    """The file is missing."""


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    content = DEFAULT_CHECKPOINT.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def without_its_last_byte(path: Path) -> None:
    path.write_bytes(DEFAULT_CHECKPOINT.read_bytes()[:-1])


def text(path: Path) -> None:
    path.write_text("not a checkpoint\n" * 100)


def changed(path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """The default checkpoint with another tensor in its last layer."""
    content = DEFAULT_CHECKPOINT.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors = load(content)
    name = max(name for name in tensors if name.endswith("weight"))  # they come in any order
    tensors[name] = change(tensors[name].clone()).contiguous()
    path.write_bytes(save(tensors, metadata=header["__metadata__"]))


def another_shape(path: Path) -> None:
    changed(path, lambda weight: weight[:, :-1])


def another_type(path: Path) -> None:
    changed(path, lambda weight: weight.half())


def with_a_nan(path: Path) -> None:
    def poison(weight: torch.Tensor) -> torch.Tensor:
        weight[3, 5] = torch.nan
        return weight

    changed(path, poison)


def with_an_infinity(path: Path) -> None:
    changed(path, lambda weight: weight / 0)


def for_other_images(path: Path) -> None:
    """A sound checkpoint, of a network that takes 2x3 pixels."""
    config = MLPConfig(
        layer_sizes=(6, 5, 3),
        dropout_rates=(0.25,),
        input_shape=(2, 3),
        labels=("a", "b", "c"),
        mean=0.5,
        std=0.5,
    )
    save_checkpoint(path, Checkpoint(TrainableMLP(config).to_network()))


class Explosive:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)  # nobody will ever write to it


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 * 2**30)


def described(path: Path, **changes: object) -> None:
    """The default checkpoint with another description, which JSON can hold."""
    content = DEFAULT_CHECKPOINT.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    card = json.loads(header["__metadata__"]["dropserve"])
    document = json.dumps({**card, **changes, "config": {**card["config"], **changes}})
    path.write_bytes(save(load(content), metadata={"dropserve": document}))


def with_half_a_character(path: Path) -> None:
    described(path, labels=["\ud800", *"123456789"])


def with_a_large_number(path: Path) -> None:
    described(path, metrics={"error": 10**30})


def with_a_name_of_half_a_character(path: Path) -> None:
    described(path, training={"dataset": "\udc00"})


def with_endless_answers(path: Path) -> None:
    changed(path, lambda weight: weight / weight.abs().max() * 3e38)


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Explosive()))


def a_torch_archive(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (nothing, "No such file"),
        (folder, "directory"),
        (empty, "truncated"),
        (truncated, "truncated"),
        (without_its_last_byte, "truncated"),
        (text, "truncated or no safetensors"),
        (another_shape, "shape"),
        (another_type, "F16, not F32"),
        (with_a_nan, "not finite"),
        (with_an_infinity, "not finite"),
        (for_other_images, "28x28"),
        (a_pipe, "pipe"),
        (huge, "more than 268,435,456 bytes"),
        (with_half_a_character, "cannot be sent"),
        (with_a_name_of_half_a_character, "cannot be sent"),
        (with_a_large_number, "cannot be sent"),
        (with_endless_answers, "answers that are not finite"),
        (a_pickle, "pickle"),
        (a_torch_archive, "torch archive"),
    ],
)
def test_a_bad_checkpoint_is_refused_with_one_line(
    server: Server,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.safetensors"
    make(path)

    assert run("serve", "--checkpoint", str(path)) == 2

    assert_one_line(capfd, str(path), reason)
    assert server.started == []
    assert not (tmp_path / "exploded").exists()


def assert_one_line(capfd: pytest.CaptureFixture[str], *words: str) -> None:
    output, errors = capfd.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("dropserve: ")
    for word in words:
        assert word in line


def test_an_unknown_variable_is_refused_with_one_line(
    server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPSERVE_PROT", "81")

    assert run("serve") == 2

    assert_one_line(capfd, "DROPSERVE_PROT", "DROPSERVE_PORT")
    assert server.started == []


def test_an_impossible_value_is_refused_with_one_line(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("serve", "--port", "many") == 2

    assert_one_line(capfd, "--port")
    assert server.started == []


def test_what_kubernetes_injects_does_not_keep_the_server_from_starting(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPSERVE_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("DROPSERVE_SERVICE_HOST", "10.0.0.1")

    assert run("serve") == 0

    ((settings, _),) = server.started
    assert settings == Settings()


@pytest.mark.slow
def test_a_real_process_refuses_a_bad_checkpoint_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    with_a_nan(path)

    finished = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--port", "0", "--checkpoint", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = finished.stderr.splitlines()
    assert "not finite" in line
