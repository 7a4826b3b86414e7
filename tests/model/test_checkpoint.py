"""Checkpoints: what is written comes back, and nothing but that is ever loaded."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from model.checkpoint import METADATA_KEY, Checkpoint, load_checkpoint, save_checkpoint
from model.errors import CheckpointError
from model.files import DEFAULT_CHECKPOINT
from model.network import MLP, MLPConfig
from training.network import TrainableMLP

CONFIG = MLPConfig(
    layer_sizes=(6, 5, 4, 3),
    dropout_rates=(77 / 256, 13 / 256),
    input_shape=(2, 3),
    labels=("left", "right", "ü"),
    mean=0.25,
    std=0.5,
)


@pytest.fixture
def checkpoint() -> Checkpoint:
    network = TrainableMLP(CONFIG)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Checkpoint(
        network.to_network(),
        training={"dataset": "arrows", "seed": 3, "data_md5": {"a": "b"}},
        metrics={"validation": {"error": 0.125}},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


def write(path: Path, tensors: dict[str, Tensor], card: object) -> None:
    """A file of any tensors and any description."""
    document = card if isinstance(card, str) else json.dumps(card)
    path.write_bytes(save(tensors, metadata={METADATA_KEY: document}))


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return dict(TrainableMLP.from_network(checkpoint.network).state_dict())


def card_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The description as plain JSON, free to be damaged."""
    card: dict[str, Any] = json.loads(json.dumps(checkpoint.card()))
    return card


