"""Exported programs and state dicts of torch agree with torch; everything else is refused."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from model.engines import build_engine
from tests.training.importing.importing import (
    assert_passes_agree,
    changed_json,
    import_file,
    pack,
    refusal,
    unpack,
)
from tests.training.importing.networks import LENET_LAYERS, LeNet, make, other_layers, with_dropout
from training.config import ImportOptions
from training.errors import TrainingError
from training.importing.command import import_network

SHAPES = {LeNet: (1, 28, 28), other_layers: (4, 12, 13)}
# torch.export's own code uses what Python will remove.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def export(module: nn.Module, shape: tuple[int, ...], *, is_dynamic: bool = False) -> bytes:
    dynamic = ({0: torch.export.Dim("batch")},) if is_dynamic else None
    program = torch.export.export(module, (torch.zeros(2, *shape),), dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def exported() -> bytes:
    return export(make(LeNet), SHAPES[LeNet])


@pytest.fixture
def state_dict() -> dict[str, torch.Tensor]:
    return make(LeNet).state_dict()


def assert_agrees(checkpoint: Any, kind: Any, *, is_log: bool) -> None:
    module, shape = make(kind), SHAPES[kind]
    inputs = np.random.default_rng(0).normal(size=(100, *shape)).astype(np.float32)
    engine: Any = build_engine(checkpoint.network)
    with torch.inference_mode():
        outputs = module(torch.from_numpy(inputs))
        probs = outputs.exp() if is_log else outputs
        for values, expected in zip(inputs, probs.numpy(), strict=True):
            ours = torch.from_numpy(engine.predict_logits(values)).softmax(dim=0).numpy()
            assert ours == pytest.approx(expected, abs=1e-5)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            repeated = torch.from_numpy(inputs[0]).expand(2000, *shape)
            passes = with_dropout(module)(repeated)
    p = (passes.exp() if is_log else passes).double().numpy()
    centred = p - p.mean(axis=0)
    moments = {f"moment_{k}": (centred**k).mean(axis=0) for k in (2, 4)}
    assert_passes_agree(checkpoint, inputs[0], {"mean": p.mean(axis=0), **moments})


# Files that torch wrote


@pytest.mark.parametrize("is_training", [False, True])
def test_an_exported_lenet_agrees_with_torch(tmp_path: Path, is_training: bool) -> None:
    """Exported in either mode, with a fixed batch or any."""
    module = make(LeNet).train(is_training)
    file = tmp_path / "lenet.pt2"
    file.write_bytes(export(module, SHAPES[LeNet], is_dynamic=is_training))
    checkpoint = import_file(file, tmp_path / "net.safetensors")
    assert_agrees(checkpoint, LeNet, is_log=True)


def test_every_other_layer_agrees_with_torch(tmp_path: Path) -> None:
    module, file, saved = make(other_layers), tmp_path / "net.pt2", tmp_path / "saved.npz"
    inputs = np.random.default_rng(0).normal(size=(20, 4, 12, 13)).astype(np.float32)
    with torch.inference_mode():
        np.savez(saved, inputs=inputs, outputs=module(torch.from_numpy(inputs)).numpy())
    file.write_bytes(export(module, SHAPES[other_layers]))
    checkpoint = import_file(file, tmp_path / "net.safetensors", check=saved)
    assert_agrees(checkpoint, other_layers, is_log=False)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_state_dict_agrees_with_torch(
    tmp_path: Path, state_dict: dict[str, torch.Tensor], suffix: str
) -> None:
    file = tmp_path / f"lenet{suffix}"
    if suffix == ".pt":
        torch.save(state_dict, file)
    else:
        file.write_bytes(save(state_dict))
    output = tmp_path / "net.safetensors"
    checkpoint = import_file(file, output, layers=LENET_LAYERS, input_shape=(1, 28, 28))
    assert_agrees(checkpoint, LeNet, is_log=True)


def test_a_state_dict_with_batch_normalisation(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).eval()
    file = tmp_path / "net.pt"
    torch.save(module.state_dict(), file)
    words = ("0", "1", "tanh", "dropout:0.5", "3", "softmax")
    checkpoint = import_file(file, tmp_path / "net", layers=words, input_shape=(4,))
    values = np.array([1, -2, 3, 0.5], np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(values)[None])[0].numpy()
    engine: Any = build_engine(checkpoint.network)
    found = engine.predict_logits(values)
    assert found == pytest.approx(expected, abs=1e-5)


# Exported programs that are refused


def rewrite(content: bytes, tmp_path: Path, end: str, change: Callable[[Any], object]) -> Path:
    file = tmp_path / "net.pt2"
    file.write_bytes(content)
    members = unpack(file)
    (name,) = (name for name in members if name.endswith(end))
    members[name] = changed_json(members[name], change)
    file.write_bytes(pack(members))
    return file


def weight(**settings: Any) -> Callable[[Any], object]:
    return lambda document: document["config"]["conv1.weight"].update(settings)


def meta(**settings: Any) -> Callable[[Any], object]:
    return lambda document: document["config"]["conv1.weight"]["tensor_meta"].update(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weight(use_pickle=True), "conv1.weight are a pickle, which can run code"),
        (weight(use_pickle=None), "conv1.weight are a pickle"),
        (weight(path_name="../../../../etc/passwd"), "an impossible path"),
        (weight(path_name="/etc/passwd"), "an impossible path"),
        (weight(path_name="weight_99"), "the archive has no"),
        (meta(dtype=8), "not float32"),
        (meta(sizes=[{"as_int": 10**9}, {"as_int": 10**9}]), "are a view of others"),
        (meta(sizes=[{"as_int": 7}, {"as_int": 1}, {"as_int": 5}, {"as_int": 5}]), "another size"),
        (meta(storage_offset={"as_int": 4}), "are a view of others"),
        (lambda document: document["config"].pop("fc2.bias"), "KeyError: 'fc2.bias'"),
    ],
)
def test_weights_of_another_kind_are_refused(
    tmp_path: Path, exported: bytes, change: Callable[[Any], object], message: str
) -> None:
    assert message in refusal(rewrite(exported, tmp_path, "weights_config.json", change))


def node(index: int, **settings: Any) -> Callable[[Any], object]:
    return lambda document: document["graph_module"]["graph"]["nodes"][index].update(settings)


def tensor_argument(name: str) -> list[Any]:
    return [{"name": "self", "arg": {"as_tensor": {"name": name}}, "kind": 1}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (node(1, target="torch.ops.aten.gelu.default"), "torch.ops.aten.gelu.default is not supp"),
        (node(1, target="os.system"), "the operation os.system is not supported"),
        (node(1, inputs=tensor_argument("x")), "only networks that are one chain"),
        (node(1, inputs=[]), "only networks that are one chain"),
        (node(1, inputs=7), "the description is damaged: TypeError"),
        (lambda document: document["graph_module"]["graph"]["nodes"].pop(), "not that of its last"),
        (lambda document: document.pop("graph_module"), "the description is damaged: KeyError"),
        (
            lambda document: document["graph_module"]["graph"]["tensor_values"]["x"].update(
                sizes=[{"as_int": 2}, {"as_int": 1}, {"as_int": 10**12}, {"as_int": 10**12}]
            ),
            "impossible shape",
        ),
    ],
)
def test_a_graph_with_something_unknown_is_refused(
    tmp_path: Path, exported: bytes, change: Callable[[Any], object], message: str
) -> None:
    assert message in refusal(rewrite(exported, tmp_path, "model.json", change))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Dropout(), nn.Linear(3, 2)), "gelu"),
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(1), nn.Linear(3, 2)), "comes after softmax"),
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), "has no dropout"),
    ],
)
def test_networks_that_cannot_be_served_are_refused(
    tmp_path: Path, module: nn.Module, message: str
) -> None:
    file = tmp_path / "net.pt2"
    file.write_bytes(export(module.eval(), (4,)))
    assert message in refusal(file)


def test_the_sample_inputs_are_not_read(tmp_path: Path, exported: bytes) -> None:
    file, trap = tmp_path / "net.pt2", tmp_path / "trap"
    file.write_bytes(exported)
    members = unpack(file)
    (name,) = (name for name in members if name.endswith("sample_inputs/model.pt"))
    members[name] = pickle.dumps(Trap(trap))
    file.write_bytes(pack(members))
    import_file(file, tmp_path / "net.safetensors")
    assert not trap.exists()


# Archives that are refused


def test_compressed_archives_are_refused(tmp_path: Path, exported: bytes) -> None:
    """They could be bombs."""
    file = tmp_path / "net.pt2"
    file.write_bytes(exported)
    members = unpack(file)
    file.write_bytes(pack(members, compression=zipfile.ZIP_DEFLATED))
    assert "is compressed" in refusal(file)
    bomb = {name: bytes(10**9 // 8) if "weight_0" in name else b"" for name in members}
    file.write_bytes(pack(bomb, compression=zipfile.ZIP_DEFLATED))
    del bomb
    assert "is compressed" in refusal(file)


def test_damaged_archives_are_refused(tmp_path: Path, exported: bytes) -> None:
    file = tmp_path / "net.pt2"
    for content in (exported[:-30], exported[:2000], b"PK\x03\x04"):
        file.write_bytes(content)
        assert "no zip archive, or a damaged one" in refusal(file)
    file.write_bytes(pack({f"{number}": b"" for number in range(30_000)}))
    assert "no zip archive, or a damaged one" in refusal(file)
    file.write_bytes(pack({"models/model.json": b"{}"}))
    assert "no exported program" in refusal(file)


def test_a_description_that_is_no_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.keras"
    for content in (b"", b"[" * 10**6, b"nul"):
        file.write_bytes(pack({"config.json": content}))
        assert "config.json is no JSON" in refusal(file)
    file.write_bytes(pack({"config.json": b"[" * 3 * 10**6}))
    assert "config.json has more than" in refusal(file)


def test_what_is_no_file_of_a_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net"
    for content, message in (
        (b"", "no layers"),
        (pickle.dumps({"a": 1}), "it is a pickle, which can run code"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5 file is damaged"),
    ):
        file.write_bytes(content)
        assert message in refusal(file)
    for path in (tmp_path / "missing", tmp_path, Path("/dev/zero")):
        with pytest.raises(TrainingError, match="cannot read"):
            import_network(ImportOptions(file=path, output=tmp_path / "net.safetensors"))


# State dicts that are refused


class Trap:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("trap", "it holds more than a state dict of float32: posix mkdir"),
        (bytearray(5), "it holds more than a state dict of float32"),
        (torch.zeros(3, dtype=torch.float64), "torch DoubleStorage"),
        ([1, 2], "it holds more than a state dict: 'extra'"),
    ],
)
def test_more_than_tensors_is_refused_and_not_run(
    tmp_path: Path, state_dict: dict[str, Any], value: Any, message: str
) -> None:
    file, trap = tmp_path / "net.pt", tmp_path / "trap"
    value = Trap(trap) if value == "trap" else value
    torch.save({**state_dict, "extra": value}, file)
    assert message in refusal(file, layers=LENET_LAYERS, input_shape=(1, 28, 28))
    assert not trap.exists()


def test_what_a_file_says_is_shown_without_control_characters(
    tmp_path: Path, state_dict: dict[str, Any]
) -> None:
    file = tmp_path / "net.pt"
    torch.save(state_dict, file)
    members = unpack(file)
    (name,) = (name for name in members if name.endswith("data.pkl"))
    wrong = members[name].replace(b"OrderedDict\n", b"Ordered\x1b[2J\x0bDict\n")
    file.write_bytes(pack(members | {name: wrong}))
    message = refusal(file, layers=LENET_LAYERS, input_shape=(1, 28, 28))
    assert "Ordered\ufffd[2J Dict" in message


def test_a_tensor_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    torch.save({"a.weight": torch.zeros(1).expand(10**5, 10**5)}, file)
    assert "a.weight has more numbers than the file" in refusal(
        file, layers=("a",), input_shape=(10**5,)
    )


@pytest.mark.parametrize(
    ("words", "shape", "message"),
    [
        ("", (1, 28, 28), "name them in order with --layers"),
        ("conv1", (), "name them in order with --layers"),
        ("conv1 relu", (1, 28, 28), "--layers does not use conv2.bias, conv2.weight"),
        ("conv3", (1, 28, 28), "'conv3', which is neither a module of the state dict nor one of"),
        ("conv1", (3, 28, 28), "conv1 has weight of an unexpected shape, (6, 1, 5, 5)"),
        ("fc1", (1, 28, 28), "fc1: linear needs an input of 1 dimensions"),
        ("conv1:stride=0", (1, 28, 28), "conv1 has an impossible stride: 0"),
        ("conv1:size=2", (1, 28, 28), "conv1 has unknown size"),
        ("conv1:stride=two", (1, 28, 28), "whose settings are no numbers"),
        ("dropout", (1, 28, 28), "has a dropout rate that is not in [0, 1)"),
        ("max_pool2d", (1, 28, 28), "max_pool2d has an impossible value: 0"),
        ("max_pool2d:40", (1, 28, 28), "is larger than its input"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    tmp_path: Path,
    state_dict: dict[str, torch.Tensor],
    words: str,
    shape: tuple[int, ...],
    message: str,
) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(save(state_dict))
    assert message in refusal(file, layers=tuple(words.split()), input_shape=shape)


def test_safetensors_whose_tensors_overlap_are_refused(tmp_path: Path) -> None:
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        for name in ("a.weight", "a.bias")
    }
    text = json.dumps(header).encode()
    file = tmp_path / "net.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    assert "no safetensors file" in refusal(file, layers=("a",), input_shape=(1,))
