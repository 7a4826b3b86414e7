"""A server in a process of its own, over a real connection: start, hint, large bodies, end."""

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.client import DropserveClient
from tests.app.process.addresses import has_ipv6
from tests.conftest import SAMPLES, RunningServer, ServerStarter, assert_error, sample

pytestmark = pytest.mark.slow

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=30) as client:
        yield client


def run(command: str) -> tuple[int, Any]:
    """Status and JSON that a curl command line gets, executed as a user would."""
    finished = subprocess.run(
        ["bash", "-c", command + " --silent --show-error --write-out '\\n%{http_code}'"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    body, status = finished.stdout.rsplit("\n", 1)
    return int(status), json.loads(body)


# What it prints


def test_it_listens_where_it_says_and_nowhere_else(server: RunningServer) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        socket.create_connection(("127.0.0.2", int(port)), timeout=5)


def test_the_docs_are_where_it_says(server: RunningServer, http: httpx.Client) -> None:
    response = http.get(f"{server.address}/docs")

    assert response.status_code == 200
    assert "swagger-ui" in response.text


@needs_curl
def test_the_curl_that_it_prints_is_answered(server: RunningServer) -> None:
    status, answer = run(server.curl)

    assert status == 200
    assert answer["confidence"] > 0.9
    assert len(answer["variance"]) == 10


@needs_curl
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_it_serves_at_an_address_of_ipv6(servers: ServerStarter) -> None:
    running = servers.start("--host", "::1")

    assert running.address.startswith("http://[::1]:")
    status, answer = run(running.curl)
    assert (status, len(answer["variance"])) == (200, 10)
    with DropserveClient(running.address) as client:
        assert client.predict(sample("7.png")).digit == 7


# Real clients


@needs_curl
def test_curl_sends_a_file(server: RunningServer) -> None:
    for form in ("--data-binary @", "--form file=@"):
        status, answer = run(f"curl {form}'{SAMPLES}/7.png' '{server.address}/predict/mc?seed=1'")

        assert (status, answer["digit"]) == (200, 7)


@needs_curl
def test_curl_with_t_is_answered_with_what_to_use_instead(server: RunningServer) -> None:
    status, answer = run(f"curl -T '{SAMPLES}/7.png' '{server.address}/predict'")

    assert (status, answer["error"]["code"]) == (405, "method_not_allowed")
    assert "--data-binary @" in answer["error"]["message"]


@needs_curl
@pytest.mark.parametrize("waits", ["100-continue", ""])
def test_curl_sees_that_its_file_is_too_large(
    server: RunningServer, tmp_path: Path, waits: str
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(20 * 2**20))

    status, answer = run(
        f"curl --data-binary @'{large}' -H 'Expect: {waits}' '{server.address}/predict'"
    )

    assert (status, answer["error"]["code"]) == (413, "body_too_large")


def pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield bytes(2**20)


@pytest.mark.parametrize("is_length_known", [True, False])
def test_a_client_that_reads_nothing_before_it_has_sent_all_sees_the_answer(
    server: RunningServer, is_length_known: bool
) -> None:
    # Such a client: httpx would find the answer behind a broken pipe.
    connection = HTTPConnection(server.address.removeprefix("http://"), timeout=30)
    with closing(connection):
        body = bytes(20 * 2**20) if is_length_known else pieces(20)
        connection.request("POST", "/predict", body, encode_chunked=not is_length_known)
        response = connection.getresponse()
        error = json.load(response)["error"]

    assert (response.status, error["code"]) == (413, "body_too_large")
    assert response.headers["connection"] == "close"


def test_httpx_sees_that_its_body_is_too_large_and_goes_on(http: httpx.Client) -> None:
    for body in (bytes(20 * 2**20), pieces(20)):
        assert http.post("/predict", content=body).status_code == 413
        assert http.post("/predict", content=sample("7.png")).json()["digit"] == 7


def take_photo() -> bytes:
    """A digit on grey paper with noise, 12 megapixels, as a phone would save it."""
    generator = np.random.default_rng(0)
    page = Image.new("L", (4000, 3000), 215)
    with Image.open(BytesIO(sample("3.png"))) as digit:
        ink = Image.eval(digit.resize((1500, 1500)), lambda value: 40 + value * 175 // 255)
    page.paste(ink, (1200, 700))
    noise = generator.integers(-20, 20, (3000, 4000, 3), dtype=np.int8, endpoint=True)
    noisy = np.asarray(page, dtype=np.int16)[:, :, None] + noise
    buffer = BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def test_a_phones_photo_passes(http: httpx.Client) -> None:
    photo = take_photo()
    assert 4_000_000 < len(photo) < 8_000_000

    for path in ("/predict", "/predict/mc?seed=1"):
        response = http.post(path, content=photo, headers={"content-type": "image/jpeg"})
        assert (response.status_code, response.json()["digit"]) == (200, 3)


def test_errors_have_their_shape_over_a_real_connection_too(http: httpx.Client) -> None:
    assert_error(http.post("/predict", content=b"text"), 415, "not_an_image")
    assert_error(http.get("/nowhere"), 404, "not_found")
    assert_error(http.get("/predict"), 405, "method_not_allowed")
    bad_seed = http.post("/predict/mc?seed=one", content=sample("7.png"))
    assert_error(bad_seed, 422, "invalid_parameter")


# Two processes


def test_two_processes_share_the_answers_of_a_seed_and_no_drawn_seed(
    servers: ServerStarter, http: httpx.Client
) -> None:
    other = servers.start()
    seeds: list[int] = []
    with httpx.Client(base_url=other.address, timeout=30) as there:
        for path in ("/predict", "/predict/mc?seed=7", "/predict/mc?seed=7&passes=300"):
            bodies = [
                client.post(path, content=sample("doubtful.png")).content
                for client in (http, there)
            ]
            assert bodies[0] == bodies[1]
        for client in (http, there):
            for _ in range(50):
                response = client.post("/predict/mc?passes=1", content=sample("1.png"))
                seeds.append(response.json()["seed"])
    assert len(set(seeds)) == 100

    code, errors = other.stop(signal.SIGTERM, within_seconds=10)
    assert code == 0
    assert "Traceback" not in errors


# The end


def test_ctrl_c_ends_it_at_once_with_its_code(servers: ServerStarter) -> None:
    running = servers.start()
    # A client that stays connected must not keep it.
    with httpx.Client(base_url=running.address) as client:
        assert client.get("/health/ready").status_code == 200

        code, errors = running.stop(signal.SIGINT, within_seconds=5)

    assert code == 130
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_named(servers: ServerStarter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = servers.open("--port", str(port))
        output, errors = process.communicate(timeout=60)

    assert (process.returncode, output) == (2, "")
    (line,) = errors.splitlines()
    assert f"port {port}: the port is in use" in line
    assert "--port" in line