def refusal(path: Path) -> str:
    """The message of the refusal: one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    return message


# What is written comes back


def test_a_saved_checkpoint_comes_back_whole(path: Path, checkpoint: Checkpoint) -> None:
    version = save_checkpoint(path, checkpoint)
    loaded = load_checkpoint(path)
    assert loaded.network.config == CONFIG
    assert loaded.card() == checkpoint.card()
    assert (loaded.name, loaded.version) == ("arrows", version)
    for found, layer in zip(loaded.network.layers, checkpoint.network.layers, strict=True):
        for array, expected in zip(found, layer, strict=True):
            assert array.dtype == np.float32
            assert np.array_equal(array, expected)


def test_loaded_weights_are_aligned_wherever_they_are_in_the_file(
    path: Path, checkpoint: Checkpoint
) -> None:
    for padding in range(8):
        save_checkpoint(path, replace(checkpoint, training={"dataset": "x" * padding}))
        for layer in load_checkpoint(path).network.layers:
            assert all(array.flags.aligned and array.flags.c_contiguous for array in layer)


def test_the_committed_checkpoint_is_written_with_its_own_bytes(path: Path) -> None:
    version = save_checkpoint(path, load_checkpoint(DEFAULT_CHECKPOINT))
    assert path.read_bytes() == DEFAULT_CHECKPOINT.read_bytes()
    assert version == load_checkpoint(DEFAULT_CHECKPOINT).version


def test_the_tensors_have_the_names_of_the_trainable_network(
    path: Path, checkpoint: Checkpoint
) -> None:
    save_checkpoint(path, checkpoint)
    tensors = load(path.read_bytes())
    assert tensors.keys() == tensors_of(checkpoint).keys()
    for name, tensor in tensors_of(checkpoint).items():
        assert torch.equal(tensors[name], tensor)


def test_weights_in_another_memory_order_are_written_alike(
    path: Path, checkpoint: Checkpoint
) -> None:
    save_checkpoint(path, checkpoint)
    expected = path.read_bytes()
    layers = tuple(
        layer._replace(weight=np.asfortranarray(layer.weight))
        for layer in checkpoint.network.layers
    )
    save_checkpoint(path, replace(checkpoint, network=MLP(CONFIG, layers)))
    assert path.read_bytes() == expected


def test_saving_twice_gives_the_same_bytes(tmp_path: Path, checkpoint: Checkpoint) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    save_checkpoint(first, checkpoint)
    # The order in which a dictionary was filled is no part of what it says.
    reordered = Checkpoint(
        checkpoint.network,
        training=dict(reversed(list(checkpoint.training.items()))),
        metrics=checkpoint.metrics,
    )
    save_checkpoint(second, reordered)
    save_checkpoint(third, load_checkpoint(first))
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()


def test_the_description_is_canonical_json_under_one_key(
    path: Path, checkpoint: Checkpoint
) -> None:
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header["__metadata__"]
    assert list(metadata) == ["dropserve"]
    document = metadata["dropserve"]
    assert document == json.dumps(json.loads(document), sort_keys=True, separators=(",", ":"))
    assert json.loads(document).keys() == {
        "format_version",
        "config",
        "calibration",
        "training",
        "metrics",
    }


def test_the_version_is_the_start_of_the_files_sha256(path: Path, checkpoint: Checkpoint) -> None:
    version = save_checkpoint(path, checkpoint)
    assert version == hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def test_one_changed_weight_changes_the_version(path: Path, checkpoint: Checkpoint) -> None:
    before = save_checkpoint(path, checkpoint)
    checkpoint.network.layers[0].weight[0, 0] += 1
    assert save_checkpoint(path, checkpoint) != before


def test_an_uncalibrated_network_has_temperatures_of_1_and_no_thresholds(
    checkpoint: Checkpoint,
) -> None:
    calibration = checkpoint.card()["calibration"]
    assert (calibration["temperature"], calibration["mc_temperature"]) == (1.0, 1.0)
    assert calibration["thresholds"] == {"predict": None, "mc": None}


def test_a_value_that_json_cannot_hold_is_not_written(path: Path, checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(path, Checkpoint(checkpoint.network, metrics={"error": float("nan")}))
    assert list(path.parent.iterdir()) == []


def test_a_sound_file_is_never_mistaken_for_a_pickle(path: Path, checkpoint: Checkpoint) -> None:
    """A file begins with its header's length, whose low byte can be 0x80, as a pickle's first."""
    first_bytes = set()
    for padding in range(0, 256, 8):
        padded = Checkpoint(checkpoint.network, training={"dataset": "x" * padding})
        save_checkpoint(path, padded)
        first_bytes.add(path.read_bytes()[0])
        assert load_checkpoint(path).card() == padded.card()
    assert 0x80 in first_bytes


def test_an_activation_is_recorded_where_it_is_not_relu(path: Path, checkpoint: Checkpoint) -> None:
    """Files of ReLU networks stay as they were before there was a choice."""
    assert "activation" not in checkpoint.card()["config"]
    network = checkpoint.network
    linear = Checkpoint(MLP(replace(network.config, activation="linear"), network.layers))
    save_checkpoint(path, linear)
    assert linear.card()["config"]["activation"] == "linear"
    assert load_checkpoint(path).network.config == linear.network.config


def test_loading_moves_no_global_generator(path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(path, checkpoint)
    before = torch.get_rng_state()
    load_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before)


# What is refused


def test_a_missing_file_is_refused(path: Path) -> None:
    assert "No such file" in refusal(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "Is a directory" in refusal(tmp_path)


def test_an_empty_file_is_refused(path: Path) -> None:
    path.touch()
    assert "truncated" in refusal(path)


def test_a_file_cut_anywhere_is_refused(path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    for length in {1, 7, 8, 9, len(content) // 2, *range(len(content) - 40, len(content))}:
        path.write_bytes(content[:length])
        assert "truncated" in refusal(path)


def test_bytes_after_the_end_are_refused(path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes() + b"\0")
    refusal(path)


@pytest.mark.parametrize("content", [b"\xff" * 64, b"\0" * 64, b"<html>not found</html>\n" * 9])
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "no safetensors file" in refusal(path)


class Trap:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_not_run(path: Path, protocol: int) -> None:
    trap = path.with_name("trap")
    path.write_bytes(pickle.dumps(Trap(trap), protocol=protocol))
    assert "is a pickle" in refusal(path)
    assert not trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_refused(path: Path, checkpoint: Checkpoint, zipped: bool) -> None:
    torch.save(tensors_of(checkpoint), path, _use_new_zipfile_serialization=zipped)
    assert "is a pickle or a torch archive" in refusal(path)


def test_tensors_of_another_network_are_refused(path: Path, checkpoint: Checkpoint) -> None:
    other = TrainableMLP(MLPConfig((6, 7, 4, 3), (0.25, 0.25), (2, 3), ("a", "b", "c")))
    write(path, dict(other.state_dict()), card_of(checkpoint))
    assert "layers.0.bias of shape (7,), not (5,)" in refusal(path)


def test_a_transposed_tensor_is_refused(path: Path, checkpoint: Checkpoint) -> None:
    tensors = tensors_of(checkpoint)
    tensors["layers.1.weight"] = tensors["layers.1.weight"].T.contiguous()
    write(path, tensors, card_of(checkpoint))
    assert "layers.1.weight of shape (5, 4), not (4, 5)" in refusal(path)


def test_a_missing_tensor_is_refused(path: Path, checkpoint: Checkpoint) -> None:
    tensors = tensors_of(checkpoint)
    del tensors["layers.2.bias"]
    write(path, tensors, card_of(checkpoint))
    assert "lacks the tensor layers.2.bias" in refusal(path)


@pytest.mark.parametrize("name", ["layers.3.weight", "two\nlines"])
def test_a_tensor_too_many_is_refused(path: Path, checkpoint: Checkpoint, name: str) -> None:
    write(path, {**tensors_of(checkpoint), name: torch.zeros(3)}, card_of(checkpoint))
    assert f"a tensor too many: {name!r}" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["layers.0.weight", "layers.2.bias"])
def test_a_value_that_is_not_finite_is_refused(
    path: Path, checkpoint: Checkpoint, name: str, value: float
) -> None:
    tensors = {name: tensor.clone() for name, tensor in tensors_of(checkpoint).items()}
    tensors[name].view(-1)[-1] = value
    write(path, tensors, card_of(checkpoint))
    assert f"a value in {name} that is not finite" in refusal(path)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float64, "F64"),
        (torch.float16, "F16"),
        (torch.bfloat16, "BF16"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.int32, "I32"),
    ],
)
def test_a_tensor_of_another_dtype_is_refused(
    path: Path, checkpoint: Checkpoint, dtype: torch.dtype, name: str
) -> None:
    tensors = tensors_of(checkpoint)
    tensors["layers.1.weight"] = tensors["layers.1.weight"].to(dtype)
    write(path, tensors, card_of(checkpoint))
    assert f"layers.1.weight as {name}, not F32" in refusal(path)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_safetensors_of_another_program_are_refused(
    path: Path, checkpoint: Checkpoint, metadata: dict[str, str] | None
) -> None:
    path.write_bytes(save(tensors_of(checkpoint), metadata=metadata))
    assert "was not written by dropserve-train" in refusal(path)


@pytest.mark.parametrize("document", ["", "{", "[" * 100_000])
def test_a_description_that_is_no_json_is_refused(
    path: Path, checkpoint: Checkpoint, document: str
) -> None:
    write(path, tensors_of(checkpoint), document)
    assert "was not written by dropserve-train" in refusal(path)


@pytest.mark.parametrize("document", ["[]", "null", "1", "{}", '{"format_version": null}'])
def test_a_description_without_a_version_is_refused(
    path: Path, checkpoint: Checkpoint, document: str
) -> None:
    write(path, tensors_of(checkpoint), document)
    assert "another format_version than 1" in refusal(path)


def test_format_version_3_is_refused(path: Path, checkpoint: Checkpoint) -> None:
    write(path, tensors_of(checkpoint), card_of(checkpoint) | {"format_version": 3})
    assert "another format_version than 1 or 2" in refusal(path)


@pytest.mark.parametrize("key", ["config", "calibration", "training", "metrics"])
def test_a_missing_part_of_the_description_is_refused(
    path: Path, checkpoint: Checkpoint, key: str
) -> None:
    card = card_of(checkpoint)
    del card[key]
    write(path, tensors_of(checkpoint), card)
    assert f"has no '{key}' in its description" in refusal(path)


@pytest.mark.parametrize("key", ["config", "calibration", "training", "metrics"])
@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_a_part_of_the_description_that_is_no_object_is_refused(
    path: Path, checkpoint: Checkpoint, key: str, value: object
) -> None:
    write(path, tensors_of(checkpoint), card_of(checkpoint) | {key: value})
    assert "damaged description" in refusal(path)


@pytest.mark.parametrize(
    "key", ["layer_sizes", "dropout_rates", "input_shape", "labels", "mean", "std"]
)
def test_a_config_without_one_of_its_keys_is_refused(
    path: Path, checkpoint: Checkpoint, key: str
) -> None:
    card = card_of(checkpoint)
    del card["config"][key]
    write(path, tensors_of(checkpoint), card)
    assert f"has no '{key}' in its description" in refusal(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer_sizes", None),
        ("layer_sizes", [6, "5", 4, 3]),
        ("layer_sizes", [6, 5.0, 4, 3]),
        ("layer_sizes", [6, 5, 4, 4]),  # three labels
        ("layer_sizes", [6, True, 4, 3]),
        ("dropout_rates", [0.25]),
        ("dropout_rates", [0.25, 0.2]),
        ("dropout_rates", [0.25, 1.0]),
        ("dropout_rates", ["0.25", "0.25"]),
        ("dropout_rates", [float("nan"), 0.25]),
        ("input_shape", [6]),
        ("input_shape", [2, 2]),
        ("input_shape", [2.0, 3.0]),
        ("labels", ["a", "b"]),
        ("labels", [0, 1, 2]),
        ("mean", None),
        ("mean", "0.25"),
        ("mean", float("nan")),
        ("mean", 10**400),
        ("std", 0),
        ("std", float("inf")),
        ("std", float("nan")),
        ("activation", "tanh"),
        ("activation", None),
        ("activation", ["relu"]),
    ],
)
def test_a_damaged_config_is_refused(
    path: Path, checkpoint: Checkpoint, key: str, value: object
) -> None:
    card = card_of(checkpoint)
    card["config"][key] = value
    write(path, tensors_of(checkpoint), card)
    assert "damaged description" in refusal(path)


@pytest.mark.parametrize("size", [10**12, 10**18, 10**40])  # from 24 TB of weights
def test_a_config_of_absurd_size_is_refused_before_it_takes_memory(
    path: Path, checkpoint: Checkpoint, size: int
) -> None:
    card = card_of(checkpoint)
    card["config"]["layer_sizes"] = [6, size, 4, 3]
    write(path, tensors_of(checkpoint), card)
    assert f"layers.0.bias of shape (5,), not ({size},)" in refusal(path)


# Atomic writing


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    checkpoint.network.layers[0].weight.fill(0)
    with monkeypatch.context() as patched:
        patched.setattr(owner, step, fail)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, checkpoint)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
