"""How passes are packed into blocks of rows, and that it changes no bit."""

import pytest

from model.engines.blocks import BLOCK_ROWS, LEAST_ROWS
from model.engines.protocol import PassRange
from model.engines.relu_mlp import ReluMlpEngine
from model.sampling.masks import Passes
from tests.model.engines.networks import digests_alone, draw_images, draw_requests, make_network

pytestmark = pytest.mark.usefixtures("one_thread")


def test_fixed_blocks_give_the_same_bytes_as_shared_blocks(
    cpu_engine: ReluMlpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cpu_engine._shares_blocks:
        pytest.skip("rows vary on this machine: fixed blocks are what is used")
    requests = draw_requests(100)
    alone = digests_alone(cpu_engine, requests)
    monkeypatch.setattr(cpu_engine, "_shares_blocks", False)
    assert digests_alone(cpu_engine, requests) == alone


@pytest.mark.parametrize("shares_blocks", [True, False])
@pytest.mark.parametrize("row_multiple", [1, 16])
def test_blocks_hold_every_requested_pass_once_and_in_order(
    shares_blocks: bool, row_multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ReluMlpEngine(make_network((784, 20, 10)))
    monkeypatch.setattr(engine, "_shares_blocks", shares_blocks)
    monkeypatch.setattr(engine, "_row_multiple", row_multiple)
    (image,) = engine.prepare([draw_images()[40]], [Passes(1000, 0)])
    bounds = [(0, 1), (3, 3), (7, 300), (250, 260), (0, 256), (255, 1000), (5, 20)]
    seen: list[list[int]] = [[] for _ in bounds]
    for block in engine._blocks([PassRange(image, *each) for each in bounds]):
        rows = [segment.rows for segment in block]
        assert sum(rows) <= BLOCK_ROWS
        assert min(rows) >= LEAST_ROWS
        assert all(n % row_multiple == 0 for n in rows)
        for segment in block:
            begin = segment.first + segment.skip
            seen[segment.answer] += range(begin, begin + segment.size)
            assert segment.size <= segment.rows - segment.skip
    assert seen == [list(range(start, stop)) for start, stop in bounds]


def test_without_shared_blocks_a_pass_is_always_in_the_same_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ReluMlpEngine(make_network((784, 20, 10)))
    monkeypatch.setattr(engine, "_shares_blocks", False)
    (image,) = engine.prepare([draw_images()[40]], [Passes(1000, 0)])
    for start, stop in ((0, 1), (7, 300), (255, 1000)):
        for (segment,) in engine._blocks([PassRange(image, start, stop)]):
            assert segment.first % BLOCK_ROWS == 0
            assert segment.rows == BLOCK_ROWS
