"""The load commands, briefly: what they count must hold on any machine, however busy."""

import re
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import uvloop

from app.bench_servers import start_bench_app
from app.scoring.on_cores import usable_cores
from tests.conftest import ServerStarter, sample
from tests.load import (
    body_mutations,
    hostile_connections,
    large_batch,
    overload,
    price_of_doubt,
    same_bytes,
    schema_fuzz,
    soak,
)
from tests.load.price_of_doubt import Figures
from tests.load.v2_mutations import MutatedRequest, attack

pytestmark = pytest.mark.slow


def test_seeded_answers_have_the_same_bytes_alone_and_in_company(servers: ServerStarter) -> None:
    address = servers.start("--workers", "2", *same_bytes.NOTHING_REFUSED).address

    figures = uvloop.run(same_bytes.compare(address, 60))

    assert figures.different == 0
    statuses = {name.rpartition(" ")[2] for name in figures.others if name != "given up"}
    assert statuses <= {"200"}
    assert figures.others["given up"] > 0


def test_under_overload_every_answer_is_one_of_three(servers: ServerStarter) -> None:
    server = servers.start("--max-queued-passes", "16000")

    figures = uvloop.run(
        overload.measure(server.address, server.process.pid, 1.0, has_own_core=False)
    )

    for measurement in (figures.comfortable, figures.overloaded):
        assert set(measurement.latencies) <= overload.ALLOWED_OUTCOMES
        assert not measurement.failures
    assert figures.overloaded.latencies["200"]
    assert figures.overloaded.latencies["429 overloaded"]
    assert any(rate > 0 for rate in figures.recovery)


def test_a_batch_is_held_against_the_engine() -> None:
    with start_bench_app() as address:
        (one,) = large_batch.measure(address, usable_cores()[0], images=8, passes=5, rounds=1)

    assert one.batches.keys() == {"JSON", "form"}
    for form, seconds in one.batches.items():
        decoding = one.reading[form] + one.decoding
        assert one.ratio(form) == pytest.approx((seconds - decoding) / one.engine)
        assert one.ratio_with_reading(form) > one.ratio(form)


def a_rate(requests_per_second: float) -> Figures:
    return Figures(requests_per_second, 1.0, 0, 0)


def test_ratios_are_those_of_the_rounds() -> None:
    rounds = [
        {
            name: Figures(rate, 1.0, 0, 0)
            for name, rate in zip(price_of_doubt.TARGETS, rates, strict=True)
        }
        for rates in ((100.0, 50.0, 20.0), (400.0, 300.0, 150.0), (100.0, 60.0, 60.0))
    ]

    lines = list(price_of_doubt.describe(rounds))

    assert lines[-2] == "predict/constant: 0.500 0.750 0.600, median 0.600"
    assert lines[-1] == "mc/predict: 0.400 0.500 1.000, median 0.500"


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_measures_all_three_targets() -> None:
    with start_bench_app() as address:
        (figures,) = price_of_doubt.measure(
            address,
            [sample("7.png"), sample("doubtful.png")],
            passes=5,
            connections=2,
            seconds=1,
            rounds=1,
            core=None,
        )

    assert set(figures) == set(price_of_doubt.TARGETS)
    for one in figures.values():
        assert one.requests_per_second > 0
        assert (one.refused, one.failed) == (0, 0)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_sends_every_body(servers: ServerStarter, tmp_path: Path) -> None:
    bodies = [sample("7.png"), b"no image"]
    script = price_of_doubt.write_script(tmp_path, bodies, {"content-type": "image/png"})

    figures = price_of_doubt.run_wrk(f"{servers.start().address}/predict", script, 2, 1, None)

    assert figures.refused > 0
    assert figures.failed == 0


@pytest.mark.parametrize("mutated", [body_mutations.mutated_images, body_mutations.mutated_bodies])
def test_no_broken_body_breaks_the_server(
    servers: ServerStarter, mutated: Callable[[int], Iterator[MutatedRequest]]
) -> None:
    server = servers.start("--log-level", "warning")
    requests = islice(mutated(1), 700)

    seen = uvloop.run(attack(server, requests, 700, body_mutations.ALLOWED))

    assert not seen.broken()
    assert seen.outcomes["200"]
    assert seen.outcomes["400"] + seen.outcomes["415"] + seen.outcomes["422"] > 100


def test_whatever_follows_from_the_description_is_answered(
    servers: ServerStarter, tmp_path: Path
) -> None:
    server, key = schema_fuzz.start_guarded(servers, tmp_path)

    # Without the edges of every schema, which are over a thousand requests.
    options = ["--max-examples", "5", "--seed", "0", "--phases", "examples,fuzzing"]
    done = schema_fuzz.fuzz(server, key, tmp_path, options)

    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted is not None, done.stdout
    assert int(counted[1]) == int(counted[2]) > 50


def test_hostile_connections_are_refused_and_a_polite_client_is_served(
    servers: ServerStarter,
) -> None:
    server = servers.start("--log-level", "error", "--max-head-seconds", "1")
    attack = hostile_connections.Attack(
        seconds=4.0, connections=40, uploads=10, heads=10, garbage=10
    )

    figures = hostile_connections.measure(server, 0.5, attack)

    assert not figures.refused
    assert not figures.unexpected()
    for kind, (status,) in hostile_connections.EXPECTED.items():
        assert figures.outcomes[kind][status], kind
    assert figures.attacked


def test_a_soak_has_every_expected_answer(servers: ServerStarter) -> None:
    soaked = uvloop.run(soak.soak(servers.start(), 0.1, 2.0))

    assert not soaked.unexpected
    assert sum(sum(outcomes.values()) for outcomes in soaked.outcomes.values()) > 100
    assert len(soaked.memory) == len(soaked.files) >= 2
    assert max(soaked.files) == soaked.files[0]


def test_the_slope_of_memory_is_per_minute() -> None:
    growing = soak.Soaked(memory=[(minute, 100 + 2.0 * minute) for minute in (0, 1, 2, 3, 4.5)])

    assert growing.slope(0) == pytest.approx(2 * 2**20 / 1e6)
    assert growing.slope(4) == 0  # of one point there is none
