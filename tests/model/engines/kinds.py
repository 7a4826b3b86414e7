"""Every kind of engine that the tests compare."""

import pytest
import torch

from model.engines import build_engine
from model.engines.device import DeviceEngine
from model.engines.protocol import Engine
from model.engines.relu_mlp import ReluMlpEngine
from model.errors import PrecisionError
from model.literals import Precision
from model.network import MLP

Kind = tuple[str, Precision]
KINDS: list[Kind] = [
    ("cpu", "float32"),
    ("cpu", "bfloat16"),
    ("rows vary", "float32"),  # as where a row's bits depend on the number of rows
    ("rows vary", "bfloat16"),
    ("other device", "float32"),  # what other devices do, on the CPU
    ("other device", "bfloat16"),
]
if torch.cuda.is_available():
    KINDS += [("cuda", "float32"), ("cuda", "bfloat16")]


def build(kind: Kind, network: MLP) -> Engine:
    where, precision = kind
    if where == "other device":
        return DeviceEngine(network, torch.device("cpu"), precision)
    try:
        engine = build_engine(network, "cpu" if where == "rows vary" else where, precision)
    except PrecisionError:
        pytest.skip("this processor has no bfloat16 products")
    if where == "rows vary":
        assert isinstance(engine, ReluMlpEngine)
        engine._shares_blocks = False
    return engine
