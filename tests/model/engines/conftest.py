"""Every kind of engine, as fixtures."""

import pytest

from model.checkpoint import Checkpoint
from model.engines.protocol import Engine
from model.engines.relu_mlp import ReluMlpEngine
from tests.model.engines.kinds import KINDS, Kind, build


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="module")
def engine(kind: Kind, one_thread: None, default_checkpoint: Checkpoint) -> Engine:
    return build(kind, default_checkpoint.network)


@pytest.fixture(scope="module")
def cpu_engine(one_thread: None, default_checkpoint: Checkpoint) -> ReluMlpEngine:
    return ReluMlpEngine(default_checkpoint.network)
