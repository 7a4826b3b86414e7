"""The CPU engine: the bytes of 2,000 requests.

`python -m tests.model.engines.test_relu_mlp` prints the digests of all requests' answers, for the
test that compares them with another process.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines.relu_mlp import ReluMlpEngine
from tests.model.engines.networks import (
    assert_all_digits_differ,
    digests_alone,
    digests_in_company,
    draw_requests,
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


def test_one_thread_multiplies_wherever_the_engine_is_used() -> None:
    code = (
        "from threadpoolctl import threadpool_info;"
        "from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint;"
        "from model.engines.relu_mlp import ReluMlpEngine;"
        "ReluMlpEngine(load_checkpoint(DEFAULT_CHECKPOINT).network);"
        "print({x['num_threads'] for x in threadpool_info() if x['user_api'] == 'blas'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() in ("{1}", "set()"), done.stderr  # empty: a library it cannot see


def main() -> None:
    """Prints the digests of all requests' answers, alone, by a new engine."""
    engine = ReluMlpEngine(load_checkpoint(DEFAULT_CHECKPOINT).network)
    sys.stdout.write("\n".join(digests_alone(engine, draw_requests(2000))))


if __name__ == "__main__":
    main()
