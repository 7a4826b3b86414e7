"""Several networks in a server of two workers: loaded and unloaded in both, and asked."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.client import DropserveClient
from app.process.signals import SIGHUP
from tests.app.api.served_models import AS_ADMIN, link_default, save_network, write_admin_key
from tests.app.cli.conftest import run
from tests.conftest import RunningServer, ServerStarter
from tests.model.layered_networks import tabular

pytestmark = [pytest.mark.slow, pytest.mark.skipif(SIGHUP is None, reason="there is no SIGHUP")]

ROW = [0.5] * 12
# Two workers accept in turn, or nearly so.
CONNECTIONS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    link_default(path)
    save_network(path, "iris", tabular())
    return path


@pytest.fixture(scope="module")
def running(servers: ServerStarter, folder: Path, tmp_path_factory: Any) -> RunningServer:
    keys = write_admin_key(tmp_path_factory.mktemp("keys"))
    return servers.start(
        *("--models", str(folder), "--default-model", "mnist", "--workers", "2"),
        *("--admin-keys-file", str(keys)),
    )


def statuses(address: str, path: str) -> set[int]:
    """Of many connections, so that both workers are asked."""
    found = set()
    for _ in range(CONNECTIONS):
        with httpx.Client(base_url=address) as client:
            found.add(client.post(path, json={"input": ROW}).status_code)
    return found


def change(address: str, verb: str, name: str) -> httpx.Response:
    path = f"{address}/v2/repository/models/{name}/{verb}"
    return httpx.post(path, headers=AS_ADMIN, timeout=60)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_change_is_answered_when_both_workers_have_it(
    running: RunningServer, folder: Path
) -> None:
    save_network(folder, "other", tabular())
    path = "/models/other/predict"
    assert statuses(running.address, path) == {404}

    assert change(running.address, "load", "other").status_code == 200
    assert statuses(running.address, path) == {200}

    assert change(running.address, "unload", "other").status_code == 200
    assert statuses(running.address, path) == {404}
    assert change(running.address, "load", "other").status_code == 200
    assert statuses(running.address, path) == {200}


def test_a_load_that_fails_keeps_nobody_from_the_next_one(
    running: RunningServer, folder: Path
) -> None:
    file = save_network(folder, "damaged", tabular())
    content = file.read_bytes()
    file.write_bytes(content[:64])
    refused = change(running.address, "load", "damaged")
    assert refused.status_code == 400
    assert "safetensors" in refused.json()["error"]

    file.write_bytes(content)
    assert change(running.address, "load", "damaged").status_code == 200
    assert statuses(running.address, "/models/damaged/predict") == {200}


def test_sighup_serves_what_is_new_in_the_folder(running: RunningServer, folder: Path) -> None:
    save_network(folder, "new", tabular())
    os.kill(running.process.pid, signal.SIGHUP)

    until(lambda: statuses(running.address, "/models/new/predict") == {200})


def test_a_worker_that_is_replaced_serves_what_was_loaded(
    running: RunningServer, folder: Path
) -> None:
    save_network(folder, "late", tabular())
    assert change(running.address, "load", "late").status_code == 200
    (folder / "late/1/model.safetensors").unlink()  # the workers have a copy
    metrics = httpx.get(f"{running.address}/metrics").text
    assert 'dropserve_model_workers{model="late"' in metrics
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    if not children.exists():
        pytest.skip("the system does not list a process's children")
    before = httpx.get(f"{running.address}/metrics").text
    assert "dropserve_worker_starts_total 2" in before


def test_the_client_asks_the_model_that_it_names(running: RunningServer) -> None:
    with DropserveClient(running.address, model="iris") as client:
        answer = client.predict_mc({"input": np.array(ROW)}, seed=1)
        both = client.predict_mc_batch([{"input": ROW}, {"input": ROW}], seed=1)
        (partial, *_, last) = client.predict_mc_stream({"input": ROW}, seed=1)
        assert client.model()["name"] == "iris"
        assert "iris" in [each["name"] for each in client.models()]

    assert answer.model.name == "iris"
    assert answer.index == answer.class_index
    assert answer.digit is None
    assert [each.raw for each in both] == [answer.raw] * 2  # type: ignore[union-attr]
    assert last.raw == answer.raw
    assert partial.stop_reason is None


def test_predict_takes_the_numbers_of_a_file(
    running: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.json").write_text(str(ROW))
    np.save(tmp_path / "two.npy", np.array(ROW))
    files = [str(tmp_path / name) for name in ("one.json", "two.npy")]

    assert run("predict", *files, "--url", running.address, "--model", "iris", "--seed", "1") == 0
    assert "class" in capsys.readouterr().out
