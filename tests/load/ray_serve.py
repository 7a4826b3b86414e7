"""Ray Serve with two replicas beside two plain workers: the same bytes, a killed replica, the rate.

`python -m tests.load.ray_serve` needs the extra `.[ray]`, and runs in a network of its own, where
nothing but the loopback is. It serves `deploy/ray/serve.yaml`, compares what native and V2 routes
answer to seeds with what one plain server answers, kills a replica under load, and takes the rates;
`--haproxy` with HAProxy instead of Ray's own proxy. It takes about two minutes.
"""

import argparse
import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvloop
import yaml

from app.api.examples import example_png_base64
from app.cli.machine import describe_machine
from app.load_client import Measurement, post, run_closed_loop
from tests.conftest import ROOT, ServerStarter, sample
from tests.isolation import ISOLATED
from tests.load.overload import say
from tests.load.ports import free_port

REPLICAS = 2
SEEDS = range(1, 9)
PICTURES = ("7.png", "doubtful.png")
_ROUTES = ("/predict", "/predict/mc?seed=1")
# What a picture takes is mostly its decoding and the search for its ink; pixels take a network.
_CONTENTS = {"28x28 PNG": b64decode(example_png_base64()), "picture 7.png": sample("7.png")}
_IN_NAMESPACE = "--isolated"
_STARTING_SECONDS, _ENDING_SECONDS = 120.0, 60.0
_LOOKING_SECONDS = 0.1
# Of the load during which a replica is killed, at least; of its windows; until all must be well.
_KILL_SECONDS, _WINDOW_SECONDS, _RECOVERING_SECONDS = 15.0, 5.0, 90.0


class Served(NamedTuple):
    """What one server did."""

    answers: Mapping[str, bytes]
    rates: Mapping[str, float]


def answers_of(address: str) -> dict[str, bytes]:
    """The bodies of seeded requests, by name; each must be a 200."""
    found = {}
    with httpx.Client(base_url=address, timeout=30) as client:
        for picture in PICTURES:
            content = sample(picture)
            found[f"/predict {picture}"] = _body(client.post("/predict", content=content))
            for seed in SEEDS:
                response = client.post(f"/predict/mc?seed={seed}", content=content)
                found[f"/predict/mc {picture} {seed}"] = _body(response)
        for model in ("mnist", "mnist-mc"):
            for seed in SEEDS:
                asked = _v2_request(model, seed)
                response = client.post(f"/v2/models/{model}/infer", json=asked)
                found[f"/v2 {model} {seed}"] = _body(response)
    return found


def _v2_request(model: str, seed: int) -> dict[str, Any]:
    ink = [255 if 300 < pixel < 320 + seed else 0 for pixel in range(784)]
    tensor = {"name": "pixels", "shape": [1, 784], "datatype": "UINT8", "data": ink}
    asked: dict[str, Any] = {"id": "same", "inputs": [tensor]}
    if model == "mnist-mc":
        asked["parameters"] = {"seed": seed}
    return asked


def _body(response: httpx.Response) -> bytes:
    assert response.status_code == 200, response.text
    return response.content


async def rates_of(address: str, connections: int, seconds: float) -> dict[str, float]:
    """Requests a second, by what is asked."""
    found = {}
    for route, (name, content) in itertools.product(_ROUTES, _CONTENTS.items()):
        target = post(f"{address}{route}", [content], "image/png")
        await run_closed_loop(target, connections, 1.0)
        measurement = await run_closed_loop(target, connections, seconds)
        _require_successes(measurement)
        found[f"{route}, {name}"] = measurement.in_time / seconds
    return found


def _require_successes(measurement: Measurement) -> None:
    assert set(measurement.latencies) == {"200"}, sorted(measurement.latencies)
    assert not measurement.failures, measurement.failures


class Kill(NamedTuple):
    """What a kill -9 under load did.

    Attributes:
        outcomes: how many requests ended how.
        load_seconds: how long they were sent.
        seconds: from the kill until there were as many replicas as before.
    """

    outcomes: Mapping[str, int]
    load_seconds: float
    seconds: float


async def kill_one(address: str, pid: int, connections: int) -> Kill:
    """Kills a replica, and goes on asking until some time after another has its place."""
    target = post(f"{address}/predict/mc?seed=1", [_CONTENTS["28x28 PNG"]], "image/png")
    before = replicas_under(pid)
    killed = recovered = 0.0
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    while recovered == 0 or time.monotonic() < began + _KILL_SECONDS:
        load = asyncio.create_task(run_closed_loop(target, connections, _WINDOW_SECONDS))
        await asyncio.sleep(_WINDOW_SECONDS / 2)
        if killed == 0:
            os.kill(min(before), signal.SIGKILL)
            killed = time.monotonic()
        while not load.done():
            alive = replicas_under(pid)
            if recovered == 0 and len(alive) == REPLICAS and alive - before:
                recovered = time.monotonic()
            await asyncio.sleep(_LOOKING_SECONDS)
        measurement = await load
        outcomes.update({outcome: len(each) for outcome, each in measurement.latencies.items()})
        outcomes.update(measurement.failures)
        assert time.monotonic() < killed + _RECOVERING_SECONDS, "no other replica"
    _require_successes(await run_closed_loop(target, connections, _WINDOW_SECONDS))
    return Kill(outcomes, time.monotonic() - began, recovered - killed)


