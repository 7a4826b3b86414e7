"""Every kind of engine that the tests compare."""

import torch

from model.engines import build_engine
from model.engines.protocol import Engine
from model.engines.sequential import SequentialEngine, as_sequential
from model.literals import Precision
from model.network import MLP

Kind = tuple[str, Precision]
KINDS: list[Kind] = [
    ("cpu", "float32"),
    ("other device", "float32"),  # what other devices do, on the CPU
    ("other device", "bfloat16"),
]
if torch.cuda.is_available():
    KINDS += [("cuda", "float32"), ("cuda", "bfloat16")]


def build(kind: Kind, network: MLP) -> Engine:
    where, precision = kind
    if where == "other device":
        return SequentialEngine(as_sequential(network), "cpu", precision)
    return build_engine(network, where, precision)
