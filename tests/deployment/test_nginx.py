"""Behind a real nginx, below a path of its site: all that the server has works there, too."""

from collections.abc import Iterator

import httpx
import pytest

from app.client import DropserveClient
from tests.conftest import RunningServer, assert_error, sample
from tests.deployment.nginx import nginx_before

pytestmark = pytest.mark.slow

PREFIXES = ["/digits", "/plain"]


@pytest.fixture(scope="module")
def site(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        nginx_before(server.address, tmp_path_factory.mktemp("nginx")) as address,
        httpx.Client(base_url=address, timeout=30, trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "path", ["/predict", "/predict/mc?seed=1", "/predict/mc/stream?seed=1&passes=64"]
)
def test_answers_and_streams_have_the_bytes_that_the_server_sends(
    site: httpx.Client, server: RunningServer, prefix: str, path: str
) -> None:
    behind = site.post(prefix + path, content=sample("7.png"))
    direct = httpx.post(server.address + path, content=sample("7.png"), trust_env=False)

    assert (behind.status_code, behind.content) == (200, direct.content)
    assert behind.headers["content-type"] == direct.headers["content-type"]


def test_the_client_takes_the_path_as_part_of_the_address(site: httpx.Client) -> None:
    with DropserveClient(f"{site.base_url}/digits") as client:
        assert client.predict(sample("7.png")).digit == 7
        *_, last = client.predict_mc_stream(sample("7.png"), seed=1)
        assert last.raw == client.predict_mc(sample("7.png"), seed=1).raw


def test_errors_have_their_shape_there(site: httpx.Client) -> None:
    assert_error(site.get("/digits/nowhere"), 404, "not_found")
    too_large = site.post("/digits/predict", content=bytes(10 * 2**20 + 1))
    assert_error(too_large, 413, "body_too_large")


def test_the_playground_is_found_without_the_last_slash(site: httpx.Client) -> None:
    answer = site.get("/digits", follow_redirects=True)

    assert (answer.url.path, answer.status_code) == ("/digits/", 200)
    assert "static/playground/page.js" in answer.text


def test_a_request_id_goes_through(site: httpx.Client) -> None:
    answer = site.get("/digits/health/live", headers={"x-request-id": "behind-nginx"})

    assert answer.headers["x-request-id"] == "behind-nginx"
