"""Engines compute a network's answers: deterministic logits, and the passes of MC dropout."""

from model.compiling import compile_all
from model.engines.protocol import Engine
from model.engines.relu_mlp import ReluMlpEngine
from model.errors import DeviceError, PrecisionError
from model.layered import LayeredNetwork, as_mlp
from model.literals import Precision
from model.network import MLP


def build_engine(
    network: MLP | LayeredNetwork, device: str = "cpu", precision: Precision = "float32"
) -> Engine:
    """Builds the fastest engine for a network and a device.

    The compiled engine computes every `MLP`, and what `as_mlp` makes one of, on the CPU. All else
    needs torch.

    Args:
        network: the network; it is not changed.
        device: as torch names it: cpu, cuda, cuda:1.
        precision: of the products of the hidden stochastic layers.

    Raises:
        PrecisionError: bfloat16 without CUDA.
        DeviceError: there is no such device, or torch is not installed.
        CheckpointError: the network has no dropout, and is no MLP.
    """
    if precision == "bfloat16" and not device.startswith("cuda"):
        raise PrecisionError("only CUDA devices compute in bfloat16; use float32")
    if isinstance(network, LayeredNetwork):
        network = as_mlp(network) or network
    if device == "cpu" and isinstance(network, MLP):
        return ReluMlpEngine(network)
    try:
        from model.engines.sequential import SequentialEngine, as_sequential
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise DeviceError(
            "devices other than cpu, and layers other than an MLP's, need torch, which is not "
            "installed: pip install 'dropserve[torch]'"
        ) from error
    compile_all()  # what prepares pictures and draws masks
    shape = (
        network.config.input.shape
        if isinstance(network, LayeredNetwork)
        else (1, *network.config.input_shape)
    )
    return SequentialEngine(as_sequential(network), device, precision, input_shape=shape)
