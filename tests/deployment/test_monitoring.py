"""The dashboard and the alert rules query metrics that exist: Prometheus itself answers each query.

Debian's package `prometheus` has both programs that this needs; without them, only the names and
labels in the queries are compared with the metrics of a server.
"""

import json
import math
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.checkpoint import Checkpoint, save_checkpoint
from model.literals import ENTROPY_BOUNDS
from tests.app.telemetry.prometheus_text import Scrape
from tests.conftest import ROOT, RunningServer, ServerStarter, sample
from tests.training.measure_operating_points import COVERAGE_POWER

pytestmark = pytest.mark.slow

DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
RULES = ROOT / "deploy" / "prometheus-alerts.yaml"
RULE_TESTS = Path(__file__).parent / "alerts_test.yaml"
PATIENCE_SECONDS = 60.0
# What Prometheus adds to every series.
_ITS_OWN = {"job", "instance", "le"}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="no prometheus here (Debian: apt-get install prometheus)",
)


def dashboard_queries() -> dict[str, str]:
    """Each query of the dashboard, by where it is, with its variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        f"{panel['title']}, {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$job", "dropserve")
        for panel in panels
        for target in panel.get("targets", [])
    }


def alert_queries() -> dict[str, str]:
    """The expression of each alert."""
    rules = re.split(r"^ *- alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for rule in rules:
        match = re.search(r"expr: (?:>-)?(.*?)^ +(?:for|labels):", rule, re.DOTALL | re.MULTILINE)
        assert match, rule
        found[rule.split()[0]] = " ".join(match[1].split())
    return found


@pytest.fixture(scope="module")
def server(
    servers: ServerStarter,
    default_checkpoint: Checkpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunningServer:
    """With all that can be counted: feedback, and a checkpoint with a reference for drift."""
    histogram = {
        "bounds": list(ENTROPY_BOUNDS),
        "predict": [0.5] * len(ENTROPY_BOUNDS),
        "mc": [0.5] * len(ENTROPY_BOUNDS),
    }
    calibration = {**default_checkpoint.calibration, "entropy_histogram": histogram}
    path = tmp_path_factory.mktemp("checkpoint") / "mnist.safetensors"
    save_checkpoint(path, replace(default_checkpoint, calibration=calibration))
    return servers.start(
        *("--workers", "2", "--max-wait-ms", "1", "--checkpoint", str(path)),
        environ={"DROPSERVE_FEEDBACK_SECRET": "a secret of the tests"},
    )


def ask_all(http: httpx.Client) -> None:
    """Causes something of everything that is counted."""
    seven, doubtful, nothing = map(sample, ("7.png", "doubtful.png", "not_a_digit.png"))
    for picture in (seven, doubtful, nothing):
        http.post("/predict", content=picture)
        http.post("/predict/mc", content=picture)
    token = http.post("/predict", content=seven).headers["x-feedback-token"]
    http.post("/feedback", json={"token": token, "label": 7})
    http.post("/predict/mc?passes=1000&max_standard_error=0.05", content=seven)
    http.post("/predict/mc?passes=1000&timeout_ms=1", content=seven)
    http.post("/predict/mc/batch", files=[("file", seven), ("file", b"no image")])
    http.post("/predict", content=b"no image")
    http.get("/nowhere")
    host, port = http.base_url.host, http.base_url.port
    with socket.create_connection((host, port or 80), PATIENCE_SECONDS) as connection:
        connection.sendall(b"no http\r\n\r\n")
        connection.recv(4096)
    # More requests at a time than are admitted.
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: http.post("/predict/mc?passes=1000", content=seven), range(8)))


def test_queries_name_metrics_that_exist(server: RunningServer) -> None:
    with httpx.Client(base_url=server.address, timeout=PATIENCE_SECONDS) as http:
        ask_all(http)
        seen = Scrape.of(http.get("/metrics"))
    labels: dict[str, set[str]] = {}
    for name, pairs in seen.samples:
        labels.setdefault(name, set()).update(label for label, _ in pairs)

    queries = dashboard_queries() | alert_queries()
    assert len(queries) > 25
    for query in queries.values():
        names = set(re.findall(r"\bdropserve_\w+", query))
        assert names <= labels.keys(), query
        grouped = re.findall(r"(?:by|ignoring|on) \(([^)]*)\)", query)
        asked = {label.strip() for group in grouped for label in group.split(",")}
        for name in names:
            for matchers in re.findall(rf"{name}{{([^}}]*)}}", query):
                asked_here = set(re.findall(r"(\w+)=", matchers))
                assert asked_here <= labels[name] | _ITS_OWN, query
        assert asked <= set().union(*(labels[name] for name in names)) | _ITS_OWN, query


def test_every_alert_has_a_summary_and_every_panel_says_what_it_shows() -> None:
    text = RULES.read_text()
    assert text.count("- alert:") == text.count("summary:") == text.count("severity:")
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        assert panel["type"] == "row" or panel["description"]


def test_the_alert_and_the_dashboard_expect_errors_as_the_pages_measure_them() -> None:
    queries = dashboard_queries() | alert_queries()
    powers = re.findall(r"accepted_confidence.* \^ ([\d.]+)", "\n".join(queries.values()))
    assert [float(power) for power in powers] == [COVERAGE_POWER] * 2


@needs_prometheus
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    tests = tmp_path / "tests.yaml"
    tests.write_text(RULE_TESTS.read_text().replace("RULES", str(RULES)))
    command = ["promtool", "test", "rules", str(tests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_promtool_accepts_the_metrics(server: RunningServer) -> None:
    with httpx.Client(base_url=server.address, timeout=PATIENCE_SECONDS) as http:
        ask_all(http)
        text = http.get("/metrics").text
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.fixture(scope="module")
def prometheus(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """Prometheus, after some scrapes of the server."""
    folder = tmp_path_factory.mktemp("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:{1}".format(*free.getsockname())
    target = server.address.removeprefix("http://")
    (folder / "prometheus.yml").write_text(
        f"""
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [{RULES}]
scrape_configs:
  - job_name: dropserve
    static_configs: [{{targets: ["{target}"]}}]
