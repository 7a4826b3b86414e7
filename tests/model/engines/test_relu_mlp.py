"""The CPU engine: the bytes of 2,000 requests, and what it does about matrix libraries.

`python -m tests.model.engines.test_relu_mlp` prints the digests of all requests' answers, for the
test that compares them with another process.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model.arrays import Floats
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines import build_engine
from model.engines.relu_mlp import ReluMlpEngine
from model.errors import PrecisionError
from model.sampling.masks import Passes
from tests.model.engines.networks import (
    LAYER_SIZES,
    assert_all_digits_differ,
    digests_alone,
    digests_in_company,
    draw_images,
    draw_requests,
    make_network,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def digests_of_2000(cpu_engine: ReluMlpEngine) -> list[str]:
    return digests_alone(cpu_engine, draw_requests(2000))


def test_2000_requests_have_the_same_bytes_alone_and_in_any_company(
    cpu_engine: ReluMlpEngine, digests_of_2000: list[str]
) -> None:
    requests = draw_requests(2000)
    assert_all_digits_differ(requests, digests_of_2000)
    for seed in (2, 3):
        assert digests_in_company(cpu_engine, requests, seed=seed) == digests_of_2000


@pytest.mark.slow
def test_2000_requests_have_the_same_bytes_in_another_process(digests_of_2000: list[str]) -> None:
    command = [sys.executable, "-m", "tests.model.engines.test_relu_mlp"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stdout.split() == digests_of_2000


@pytest.mark.parametrize("layer_sizes", [(784, 512, 256, 128, 10), *LAYER_SIZES], ids=str)
@pytest.mark.parametrize("dependence", ["number of rows", "place of a row"])
def test_where_rows_do_vary_the_engine_finds_out_and_still_repeats_its_bytes(
    dependence: str, layer_sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix libraries whose low bits depend on how many rows there are, or on which it is.

    Neither is made up: rows of odd widths lie in memory at other places within a vector.
    """

    def factors(left: Floats | torch.Tensor) -> Floats:
        places = np.arange(len(left))[:, None] % 16
        shift = places if dependence == "place of a row" else places + len(left)
        return (1 + 1e-6 * shift).astype(np.float32)

    matmul, mm = np.matmul, torch.mm

    def varying_matmul(left: Floats, weight: Floats, out: Floats) -> None:
        matmul(left, weight, out)
        out *= factors(left)

    def varying_mm(left: torch.Tensor, weight: torch.Tensor, *, out: torch.Tensor) -> None:
        mm(left, weight, out=out)
        out *= torch.from_numpy(factors(left))

    monkeypatch.setattr(np, "matmul", varying_matmul)
    monkeypatch.setattr(torch, "mm", varying_mm)
    engine = ReluMlpEngine(make_network(layer_sizes))
    assert not engine._shares_blocks
    requests = draw_requests(60)
    alone = digests_alone(engine, requests)
    assert digests_in_company(engine, requests, seed=2) == alone
    pixels = draw_images()[40]
    whole = engine.sample_probs(pixels, Passes(300, 9))
    for count in (1, 3, 50, 257):
        assert engine.sample_probs(pixels, Passes(count, 9)).tobytes() == whole[:count].tobytes()


def test_one_thread_multiplies_wherever_the_engine_is_used() -> None:
    code = (
        "import torch; from threadpoolctl import threadpool_info;"
        "from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint;"
        "from model.engines.relu_mlp import ReluMlpEngine;"
        "ReluMlpEngine(load_checkpoint(DEFAULT_CHECKPOINT).network);"
        "print({x['num_threads'] for x in threadpool_info() if x['user_api'] == 'blas'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() in ("{1}", "set()"), done.stderr  # empty: a library it cannot see


def test_a_processor_without_bfloat16_products_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(PrecisionError, match="use float32"):
        build_engine(make_network((784, 20, 10)), "cpu", "bfloat16")


def main() -> None:
    """Prints the digests of all requests' answers, alone, by a new engine."""
    torch.set_num_threads(1)
    engine = ReluMlpEngine(load_checkpoint(DEFAULT_CHECKPOINT).network)
    sys.stdout.write("\n".join(digests_alone(engine, draw_requests(2000))))


if __name__ == "__main__":
    main()
