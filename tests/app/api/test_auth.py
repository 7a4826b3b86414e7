"""API keys: what needs one, where one is taken, and the file of their digests."""

import logging
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from app.api.application import create_app
from app.api.auth import ApiKeys, key_line, make_key
from app.api.middleware import KEY_PREFIX
from app.api.routes import OPEN_ROUTES
from app.client import AsyncDropserveClient, RequestError
from app.settings import Settings, SettingsError
from model.checkpoint import Checkpoint
from tests.conftest import ServerStarter, assert_error, connect, sample

# Ids of tests hold keys, so that these must be the same in every process that collects them.
ALICE, BOB, WRONG = (KEY_PREFIX + letter * 43 for letter in "abw")
PICTURE = sample("7.png")


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    lines = ("# who may ask", "", key_line(ALICE, "alice"), key_line(BOB, "") + " # bob")
    path.write_text("\n".join(lines))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(
    one_thread: None, default_checkpoint: Checkpoint, keys_file: Path
) -> AsyncIterator[FastAPI]:
    """The application with keys."""
    settings = Settings(api_keys_file=keys_file)
    application = create_app(settings, default_checkpoint)
    async with application.router.lifespan_context(application):
        yield application


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def asking(guarded: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(guarded) as connected:
        yield connected


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# Keys


@pytest.mark.parametrize("key", [ALICE, BOB])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_every_key_is_let_in(asking: httpx.AsyncClient, key: str, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {key}"}

    response = await asking.post("/predict", content=PICTURE, headers=headers)

    assert (response.status_code, response.json()["digit"]) == (200, 7)


GUARDED = [
    ("POST", "/predict"),
    ("POST", "/predict/mc"),
    ("POST", "/predict/mc/stream"),
    ("POST", "/predict/batch"),
    ("POST", "/predict/mc/batch"),
    ("GET", "/model"),
    ("GET", "/metrics"),
    ("GET", "/nowhere"),
    ("PUT", "/predict"),
    ("GET", "/health/live/"),
    ("GET", "/docs/oauth2-redirect"),
]
NO_CREDENTIALS: list[dict[str, Any]] = [
    {},
    {"headers": bearer(WRONG)},
    {"headers": bearer(ALICE[:-1])},
    {"headers": bearer(ALICE + "a")},
    {"headers": bearer(sha256(ALICE.encode()).hexdigest())},
    {"headers": bearer("")},
    {"headers": {b"authorization": b"Bearer \xe4"}},
    {"headers": {"authorization": ALICE}},
    {"headers": {"authorization": f"Basic {ALICE}"}},
    # As long as "Bearer", before and behind it.
    {"headers": {"authorization": f"Apikey {ALICE}"}},
    {"headers": {"authorization": f"Secret {ALICE}"}},
    {"headers": [*bearer(WRONG).items(), *bearer(ALICE).items()]},
    {"headers": {"x-api-key": ALICE}},
    {"headers": {"cookie": f"authorization=Bearer {ALICE}"}},
    {"params": {"api_key": ALICE, "authorization": f"Bearer {ALICE}"}},
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("given", NO_CREDENTIALS, ids=range(len(NO_CREDENTIALS)))
async def test_no_key_a_wrong_one_or_one_in_the_wrong_place_is_refused(
    asking: httpx.AsyncClient, method: str, path: str, given: dict[str, Any]
) -> None:
    response = await asking.request(method, path, content=PICTURE, **given)

    error = assert_error(response, 401, "unauthorized")
    assert "Authorization: Bearer" in error["message"]
    assert response.headers["www-authenticate"] == 'Bearer realm="dropserve"'


async def test_a_key_in_the_body_is_none(asking: httpx.AsyncClient) -> None:
    for body in ({"api_key": ALICE}, {"authorization": f"Bearer {ALICE}"}):
        response = await asking.post("/predict", json={**body, "image": "AA=="})
        assert_error(response, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/models/mnist", "/v2/models/mnist/infer"])
async def test_the_protocols_routes_refuse_in_its_own_shape(
    asking: httpx.AsyncClient, path: str
) -> None:
    refused = await asking.post(path, json={})
    accepted = await asking.get("/v2", headers=bearer(BOB))

    assert (refused.status_code, refused.json().keys()) == (401, {"error"})
    assert isinstance(refused.json()["error"], str)
    assert refused.headers["www-authenticate"]
    assert accepted.status_code == 200


@pytest.mark.parametrize("path", [*sorted(OPEN_ROUTES - {"/static"}), "/static/docs.js"])
async def test_health_and_the_pages_need_none(asking: httpx.AsyncClient, path: str) -> None:
    assert (await asking.get(path)).status_code == 200


async def test_what_is_open_is_open_wherever_the_application_is_mounted(guarded: FastAPI) -> None:
    async with connect(Starlette(routes=[Mount("/digits", guarded)])) as outer:
        health = await outer.get("/digits/health/live")
        model = await outer.get("/digits/model")

    assert health.status_code == 200
    assert_error(model, 401, "unauthorized")


async def test_no_detour_leads_from_the_open_to_the_guarded(asking: httpx.AsyncClient) -> None:
    # httpx resolves the first and the last; the other is no file of those that are served.
    for path, status, code in (
        ("/static/../model", 401, "unauthorized"),
        ("/static/%2e%2e/model", 404, "not_found"),
        ("/static//../../app/settings.py", 401, "unauthorized"),
    ):
        assert_error(await asking.get(path), status, code)


async def test_metrics_are_open_by_choice(
    default_checkpoint: Checkpoint, keys_file: Path, client: httpx.AsyncClient
) -> None:
    settings = Settings(api_keys_file=keys_file, metrics_need_key=False)
    without_keys = await client.get("/metrics")
    async with connect(create_app(settings, default_checkpoint)) as asking:
        assert (await asking.get("/metrics")).status_code == without_keys.status_code
        assert (await asking.get("/model")).status_code == 401
        described = (await asking.get("/openapi.json")).json()["paths"]
    assert "security" not in described["/metrics"]["get"]
    assert described["/model"]["get"]["security"]


async def test_without_a_file_no_key_is_asked_for(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    assert (await client.get("/model")).status_code == 200
    assert (await client.get("/model", headers=bearer(WRONG))).status_code == 200
    assert "securitySchemes" not in document["components"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert not any("401" in operation["responses"] for operation in operations)


async def test_the_description_says_what_needs_a_key(asking: httpx.AsyncClient) -> None:
    document = (await asking.get("/openapi.json")).json()

    scheme = document["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_guarded = path not in OPEN_ROUTES
            assert operation.get("security") == ([{"key": []}] if is_guarded else None), path
            assert ("401" in operation["responses"]) == is_guarded, path


async def test_a_key_is_never_repeated_anywhere(
    asking: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for key in (ALICE, WRONG):
            places: list[dict[str, Any]] = [
                {"headers": bearer(key)},
                {"headers": {"x-api-key": key}},
                {"params": {"api_key": key}},
            ]
            for given in places:
                for method, path in GUARDED:
                    response = await asking.request(method, path, content=PICTURE, **given)
                    said += [response.text, str(response.headers)]
        # An unexpected failure, with its traceback in the log.
        monkeypatch.setattr("app.api.predictions.read_image_request", None)
        response = await asking.post("/predict", content=PICTURE, headers=bearer(ALICE))
        assert response.status_code == 500
        said += [response.text, str(response.headers)]
        metrics = await asking.get("/metrics", headers=bearer(ALICE))
    # Not what the test's own client says.
    records = [one for one in caplog.records if not one.name.startswith(("httpx", "httpcore"))]
    logged = [caplog.handler.format(one) for one in records]
    said += [metrics.text, *logged]
    assert "Traceback" in "".join(logged)
    for key in (ALICE, WRONG):
        for secret in (key, key[10:40], sha256(key.encode()).hexdigest()):
            assert not any(secret in text for text in said)


@pytest.mark.slow
def test_a_server_writes_a_line_for_each_request_and_no_key(
    servers: ServerStarter, keys_file: Path
) -> None:
    options = {
        "--api-keys-file": str(keys_file),
        "--access-log": "on",
        "--log-level": "debug",
        "--log-format": "console",
    }
    server = servers.start(*(part for option in options.items() for part in option))
    said = ""
    for key in (ALICE, WRONG):
        for place in ("authorization", "x-api-key", "x-request-id", "referer"):
            for path in ("/predict", f"/nowhere/{key}", f"/predict?key={key}", "/metrics"):
                headers = {place: f"Bearer {key}" if place == "authorization" else key}
                response = httpx.post(server.address + path, content=PICTURE, headers=headers)
                said += response.text + str(response.headers)
    said += httpx.get(server.address + "/metrics", headers=bearer(ALICE)).text
    code, errors = server.stop(signal.SIGTERM, within_seconds=10)

    assert code == 0
    assert errors.count(" unauthorized, ") == 28
    assert errors.count(" ms") == 33
    said += errors
    for key in (ALICE, WRONG):
        assert key not in said
        assert sha256(key.encode()).hexdigest() not in said


# The file


def later(path: Path, content: str, keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes the file, and lets the time pass in which it is not looked at."""
    path.write_text(content)
    now = time.monotonic()
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    monkeypatch.setattr("app.api.auth.time.monotonic", lambda: now + 10)


def test_a_changed_file_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(key_line(ALICE, "alice"))
    keys = ApiKeys(path)
    assert (keys.admits(ALICE.encode()), keys.admits(BOB.encode())) == (True, False)

    later(path, key_line(BOB, "bob"), keys, monkeypatch)

    with caplog.at_level(logging.INFO, logger="dropserve"):
        assert (keys.admits(ALICE.encode()), keys.admits(BOB.encode())) == (False, True)
    assert caplog.messages == ["API keys: 1"]


def test_the_file_is_looked_at_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "keys", [1000.0]
    path.write_text(key_line(ALICE, "alice"))
    monkeypatch.setattr("app.api.auth.time.monotonic", lambda: now[0])
    keys = ApiKeys(path)
    path.unlink()

    now[0] += 0.99
    assert keys.admits(ALICE.encode())
    now[0] += 0.01
    assert not keys.admits(ALICE.encode())


def make_unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_it_endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "comments": lambda path: path.write_text("# nobody\n"),
    "a key": lambda path: path.write_text(ALICE),
    "no digest": lambda path: path.write_text("ab  alice\n"),
    "gone": Path.unlink,
    "unreadable": make_unreadable,
    "pipe": make_a_pipe,
    "endless": make_it_endless,
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_cannot_be_used_any_more_admits_nobody_and_says_why_once(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, now = tmp_path / "keys", [time.monotonic()]
    path.write_text(key_line(ALICE, "alice"))
    keys = ApiKeys(path)
    monkeypatch.setattr("app.api.auth.time.monotonic", lambda: now[0])

    UNUSABLE[kind](path)
    for _ in range(2):
        now[0] += 10
        assert not keys.admits(ALICE.encode())
        (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert ALICE not in caplog.text

    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.write_text(key_line(ALICE, "alice"))
    now[0] += 10
    assert keys.admits(ALICE.encode())


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\xef\xbb\xbf# keys\r\n"])
def test_a_byte_order_mark_does_not_matter(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(start + key_line(ALICE, "alice").encode())

    assert ApiKeys(path).admits(ALICE.encode())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "no API keys"),
        (b"# nobody\n\n", "no API keys"),
        (b"\xff\xfe", "not text in UTF-8"),
        (key_line(ALICE, "").encode("utf-16"), "not text in UTF-8"),
        (ALICE.encode(), "line 1 "),
        (key_line(ALICE, "").encode() + b"\nalice\n", "line 2 "),
        (b"g" * 64, "line 1 "),
    ],
)
def test_a_file_without_keys_is_refused_at_start(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SettingsError, match=reason) as caught:
        create_app(Settings(api_keys_file=path))

    assert ALICE not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_of_up_to_a_mebibyte_is_read(tmp_path: Path) -> None:
    path, line = tmp_path / "keys", key_line(ALICE, "alice") + "\n"
    path.write_text(line.ljust(2**20, "#"))
    assert ApiKeys(path).admits(ALICE.encode())

    path.write_text(line.ljust(2**20 + 1, "#"))
    with pytest.raises(SettingsError, match="more than 1,048,576 bytes"):
        ApiKeys(path)


def test_keys_differ_and_their_line_does_not_reveal_them() -> None:
    keys = {make_key() for _ in range(100)}

    assert len(keys) == 100
    for key in keys:
        assert len(key) == len(KEY_PREFIX) + 43  # 256 bits, six in a character
        assert key not in key_line(key, "alice")
        assert key_line(key, "alice").endswith("  alice")


# The client


async def test_the_client_sends_its_key(guarded: FastAPI) -> None:
    transport = httpx.ASGITransport(guarded, raise_app_exceptions=False)
    async with AsyncDropserveClient("http://there", api_key=BOB, transport=transport) as client:
        assert (await client.predict(PICTURE)).digit == 7
    async with AsyncDropserveClient("http://there", transport=transport) as client:
        with pytest.raises(RequestError, match="API key") as caught:
            await client.predict(PICTURE)
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")


@pytest.mark.parametrize("key", ["a\nb", "ä", "a\0"])
def test_what_no_header_can_hold_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match="no header can hold") as caught:
        AsyncDropserveClient(api_key=key)
    assert key not in str(caught.value)
