"""Every load script runs briefly; the tests assert only what holds on a busy machine, too."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import httpx
import pytest

from app.api.examples import example_digits
from app.process.signals import SIGHUP
from app.settings import Settings
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines import build_engine
from model.engines.protocol import sample_probs
from model.sampling.masks import Passes
from tests.load import (
    body_mutations,
    capacity,
    curves,
    hostile_connections,
    large_batch,
    model_changes,
    overload,
    own_networks,
    price_of_operating,
    same_bytes,
    schema_fuzz,
    soak,
    v2_rate,
)
from tests.load.constant_app import create_constant_app
from tests.load.rounds import Run, Target, describe
from tests.load.servers import ROOT, Server, sample, serving
from tests.load.v2_mutations import MutatedRequest, attack
from tests.load.wrk import IMAGES, MNIST_FORM, PICTURE, PNG, Load, Result, Wrk

pytestmark = pytest.mark.slow
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--log-level", "warning") as started:
        yield started


def test_no_script_needs_pytest() -> None:
    scripts = sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        # Schemathesis brings pytest, and Ray and yaml come with an extra.
        if not path.stem.startswith(("test_", "schema_", "ray_"))
    )
    assert "throughput" in scripts
    program = "import sys; sys.modules['pytest'] = None; import importlib\n" + "\n".join(
        f"importlib.import_module('tests.load.{name}')" for name in [*scripts, "peers.compare"]
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# wrk


@needs_wrk
def test_wrk_sends_every_body_and_counts_what_is_not_2xx(server: Server) -> None:
    found = Wrk(f"{server.address}/predict", 2, 1, bodies=[sample("7.png"), b"no image"]).result()

    # One of two connections may have sent one request more of either body.
    assert abs(found.answered - found.non_2xx) <= 2
    assert found.answered > 0
    assert found.unanswered == 0
    assert 0 < found.p50_ms <= found.p95_ms <= found.p99_ms


@needs_wrk
def test_a_url_that_does_not_answer_with_2xx_is_not_measured(server: Server) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="404 Not Found"):
        Wrk(f"{server.address}/nowhere", 1, 1)


@needs_wrk
def test_a_pause_slows_wrk_down(server: Server) -> None:
    found = Wrk(f"{server.address}/predict", 2, 1, pause_ms=50).result()

    assert 0 < found.rate < 80
    assert found.failed == 0


# The scripts


def a_run(rate: int, cpu_us: float) -> Run:
    return Run(Result(rate, 1.0, 1.0, 2.0, 3.0), cpu_us)


def test_ratios_are_medians_of_the_ratios_within_a_round() -> None:
    rounds = [
        {("constant", 4): a_run(a, 10.0), ("mc", 4): a_run(b, 40.0)}
        for a, b in ((100, 50), (400, 300), (100, 60))
    ]

    found = describe(rounds, list(rounds[0]), [("mc", "constant")])

    lines = [" ".join(line.split()) for line in found]
    assert lines[1] == "constant 4 100 (100-400) 1.00 2.00 3.00 10 none"
    assert lines[-1] == "mc/constant 4 0.600 (0.500-0.750) 0.250 (0.250-0.250)"


async def test_the_constant_is_the_body_that_was_put() -> None:
    transport = httpx.ASGITransport(create_constant_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://constant") as client:
        await client.put("/constant", content=b'{"digit":7}')
        for body in (b"", bytes(100_000)):
            response = await client.post("/constant", content=body)
            assert (response.status_code, response.content) == (200, b'{"digit":7}')
            assert response.headers["content-type"] == "application/json"


def test_costs_on_a_line_are_fitted_exactly() -> None:
    costs = capacity.fit(3e-4, [4e-4 + passes * 5e-6 for passes in capacity.FITTED_PASSES])

    assert (costs.fixed, costs.per_pass) == pytest.approx((4e-4, 5e-6))
    assert costs.workers(1000, 0) == 1  # 0.3 of a core
    assert costs.workers(1000, 100) == 2  # 0.9 of a core, at most 0.7 busy


@pytest.mark.parametrize(("unseen", "last"), [(1.0, "largest error 0%"), (1.3, "error 30%")])
def test_costs_predict_what_was_not_fitted(
    unseen: float, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    costs, answers = capacity.Costs(3e-4, 4e-4, 5e-6), 1000
    used = [answers * sum(costs.of(passes) for passes, _ in loops) for loops in capacity.POINTS]
    fitted = 1 + len(capacity.FITTED_PASSES)
    found = [
        (seconds if number < fitted else seconds * unseen, [answers] * len(loops))
        for number, (seconds, loops) in enumerate(zip(used, capacity.POINTS, strict=True))
    ]

    assert capacity.report({MNIST_FORM: [found] * 3, PICTURE: [found] * 2}) == (unseen == 1)

    printed = capsys.readouterr().out
    for image in IMAGES:
        (line, *_) = [line for line in printed.splitlines() if line.startswith(image)]
        assert line.split()[-6::2] == ["300", "400", "5.00"]
    assert last in printed


@needs_wrk
def test_the_capacity_of_a_server_is_its_processor_time_per_answer(server: Server) -> None:
    used, answers = capacity.load(server, PICTURE, [(0, 1), (10, 1)], 1, None)

    assert len(answers) == 2
    assert min(answers) > 0
    assert 0 < used < 2


@needs_wrk
def test_curves_have_a_rate_and_latencies_at_each_point(server: Server) -> None:
    keys = curves.points_of([1], [0, 10])
    pairs = [(0, 1), (50, 1), (0, 16), (10, 16)]
    assert keys == [(image, *pair) for image in IMAGES for pair in pairs]

    found = curves.measure_points(server, keys[::4], 1, 1, None)

    assert found.keys() == {(image, 0, 1) for image in IMAGES}
    for (one,) in found.values():
        assert one.rate > 0
        assert 0 < one.p50_ms <= one.p95_ms <= one.p99_ms


def test_curves_are_printed_and_drawn(tmp_path: Path) -> None:
    connections, passes = [1, 16], [0, 50, 1000]
    keys = curves.points_of(connections, passes)
    found = {
        key: [Result(round(scale / (1 + number)), 1.0, 1.0, 2.0, 3.0) for scale in (900, 1000)]
        for number, key in enumerate(keys)
    }

    lines = curves.describe(found, connections, passes).splitlines()
    curves.draw(found, connections, passes, tmp_path)

    once, thirds = ["950", "(900-1,000)", "1.00", "3.00"], ["316", "(300-333)", "1.00", "3.00"]
    assert lines[2].split() == ["1", *once, *thirds]
    assert lines[-1].split() == ["1000", "190", "(180-200)", "95", "(90-100)"]
    assert {path.name for path in tmp_path.iterdir()} == {"latency.svg", "passes.svg"}


@pytest.mark.parametrize(("rate", "is_enough"), [(90, True), (80, False)])
def test_the_price_of_operating_is_a_share_of_the_requests(rate: int, is_enough: bool) -> None:
    rates = {"predict on": 95, "predict off": 100, "mc on": rate, "mc off": 100}
    rounds = [{(name, 2): a_run(each, 10.0) for name, each in rates.items()}] * 3

    text, found = price_of_operating.report(rounds, 2)

    assert found == is_enough
    assert f"mc on/mc off 2 0.{rate}0 " in " ".join(text.split())


def test_both_servers_whose_price_is_compared_answer() -> None:
    with price_of_operating.both_servers(None, 50) as targets:
        assert answers_of(targets) == dict.fromkeys(targets, 200)
        assert len(targets) == 4
        logged_out = {
            name: Target(target.url, target.pid, headers=PNG) for name, target in targets.items()
        }
        refused = {name: 401 if name.endswith("on") else 200 for name in targets}
        assert answers_of(logged_out) == refused


def test_both_protocols_answer_what_is_compared(server: Server) -> None:
    targets = v2_rate.both_targets(server.address, server.pid)
    assert answers_of(targets) == {"native": 200, "V2": 200}


def answers_of(targets: Mapping[str, Target]) -> dict[str, int]:
    """The status of one request of each."""
    found = {}
    for name, target in targets.items():
        body = (target.bodies or [sample("7.png")])[0]
        headers = dict(target.headers or PNG)
        response = httpx.post(target.url, content=body, headers=headers, trust_env=False)
        found[name] = response.status_code
    return found


@needs_wrk
def test_under_overload_every_answer_is_one_of_three() -> None:
    kinds = {name: Load(f"/predict/mc?passes={name}") for name in ("500", "1000")}
    with serving("--max-wait-ms", "20") as server:
        figures = asyncio.run(overload.measure(server, overload.Overload(kinds, 10, 0.85), 1))

    found = figures.overloaded
    assert {outcome for _, outcome in found.latencies} <= overload.ALLOWED_OUTCOMES
    assert found.refused > 0
    assert all(found.answered[kind] > 0 for kind in kinds)
    assert any(one.work(figures.costs) > 0 for one in figures.recovery)


def test_what_answers_do_not_cost_is_spent_on_refusals() -> None:
    def a_round(answered: int, refused: int, used: float) -> overload.Round:
        return overload.Round(10, {"a": answered}, refused, 0, used, {}, {}, [])

    full, overloaded = a_round(900, 0, 9.0), a_round(720, 1000, 9.0)
    asked = overload.Overload({}, 10, 0.85)
    figures = overload.Figures(asked, {"a": 0.02}, {}, full, overloaded, [])

    assert figures.goodput() == figures.efficiency() == pytest.approx(0.8)
    assert figures.refusal_us() == pytest.approx(1800)


async def test_latencies_count_from_when_a_request_was_due() -> None:
    """While the server holds every answer back, requests are still due, and wait."""
    total, rate, arrived, last = 20, 100, 0, asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        await reader.readuntil(b"\r\n\r\n")
        arrived += 1
        if arrived == total:
            last.set()
        await last.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as slow:
        port = slow.sockets[0].getsockname()[1]
        latencies = await overload.send_at_rate(
            f"http://127.0.0.1:{port}", {"any": Load("/")}, rate, total / rate
        )

    assert latencies.keys() == {("any", "200")}
    waited = sorted(latencies["any", "200"])
    assert len(waited) == total
    assert all(seconds >= number / rate for number, seconds in enumerate(waited))


@pytest.mark.usefixtures("cores")
def test_a_batch_is_compared_with_the_engine(server: Server) -> None:
    core = min(os.sched_getaffinity(0))
    (one,) = large_batch.measure(server.address, core, images=8, passes=5, rounds=1)

    assert one.batches.keys() == {"JSON", "form"}
    for form, seconds in one.batches.items():
        assert one.ratio(form) == pytest.approx((seconds - one.decoding) / one.engine)


def test_seeded_answers_have_the_same_bytes_alone_and_in_company() -> None:
    with serving("--workers", "2", *same_bytes.NOTHING_REFUSED) as server:
        figures = asyncio.run(same_bytes.compare(server.address, 60))

    assert figures.different == 0
    statuses = {name.rpartition(" ")[2] for name in figures.others if name != "cancelled"}
    assert statuses <= {"200"}
    assert figures.others["cancelled"] > 0


@pytest.mark.parametrize("mutated", [body_mutations.mutated_images, body_mutations.mutated_bodies])
def test_no_broken_body_breaks_the_server(
    server: Server, mutated: Callable[[int], Iterator[MutatedRequest]]
) -> None:
    requests = islice(mutated(1), 700)

    seen = asyncio.run(attack(server.address, server.pid, requests, 700, body_mutations.ALLOWED))

    assert not seen.broken()
    assert seen.outcomes["200"]
    assert seen.outcomes["400"] + seen.outcomes["415"] + seen.outcomes["422"] > 100


def test_whatever_follows_from_the_description_is_answered(tmp_path: Path) -> None:
    # Without the edges of every schema, which are over a thousand requests.
    options = ["--max-examples", "5", "--seed", "0", "--phases", "examples,fuzzing"]
    done = schema_fuzz.fuzz(tmp_path, options)

    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted is not None, done.stdout
    assert int(counted[1]) == int(counted[2]) > 50


def test_hostile_connections_are_refused_and_a_polite_client_is_served() -> None:
    attack = hostile_connections.Attack(
        seconds=2.0, connections=40, halves=40, uploads=10, heads=10, garbage=10, pipelined=4
    )
    with serving("--log-level", "error", "--max-head-seconds", "1") as server:
        figures = hostile_connections.measure(server.address, server.pid, 0.5, attack)

    assert not figures.refused
    assert not figures.unexpected()
    for kind, statuses in hostile_connections.EXPECTED.items():
        assert statuses & figures.outcomes[kind].keys(), kind
    assert figures.attacked
    assert figures.health


def test_an_imported_network_has_the_engine_and_the_bits_of_the_committed_one() -> None:
    own, committed = (
        build_engine(network)
        for network in (own_networks.imported(), load_checkpoint(DEFAULT_CHECKPOINT).network)
    )
    assert type(own) is type(committed)
    for pixels in example_digits()[:5]:
        probs = sample_probs(own, pixels, Passes(50, 1))
        assert probs.tobytes() == sample_probs(committed, pixels, Passes(50, 1)).tobytes()


@pytest.mark.parametrize("rates", [(0, 0, 0.5), (0, 0.5, 0.5)])
def test_both_ways_of_lenet_that_are_compared_answer(rates: tuple[float, ...]) -> None:
    network, digits = own_networks.draw_lenet(*rates), example_digits()[:1]
    own_networks.answering(build_engine(network), digits)()
    ((variance, mean),) = own_networks.looping(network, digits)()

    assert mean.shape == variance.shape == (1, 10)
    assert float(mean.sum()) == pytest.approx(1, abs=1e-5)
    assert float(variance.max()) > 0  # or nothing was dropped


@pytest.mark.skipif(SIGHUP is None, reason="models are changed by a signal to the workers")
def test_loading_and_unloading_models_loses_no_request() -> None:
    found = model_changes.measure(rounds=1, connections=4)

    assert (found.lost, found.wrong) == (0, [])
    assert found.answered > 0
    assert len(found.seconds) == 4  # with the one that fails


def test_the_growth_of_memory_is_per_change_in_the_second_half() -> None:
    found = model_changes.Changed(memory=[100.0, 300.0, 310.0, 310.5, 311.0, 311.5])

    assert found.growth() == pytest.approx(0.5 * 2**20 / 1e6)


def test_a_soak_has_every_expected_answer() -> None:
    with serving() as server:
        soaked = asyncio.run(soak.soak(server, 0.05, 1.0))

    assert not soaked.unexpected
    assert sum(sum(outcomes.values()) for outcomes in soaked.outcomes.values()) > 100
    assert len(soaked.memory) == len(soaked.files) >= 2
    assert max(soaked.files) == soaked.files[0]


def test_the_slope_of_memory_is_per_minute() -> None:
    growing = soak.Soaked(memory=[(minute, 100 + 2.0 * minute) for minute in (0, 1, 2, 3, 4.5)])

    assert growing.slope(0) == pytest.approx(2 * 2**20 / 1e6)
    assert growing.slope(4) == 0  # one point has no slope
