"""The choice of an engine for a device, and what is refused."""

from dataclasses import replace

import pytest
import torch

from model.engines import build_engine
from model.engines.device import DeviceEngine
from model.engines.relu_mlp import ReluMlpEngine
from model.errors import CheckpointError, DeviceError
from model.network import MLP
from tests.model.engines.kinds import KINDS
from tests.model.engines.networks import make_network


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to test besides the CPU")
def test_cuda_is_among_what_is_tested() -> None:
    assert ("cuda", "float32") in KINDS


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="no such device"):
        build_engine(make_network((784, 20, 10)), device)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_without_relu_is_refused(device: str) -> None:
    """The engine leaves out the units that a ReLU sets to 0, so it would give wrong answers."""
    config = replace(make_network((784, 20, 10)).config, activation="linear")
    with pytest.raises(CheckpointError, match="are linear, and only ReLU networks can be served"):
        build_engine(MLP(config), device)


def test_the_cpu_has_its_own_engine_and_every_other_device_the_general_one() -> None:
    network = make_network((784, 20, 10))
    assert isinstance(build_engine(network), ReluMlpEngine)
    assert isinstance(build_engine(network, "cpu:0"), DeviceEngine)
