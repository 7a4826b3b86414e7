"""Engines compute a network's answers: deterministic logits, and the passes of MC dropout."""

import torch

from model.engines.device import DeviceEngine
from model.engines.protocol import Engine
from model.engines.relu_mlp import ReluMlpEngine
from model.errors import DeviceError
from model.literals import Precision
from model.network import MLP


def build_engine(network: MLP, device: str = "cpu", precision: Precision = "float32") -> Engine:
    """Builds the fastest engine for a device.

    Args:
        network: a network with ReLU activations; it is not changed.
        device: as torch names it: cpu, cuda, cuda:1.
        precision: of the products of the hidden stochastic layers.

    Raises:
        PrecisionError: the processor cannot compute in that precision.
        DeviceError: there is no such device.
        CheckpointError: the network has activations other than ReLU.
    """
    if device == "cpu":
        return ReluMlpEngine(network, precision)
    try:
        wanted = torch.device(device)
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            "there is no such device here; cuda needs a GPU and a CUDA build of torch"
        ) from error
    return DeviceEngine(network, wanted, precision)