"""
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        with (
            httpx.Client(base_url=f"http://{address}", timeout=PATIENCE_SECONDS) as client,
            httpx.Client(base_url=server.address, timeout=PATIENCE_SECONDS) as http,
        ):
            _wait_for(client, process, folder / "log")
            # Twice: of a series that was not there before, the first number is no increase yet.
            for _ in range(2):
                ask_all(http)
                _wait_for_scrapes(client, 2)
            yield client
    finally:
        process.kill()
        process.wait()


def _wait_for(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if client.get("/-/ready").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)


def _wait_for_scrapes(client: httpx.Client, more: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    query = "sum(count_over_time(dropserve_worker_starts_total[10m]))"
    wanted = sum(answer(client, query)) + more
    while sum(answer(client, query)) < wanted:
        assert time.monotonic() < deadline, "the server is not scraped"
        time.sleep(0.1)


def answer(prometheus: httpx.Client, query: str) -> list[float]:
    response = prometheus.get("/api/v1/query", params={"query": query})
    body: dict[str, Any] = response.json()
    assert body["status"] == "success", (query, body)
    return [float(series["value"][1]) for series in body["data"]["result"]]


@needs_prometheus
@pytest.mark.parametrize("panel", dashboard_queries())
def test_each_query_of_the_dashboard_has_an_answer(prometheus: httpx.Client, panel: str) -> None:
    values = answer(prometheus, dashboard_queries()[panel])

    assert values
    assert all(math.isfinite(value) and value >= 0 for value in values)
    if panel.split(",")[0] not in ("Queue", "Workers"):
        assert any(values)


@needs_prometheus
@pytest.mark.parametrize("alert", alert_queries())
def test_each_alert_queries_metrics_that_exist(prometheus: httpx.Client, alert: str) -> None:
    # As it is it has no answer while all is well: with `bool` it says 0.
    query = re.sub(r" (>|==) ([\d.]+)$", r" \1 bool \2", alert_queries()[alert])
    assert "bool" in query

    assert answer(prometheus, query)
