"""Engines compute a network's answers: deterministic logits, and the passes of MC dropout."""

from model.compiling import compile_all
from model.engines.protocol import Engine
from model.engines.relu_mlp import ReluMlpEngine
from model.errors import DeviceError, PrecisionError
from model.literals import Precision
from model.network import MLP


def build_engine(network: MLP, device: str = "cpu", precision: Precision = "float32") -> Engine:
    """Builds the fastest engine for a device; only devices other than the CPU need torch.

    Args:
        network: the network; it is not changed.
        device: as torch names it: cpu, cuda, cuda:1.
        precision: of the products of the hidden stochastic layers.

    Raises:
        PrecisionError: bfloat16 without CUDA.
        DeviceError: there is no such device, or torch is not installed.
    """
    if precision == "bfloat16" and not device.startswith("cuda"):
        raise PrecisionError("only CUDA devices compute in bfloat16; use float32")
    if device == "cpu":
        return ReluMlpEngine(network)
    try:
        from model.engines.sequential import SequentialEngine, as_sequential
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise DeviceError(
            "devices other than cpu need torch, which is not installed: "
            "pip install 'dropserve[torch]'"
        ) from error
    compile_all()  # what prepares pictures and draws masks
    return SequentialEngine(
        as_sequential(network), device, precision, input_shape=network.config.input_shape
    )
