"""The headers of every answer, request ids, and the pages of other origins."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from app.api.application import create_app
from app.api.auth import key_line, make_key
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.conftest import assert_error, connect, sample

KEY = make_key()
PICTURE = sample("7.png")
ORIGIN = "https://page.example"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(key_line(KEY, "page"))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def asking(
    one_thread: None, default_checkpoint: Checkpoint, keys_file: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with keys and a page that may use it."""
    settings = Settings(api_keys_file=keys_file, cors_origins=(ORIGIN,))
    application = create_app(settings, default_checkpoint)
    async with application.router.lifespan_context(application), connect(application) as connected:
        yield connected


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# Foreign pages


def preflight(origin: str) -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }


async def test_a_page_that_is_named_may_ask(asking: httpx.AsyncClient) -> None:
    allowed = await asking.options("/predict", headers=preflight(ORIGIN))
    answer = await asking.post(
        "/predict", content=PICTURE, headers={"origin": ORIGIN, **bearer(KEY)}
    )
    refusal = await asking.post("/predict", content=PICTURE, headers={"origin": ORIGIN})

    assert allowed.status_code == 200
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert (answer.status_code, refusal.status_code) == (200, 401)
    for response in (allowed, answer, refusal):
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-credentials" not in response.headers
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("origin", ["https://other.example", "http://page.example", "null"])
async def test_other_pages_may_not(asking: httpx.AsyncClient, origin: str) -> None:
    refused = await asking.options("/predict", headers=preflight(origin))
    answer = await asking.post(
        "/predict", content=PICTURE, headers={"origin": origin, **bearer(KEY)}
    )

    assert refused.status_code == 400
    for response in (refused, answer):
        assert "access-control-allow-origin" not in response.headers


async def test_no_page_may_ask_unless_it_is_named(client: httpx.AsyncClient) -> None:
    for response in (
        await client.options("/predict", headers=preflight(ORIGIN)),
        await client.post("/predict", content=PICTURE, headers={"origin": ORIGIN}),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


# Headers of every answer


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/static/docs.js"),
        ("GET", "/model"),
        ("GET", "/nowhere"),
        ("GET", "/health/live"),
        ("GET", "/v2"),
        ("POST", "/predict"),
        ("POST", "/predict/mc/stream"),
        ("PUT", "/predict"),
    ],
)
async def test_every_answer_has_the_headers_once(
    client: httpx.AsyncClient, asking: httpx.AsyncClient, method: str, path: str
) -> None:
    for one in (client, asking):
        response = await one.request(method, path, content=PICTURE)

        names = [name for name, _ in response.headers.multi_items()]
        for name, value in (
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ):
            assert (names.count(name), response.headers[name]) == (1, value)
        assert names.count("content-security-policy") == 1
        assert "default-src 'none'" in response.headers["content-security-policy"]
        is_page = path in ("/", "/docs")
        assert ("script-src 'self'" in response.headers["content-security-policy"]) == is_page
        assert "server" not in names


async def test_an_unexpected_failure_has_them_too(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.predictions.read_image_request", None)

    response = await client.post("/predict", content=PICTURE)

    assert_error(response, 500, "internal")
    assert response.headers["x-content-type-options"] == "nosniff"


# Request ids


async def test_request_ids_differ_between_requests_and_routes(client: httpx.AsyncClient) -> None:
    ids = [
        (await client.post(path, content=PICTURE)).headers["x-request-id"]
        for path in ("/predict", "/predict/mc", "/nothing-here") * 20
    ]

    assert len(set(ids)) == len(ids)


async def test_an_api_key_is_no_request_id(client: httpx.AsyncClient) -> None:
    response = await client.post("/predict", content=PICTURE, headers={"x-request-id": KEY})

    assert response.status_code == 200
    assert response.headers["x-request-id"] != KEY


# Request ids

ANSWERED = ["/predict", "/predict/mc?seed=1"]


@pytest.mark.parametrize("given", ["a", "7d0c.A_b-c", "x" * 128])
async def test_a_valid_request_id_is_echoed_in_the_header_alone(
    client: httpx.AsyncClient, given: str
) -> None:
    for path in (*ANSWERED, "/health/live", "/docs"):
        method = "POST" if path in ANSWERED else "GET"
        content = sample("7.png") if path in ANSWERED else b""
        headers = {"x-request-id": given}
        response = await client.request(method, path, content=content, headers=headers)

        assert (response.status_code, response.headers["x-request-id"]) == (200, given)
        assert "request_id" not in response.text
        assert len(given) < 8 or given not in response.text


@pytest.mark.parametrize(
    "given", [None, "", "two words", "x" * 129, "<script>", "a,b", "tab\tbed", b"\xff", "new\u00e9"]
)
async def test_any_other_request_id_is_replaced(
    client: httpx.AsyncClient, given: str | bytes | None
) -> None:
    value = given.encode() if isinstance(given, str) else given
    headers: dict[bytes, bytes] = {} if value is None else {b"x-request-id": value}
    ids = set()
    for path, status in (("/predict", 200), ("/predict", 200), ("/nowhere", 404)):
        response = await client.post(path, content=sample("7.png"), headers=headers)
        assert response.status_code == status
        ids.add(response.headers["x-request-id"])

    assert len(ids) == 3
    assert all(len(one) == 32 and one.isalnum() for one in ids)
