"""Ray Serve with two replicas, compared with two plain workers: bytes, rates, a killed replica.

`python -m tests.load.ray_serve` needs the extra `.[ray]`, and runs in a network namespace with only
the loopback interface. It serves `deploy/ray/serve.yaml`, compares the seeded answers of native and
V2 routes with those of one plain server, measures the rates, and kills a replica under load;
`--haproxy` uses HAProxy instead of Ray's own proxy. It takes about two minutes.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from app.api.examples import example_png_base64
from app.cli.machine import describe_machine
from tests.isolation import ISOLATED
from tests.load.processes import descendants_of
from tests.load.servers import ROOT, free_port, sample, serving
from tests.load.wrk import PNG, Wrk, require_wrk

REPLICAS = 2
SEEDS = range(1, 9)
PICTURES = ("7.png", "doubtful.png")
_ROUTES = ("/predict", "/predict/mc?seed=1")
# Most of a picture's time is decoding and finding the ink; a 28x28 PNG needs neither.
_CONTENTS = {"28x28 PNG": b64decode(example_png_base64()), "picture 7.png": sample("7.png")}
_IN_NAMESPACE = "--isolated"
_STARTING_SECONDS, _ENDING_SECONDS = 120.0, 60.0
_POLL_SECONDS = 0.1
# The load goes on for some time before and after the kill; another replica must come in time.
_BEFORE_SECONDS, _AFTER_SECONDS, _RECOVERY_SECONDS = 2.5, 10.0, 90.0


class Served(NamedTuple):
    """Seeded answers by request, and requests/s by route and content."""

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
                document = _v2_request(model, seed)
                response = client.post(f"/v2/models/{model}/infer", json=document)
                found[f"/v2 {model} {seed}"] = _body(response)
    return found


def _v2_request(model: str, seed: int) -> dict[str, Any]:
    ink = [255 if 300 < pixel < 320 + seed else 0 for pixel in range(784)]
    tensor = {"name": "pixels", "shape": [1, 784], "datatype": "UINT8", "data": ink}
    document: dict[str, Any] = {"id": "same", "inputs": [tensor]}
    if model == "mnist-mc":
        document["parameters"] = {"seed": seed}
    return document


def _body(response: httpx.Response) -> bytes:
    assert response.status_code == 200, response.text
    return response.content


def rates_of(address: str, connections: int, seconds: int) -> dict[str, float]:
    """Requests/s by route and content."""
    found = {}
    for route, (name, content) in itertools.product(_ROUTES, _CONTENTS.items()):
        url = f"{address}{route}"
        Wrk(url, connections, 1, bodies=[content]).result()  # uncounted: connections, caches
        result = Wrk(url, connections, seconds, bodies=[content]).result()
        assert not result.failed, result
        found[f"{route}, {name}"] = result.rate
    return found


class Kill(NamedTuple):
    """The effect of SIGKILL on a replica under load.

    Attributes:
        outcomes: number of requests by status, or by the error of the connection.
        load_seconds: duration of the load.
        seconds: from the kill until there were as many replicas as before.
    """

    outcomes: Mapping[str, int]
    load_seconds: float
    seconds: float


async def kill_one(address: str, pid: int, connections: int) -> Kill:
    """Kills a replica, and keeps sending until some time after another has replaced it."""
    outcomes: Counter[str] = Counter()

    async def keep_sending() -> None:
        while True:
            await asyncio.sleep(0)  # even if the connection is refused at once
            outcomes[await _outcome(client, f"{address}/predict/mc?seed=1")] += 1

    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        began = time.monotonic()
        tasks = [asyncio.create_task(keep_sending()) for _ in range(connections)]
        await asyncio.sleep(_BEFORE_SECONDS)
        before = replicas_under(pid)
        os.kill(min(before), signal.SIGKILL)
        killed = time.monotonic()
        while len(after := replicas_under(pid)) < REPLICAS or not after - before:
            assert time.monotonic() < killed + _RECOVERY_SECONDS, "no other replica"
            await asyncio.sleep(_POLL_SECONDS)
        recovered = time.monotonic()
        await asyncio.sleep(_AFTER_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ended = time.monotonic()
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        url = f"{address}/predict/mc?seed=1"
        afterwards = await asyncio.gather(*(_outcome(client, url) for _ in range(connections)))
    assert set(afterwards) == {"200"}, afterwards
    return Kill(outcomes, ended - began, recovered - killed)


async def _outcome(client: httpx.AsyncClient, url: str) -> str:
    try:
        response = await client.post(url, content=_CONTENTS["28x28 PNG"], headers=PNG)
    except httpx.TransportError as error:
        return type(error).__name__
    return str(response.status_code)


def replicas_under(pid: int) -> set[int]:
    """The processes that serve, among those that a process has started."""
    found = set()
    for child in descendants_of(pid):
        with suppress(OSError):  # it has ended
            if b"ServeReplica:" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(child)
    return found


@contextmanager
def ray_serve(port: int, *, haproxy: bool) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs the project's own configuration with two replicas on a port."""
    config = yaml.safe_load(Path(ROOT, "deploy/ray/serve.yaml").read_text())
    config["http_options"]["port"] = port
    config["logging_config"] = {"enable_access_log": False}  # as of the plain workers
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
            print(log.read_text()[-4000:])
            raise
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(_ENDING_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def wait_until_ready(address: str, process: "subprocess.Popen[bytes]") -> float:
    """Waits until all replicas are ready, and returns the seconds."""
    began = time.monotonic()
    while time.monotonic() < began + _STARTING_SECONDS and process.poll() is None:
        try:
            is_ready = httpx.get(f"{address}/health/ready").is_success
        except httpx.HTTPError:
            is_ready = False
        if is_ready and len(replicas_under(process.pid)) == REPLICAS:
            return time.monotonic() - began
        time.sleep(_POLL_SECONDS)
    raise AssertionError("Ray Serve did not start")


def measure_plain(connections: int, seconds: int) -> Served:
    """Answers of one plain server, rates of two workers."""
    no_log = {"DROPSERVE_ACCESS_LOG": "off"}
    with serving(environ=no_log) as server:
        answers = answers_of(server.address)
    with serving("--workers", str(REPLICAS), environ=no_log) as server:
        return Served(answers, rates_of(server.address, connections, seconds))


def run(connections: int, seconds: int, *, haproxy: bool) -> bool:
    """Measures, prints, and returns whether all seeded answers had the same bytes."""
    print(f"{describe_machine()}; {connections} connections, {REPLICAS} replicas or workers")
    plain = measure_plain(connections, seconds)
    address = f"http://127.0.0.1:{(port := free_port())}"
    with ray_serve(port, haproxy=haproxy) as process:
        proxy = "HAProxy" if haproxy else "Ray's own proxy"
        print(f"Ray Serve, {proxy}: ready after {wait_until_ready(address, process):.0f} s")
        answers = answers_of(address)
        same = sum(answers[name] == body for name, body in plain.answers.items())
        print(f"bodies of the single server, byte for byte: {same} of {len(plain.answers)}")
        rates = rates_of(address, connections, seconds)
        for name, rate in rates.items():
            print(
                f"{name}: {rate:,.0f} requests/s; plain workers {plain.rates[name]:,.0f} "
                f"(ratio {rate / plain.rates[name]:.2f})"
            )
        kill = asyncio.run(kill_one(address, process.pid, connections))
        print(
            f"one replica killed: another after {kill.seconds:.1f} s; requests in "
            f"{kill.load_seconds:.0f} s by outcome {dict(kill.outcomes)}; all answered afterwards"
        )
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(_ENDING_SECONDS)
        print(
            f"ended {time.monotonic() - began:.1f} s after SIGINT, exit code {process.returncode}"
        )
    return same == len(plain.answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--haproxy", action="store_true")
    parser.add_argument(_IN_NAMESPACE, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.isolated:
        require_wrk()
        again = [sys.executable, "-m", "tests.load.ray_serve", *sys.argv[1:], _IN_NAMESPACE]
        os.execvp(ISOLATED[0], [*ISOLATED, *again])
    is_right = run(arguments.connections, arguments.seconds, haproxy=arguments.haproxy)
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
