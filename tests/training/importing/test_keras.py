"""Files that Keras wrote agree with Keras's own answers; everything else in them is refused.

`make_keras_files.py` wrote them.
"""

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from model.checkpoint import load_any_checkpoint, load_checkpoint
from model.engines import build_engine
from model.engines.relu_mlp import ReluMlpEngine
from model.engines.sequential import SequentialEngine
from model.layered import LayeredNetwork
from tests.training.importing.importing import (
    FILES,
    assert_passes_agree,
    changed_json,
    import_file,
    pack,
    refusal,
    unpack,
)
from training.cli import main
from training.errors import TrainingError
from training.importing.hdf5 import read_hdf5

KERAS = sorted(FILES.glob("*.keras"))
MLPS = {"mlp", "linear_mlp", "tabular"}
WEIGHTS = "model.weights.h5"


@pytest.mark.parametrize("file", [*KERAS, *sorted(FILES.glob("*.h5"))], ids=lambda file: file.name)
def test_a_network_agrees_with_keras(tmp_path: Path, file: Path) -> None:
    """Deterministic answers within 1e-5, and mean and variance of Keras's own dropout."""
    saved = file.with_suffix(".npz")
    checkpoint = import_file(file, tmp_path / "net.safetensors", check=saved)
    engine = build_engine(checkpoint.network)
    assert isinstance(engine, ReluMlpEngine if file.stem in MLPS else SequentialEngine)
    if file.suffix == ".keras":
        with np.load(saved) as theirs:
            for index, moments in enumerate(theirs["mean"]):
                one = {name: theirs[name][index] for name in ("moment_2", "moment_4")}
                one["mean"] = moments
                assert_passes_agree(checkpoint, theirs["inputs"][index], one)


def test_a_file_in_the_form_of_keras_2_agrees(tmp_path: Path) -> None:
    """Bytes in place of text, other names of weights and of the input's shape, a bare list."""
    file = tmp_path / "mlp.h5"
    file.write_bytes((FILES / "mlp.h5").read_bytes())
    with h5py.File(file, "r+") as stored:
        document = json.loads(stored.attrs["model_config"])
        layers = document["config"] = document["config"]["layers"]
        layers[0]["config"]["batch_input_shape"] = layers[0]["config"].pop("batch_shape")
        for each in layers:
            each["config"]["dtype"] = "float32"
            each.pop("build_config", None)
            group = stored["model_weights"].get(each["config"]["name"])
            names = [] if group is None else group.attrs["weight_names"].tolist()
            for name in names:
                group.move(name, f"{name}:0")
            if names:
                group.attrs["weight_names"] = np.array([f"{name}:0".encode() for name in names])
        document.pop("build_config", None)
        stored.attrs["model_config"] = np.bytes_(json.dumps(document))
    import_file(file, tmp_path / "net.safetensors", check=FILES / "mlp.npz")


def test_what_is_imported_has_its_name_and_its_source(tmp_path: Path) -> None:
    labels = ("left", "right", "none")
    path = tmp_path / "net.safetensors"
    checkpoint = import_file(FILES / "tabular.keras", path, labels=labels)
    assert checkpoint.name == "tabular"
    assert checkpoint.network.config.labels == labels
    source = checkpoint.training["imported"]
    assert (source["file"], source["format"]) == ("tabular.keras", "keras")
    assert isinstance(checkpoint.network, LayeredNetwork)
    before = path.read_bytes()
    import_file(FILES / "tabular.keras", path, labels=labels)
    assert path.read_bytes() == before