def replicas_under(pid: int) -> set[int]:
    """The processes below one that serve."""
    found = set()
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in map(int, children):
            if b"ServeReplica:" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(child)
            found |= replicas_under(child)
    except OSError:  # it has ended
        return found
    return found


@contextmanager
def ray_serve(port: int, *, haproxy: bool) -> Iterator["subprocess.Popen[bytes]"]:
    """The project's own config with two replicas, on a port."""
    config = yaml.safe_load(Path(ROOT, "deploy/ray/serve.yaml").read_text())
    config["http_options"]["port"] = port
    config["logging_config"] = {"enable_access_log": False}  # the plain workers have none, either
    (application,) = config["applications"]
    (deployment,) = application["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": REPLICAS, "max_replicas": REPLICAS}
    program = "from ray.serve.scripts import cli; cli()"
    environ = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    if haproxy:
        environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "serve.yaml", Path(folder) / "log"
        path.write_text(yaml.safe_dump(config))
        # A shell that runs this in the background lets Ctrl-C be ignored, which is inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", program, "run", str(path)],
                cwd=ROOT,
                env=environ,
                stdout=output,
                stderr=output,
            )
        try:
            yield process
        except BaseException:
            say(log.read_text()[-4000:])
            raise
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(_ENDING_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def wait_until_ready(address: str, process: "subprocess.Popen[bytes]") -> float:
    """Seconds until all replicas are there."""
    began = time.monotonic()
    while time.monotonic() < began + _STARTING_SECONDS and process.poll() is None:
        try:
            is_ready = httpx.get(f"{address}/health/ready").status_code == 200
        except httpx.HTTPError:
            is_ready = False
        if is_ready and len(replicas_under(process.pid)) == REPLICAS:
            return time.monotonic() - began
        time.sleep(_LOOKING_SECONDS)
    raise AssertionError("Ray Serve did not start")


def measure_plain(connections: int, seconds: float) -> Served:
    """Answers of one plain server, rates of two workers."""
    starter = ServerStarter()
    try:
        single = starter.start()
        answers = answers_of(single.address)
        single.stop(signal.SIGTERM, within_seconds=30)
        workers = starter.start("--workers", str(REPLICAS))
        return Served(answers, uvloop.run(rates_of(workers.address, connections, seconds)))
    finally:
        starter.end_all()


def run(connections: int, seconds: float, *, haproxy: bool) -> bool:
    """Prints what was found; whether all answers were as they must be."""
    say(f"{describe_machine()}; {connections} connections, {REPLICAS} replicas or workers")
    plain = measure_plain(connections, seconds)
    address = f"http://127.0.0.1:{(port := free_port())}"
    with ray_serve(port, haproxy=haproxy) as process:
        proxy = "HAProxy" if haproxy else "Ray's own proxy"
        say(f"Ray Serve, {proxy}: ready after {wait_until_ready(address, process):.0f} s")
        answers = answers_of(address)
        same = sum(answers[name] == body for name, body in plain.answers.items())
        say(f"bodies of the single server, byte for byte: {same} of {len(plain.answers)}")
        rates = uvloop.run(rates_of(address, connections, seconds))
        for asked, rate in rates.items():
            beside = plain.rates[asked]
            say(
                f"{asked}: {rate:,.0f} requests/s; plain workers {beside:,.0f} "
                f"(Ray {rate / beside:.2f} of them)"
            )
        kill = uvloop.run(kill_one(address, process.pid, connections))
        say(
            f"one replica killed: another after {kill.seconds:.1f} s; requests in "
            f"{kill.load_seconds:.0f} s by outcome {dict(kill.outcomes)}; all answered afterwards"
        )
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(_ENDING_SECONDS)
        say(f"ended {time.monotonic() - began:.1f} s after SIGINT, exit code {process.returncode}")
    return same == len(plain.answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--haproxy", action="store_true")
    parser.add_argument(_IN_NAMESPACE, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.isolated:
        again = [sys.executable, "-m", "tests.load.ray_serve", *sys.argv[1:], _IN_NAMESPACE]
        os.execvp(ISOLATED[0], [*ISOLATED, *again])
    is_right = run(arguments.connections, arguments.seconds, haproxy=arguments.haproxy)
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