def test_the_command_line_imports_and_says_why_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, file = tmp_path / "net.safetensors", FILES / "tabular.keras"
    options = ("--output", str(output), "--labels", "left", "right", "none", "--mean", "1/4")
    for arguments, code in (
        (("import", str(file), *options[:-2]), 0),
        (("import", str(file), *options), 1),
        (("import",), 2),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == code
    assert load_any_checkpoint(output).network.config.labels == ("left", "right", "none")
    printed = capsys.readouterr()
    assert "dropout rates 0.250, 0.500, computed by ReluMlpEngine" in printed.out
    assert "the network scales its inputs itself" in printed.err


def test_an_mlp_for_digits_is_a_checkpoint_that_every_command_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = unpack(FILES / "mlp.keras")

    def enlarge(document: Any) -> None:
        layers = document["config"]["layers"]
        layers[0]["config"]["batch_shape"] = [None, 28, 28]
        layers[4]["config"]["rate"] = 0.2

    members["config.json"] = changed_json(members["config.json"], enlarge)
    buffer = io.BytesIO(members[WEIGHTS])
    with h5py.File(buffer, "r+") as weights:
        del weights["layers/dense/vars/0"]
        kernel = np.random.default_rng(0).normal(size=(784, 32)).astype(np.float32)
        weights["layers/dense/vars/0"] = kernel
    members[WEIGHTS] = buffer.getvalue()
    file, output = tmp_path / "digits.keras", tmp_path / "digits.safetensors"
    file.write_bytes(pack(members))
    import_file(file, output, preparation="digit", name="mine")
    checkpoint = load_checkpoint(output)
    assert checkpoint.name == "mine"
    assert checkpoint.network.config.input_shape == (28, 28)
    assert checkpoint.network.config.dropout_rates == (51 / 256, 0.5)
    assert np.array_equal(checkpoint.network.layers[0].weight, kernel.T)
    assert "dropout rate 0.2 is served as 0.1992" in capsys.readouterr().out


def test_outputs_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(FILES / "tabular.npz") as saved:
        inputs, outputs = saved["inputs"], saved["outputs"]
    wrong = tmp_path / "wrong.npz"
    for arrays, message in (
        ({"inputs": inputs, "outputs": outputs[::-1]}, "outputs differ by"),
        ({"inputs": inputs, "outputs": outputs * np.nan}, "outputs differ by"),
        ({"inputs": inputs[:, :5], "outputs": outputs}, "must have the shape (N, 12)"),
        ({"inputs": inputs, "outputs": outputs[:, :2]}, "outputs must have the shape"),
        ({"inputs": inputs}, "needs an .npz file"),
        ({"inputs": np.array([object()]), "outputs": outputs}, "needs an .npz file"),
    ):
        np.savez(wrong, **arrays)
        monkeypatch.setattr("training.importing.keras.read_hdf5", read_hdf5_once)
        with pytest.raises(TrainingError, match=r"wrong\.npz") as caught:
            import_file(FILES / "tabular.keras", tmp_path / "net.safetensors", check=wrong)
        assert message in str(caught.value)
        assert not (tmp_path / "net.safetensors").exists()


# Descriptions that are refused

read_hdf5_once = cache(read_hdf5)  # the weights are always the same


def layer(number: int, **settings: Any) -> Callable[[Any], object]:
    return lambda document: document["config"]["layers"][number]["config"].update(settings)


def of_class(name: str, **more: Any) -> Callable[[Any], object]:
    return lambda document: document["config"]["layers"][3].update({"class_name": name, **more})


CODE = {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_class("Lambda", config={"name": "boom", "function": CODE}), "boom: a layer of the cla"),
        (of_class("LSTM"), "dense: a layer of the class LSTM is not supported"),
        (of_class("Sequential"), "a layer of the class Sequential is not supported"),
        (of_class("Dense", registered_name="mine>Dense"), "is not supported"),
        (layer(3, activation="gelu"), "dense: the activation gelu is not supported"),
        (layer(3, activation=CODE), "dense: the activation"),
        (layer(3, units=31), "dense has a kernel of an unexpected shape"),
        (layer(3, use_bias=False), "dense lacks its weights, or has too many"),
        (layer(3, dtype="float16"), "dense: the dtype float16 is not supported"),
        (layer(4, rate=1.0), "dropout has a dropout rate that is not in [0, 1): 1.0"),
        (layer(4, rate="0.5"), "dropout has a dropout rate"),
        (layer(4, rate=0.999), "which leaves nothing"),
        (layer(4, noise_shape=[1, 2]), "dropout: noise_shape=[1, 2] is not supported"),
        (layer(0, batch_shape=[None, 10**9, 10**9]), "impossible shape"),
        (layer(0, batch_shape=[None, 10**5, 8]), "dense has weight of an unexpected shape"),
        (layer(0, batch_shape=[None, None, 8]), "no definite shape"),
        (layer(0, batch_shape=[None, 8, "8"]), "impossible shape"),
        (layer(1, scale=[1, 2]), "Rescaling that is not first, with one positive scale"),
        (lambda document: document["config"]["layers"].reverse(), "dense_2 has a kernel of"),
        (lambda document: document["config"]["layers"].pop(3), "of an unexpected shape"),
        (lambda document: document.update(class_name="Mine"), "a model of the class Mine"),
        (lambda document: document["config"].update(layers=7), "description is damaged"),
        (lambda document: document.pop("config"), "description is damaged: KeyError"),
    ],
)
def test_a_description_with_something_unknown_is_refused(
    tmp_path: Path,
    change: Callable[[Any], object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.importing.keras.read_hdf5", read_hdf5_once)
    members = unpack(FILES / "mlp.keras")
    members["config.json"] = changed_json(members["config.json"], change)
    file = tmp_path / "net.keras"
    file.write_bytes(pack(members))
    assert message in refusal(file)


def test_a_network_that_branches_is_refused(tmp_path: Path) -> None:
    members = unpack(FILES / "pooled.keras")

    def branch(document: Any) -> None:
        node = document["config"]["layers"][3]["inbound_nodes"][0]
        node["args"][0]["config"]["keras_history"][0] = "input_layer"

    members["config.json"] = changed_json(members["config.json"], branch)
    file = tmp_path / "net.keras"
    file.write_bytes(pack(members))
    assert "only networks that are one chain are supported" in refusal(file)


# Weights that are refused


def change_weights(tmp_path: Path, change: Callable[[h5py.File], object]) -> Path:
    members = unpack(FILES / "mlp.keras")
    buffer = io.BytesIO(members[WEIGHTS])
    with h5py.File(buffer, "r+") as weights:
        change(weights)
    members[WEIGHTS] = buffer.getvalue()
    file = tmp_path / "net.keras"
    file.write_bytes(pack(members))
    return file


BIAS = "layers/dense/vars/1"


def replace_bias(**how: Any) -> Callable[[h5py.File], None]:
    def change(weights: h5py.File) -> None:
        del weights[BIAS]
        weights.create_dataset(BIAS, **{"shape": (32,), "dtype": "f4", **how})

    return change


def link_bias(link: Any) -> Callable[[h5py.File], None]:
    def change(weights: h5py.File) -> None:
        del weights[BIAS]
        weights[BIAS] = link

    return change


def virtual_bias(weights: h5py.File) -> None:
    del weights[BIAS]
    layout = h5py.VirtualLayout((32,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "data", (32,))
    weights.create_virtual_dataset(BIAS, layout)


def nan_bias(weights: h5py.File) -> None:
    weights[BIAS][3] = np.nan


def many_groups(weights: h5py.File) -> None:
    for number in range(20_001):
        weights.create_group(f"many/{number}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link_bias(h5py.ExternalLink("/etc/passwd", "/")), "has a link"),
        (link_bias(h5py.SoftLink("/layers/dense_1/vars/1")), "has a link"),
        (replace_bias(external=[("/etc/passwd", 0, 128)]), "a form that Keras never writes"),
        (replace_bias(shape=(10**9,), chunks=(10**6,), compression="gzip"), "never writes"),
        (replace_bias(shape=(10**9,)), "never writes"),  # not allocated
        (virtual_bias, "never writes"),
        (replace_bias(dtype=h5py.string_dtype()), "lacks its weights, or has too many"),
        (nan_bias, "dense has a value in bias that is not finite"),
        (lambda weights: weights[BIAS].parent.pop("1"), "dense lacks its weights"),
        (lambda weights: weights.clear(), "dense lacks its weights"),
    ],
)
def test_weights_in_another_form_are_refused(
    tmp_path: Path, change: Callable[[h5py.File], object], message: str
) -> None:
    assert message in refusal(change_weights(tmp_path, change))


def test_arrays_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Else a small file could fill the memory."""

    def link(weights: h5py.File) -> None:
        for number in range(2000):
            weights[f"many/{number}"] = weights["layers/dense/vars/0"]

    assert "overlap" in refusal(change_weights(tmp_path, link))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    members = unpack(FILES / "mlp.keras")
    content, file = members[WEIGHTS], tmp_path / "net.keras"
    for damaged in (b"", b"\x80\x05K\x00.", content[:3000], content[:-8], content[8:]):
        file.write_bytes(pack(members | {WEIGHTS: damaged}))
        assert "damaged" in refusal(file)


def test_an_h5_file_of_weights_only_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    file.write_bytes(unpack(FILES / "mlp.keras")[WEIGHTS])
    assert "save the whole model with model.save()" in refusal(file)


def test_a_file_of_another_version_of_keras_may_have_its_weights_elsewhere(tmp_path: Path) -> None:
    members = unpack(FILES / "mlp.keras")
    names = json.loads(members["config.json"])["config"]["layers"]
    assert [each["class_name"] for each in names].count("Dense") == 3  # as the file was made
    del members[WEIGHTS]
    file = tmp_path / "net.keras"
    file.write_bytes(pack(members))
    assert "the archive has no model.weights.h5" in refusal(file)
