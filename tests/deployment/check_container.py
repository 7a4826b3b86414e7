"""Builds the image, runs it as strictly as an operator can, and says what it did.

`python -m tests.deployment.check_container` needs root on Linux, and buildah and podman (Debian 12:
`apt-get install buildah podman runc mmdebstrap catatonit`); it takes some minutes the first time.
It prints a line for each check, and ends with 1 if one fails. `--no-build` takes the image that the
last run built.
"""

import argparse
import asyncio
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import uvloop
from PIL import Image

from tests.conftest import SAMPLES, sample
from tests.deployment import image
from tests.deployment.kubernetes import podman_pod
from tests.load.servers import free_port
from tests.load.steady_load import steady_load
from tests.pages import ADDRESS, CURLS, commands_of

READY_SECONDS = 6.0
LARGEST_BYTES = 750_000_000
# As the page says to run it, but for what podman cannot do here: a network of the container's own.
_RUN = next(
    shlex.split(command)
    for command, _ in commands_of("docs/deploying.md")
    if command.startswith("docker run")
)
STRICT = _RUN[_RUN.index("run") + 1 : _RUN.index("--publish")]
MEMORY = STRICT[STRICT.index("--memory") + 1]
_CONNECTIONS = 16
_LOAD_SECONDS = 5.0
_PHOTO_SIDES = (8000, 6000)
_PATIENCE_SECONDS = 30.0
# Podman without systemd and without a session: the options that Debian's needs.
_CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
# What no image needs to serve.
_SUPERFLUOUS = ("torch", "**/*.a", "pip", "setuptools", "**/tests")

_failed: list[str] = []


def check(what: str, is_met: bool, found: object = "") -> None:
    """Says whether something is as it should be, and remembers it if not."""
    sys.stdout.write(
        f"{'ok  ' if is_met else 'FAIL'} {what}{f': {found}' if found != '' else ''}\n"
    )
    sys.stdout.flush()
    if not is_met:
        _failed.append(what)


def check_image() -> None:
    size = image.image_bytes()
    check(
        f"image at most {LARGEST_BYTES / 1e9:.2f} GB", size <= LARGEST_BYTES, f"{size / 1e9:.2f} GB"
    )
    root = Path(image.run("podman", "image", "mount", image.IMAGE).strip())
    try:
        (packages,) = (root / "opt/dropserve/lib").glob("python3*/site-packages")
        found = [
            str(path.relative_to(packages))
            for pattern in _SUPERFLUOUS
            for path in packages.glob(pattern)
        ]
        compilers = [
            name for name in ("gcc", "cc", "make", "curl") if (root / "usr/bin" / name).exists()
        ]
        caches = [str(path) for path in root.glob("root/.cache/*")] + list(
            map(str, root.glob("src"))
        )
        check(
            "nothing in it that only builds or tests",
            not found + compilers + caches,
            found + compilers + caches or "none",
        )
    finally:
        image.run("podman", "image", "umount", image.IMAGE)


@contextmanager
def running(*options: str) -> Iterator[tuple[str, str, float]]:
    """A container until the block ends: its name, its address, and the seconds to ready."""
    port = free_port()
    began = time.monotonic()
    settings = ("--env", "DROPSERVE_HOST=127.0.0.1", "--env", f"DROPSERVE_PORT={port}")
    command = ("podman", "run", "--network", "host", *STRICT, *settings, *options, image.IMAGE)
    name = image.run(*command).strip()
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address)
        yield name, address, time.monotonic() - began
    except BaseException:
        subprocess.run(["podman", "logs", name], check=False, stdout=sys.stderr)
        raise
    finally:
        subprocess.run(
            ["podman", "rm", "--force", "--time", "0", name], check=True, capture_output=True
        )


def wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if client.get(f"{address}/health/ready").is_success:
                    return
            time.sleep(0.02)
    raise TimeoutError(f"{address} did not get ready")


def check_confinement(name: str, where: str) -> None:
    """What the process may do, as the kernel says it."""
    state = image.inspect(name)["State"]
    assert isinstance(state, dict)
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{state['Pid']}/status").read_text().splitlines()
        if ":\t" in line
    )
    user, capabilities, barred = (
        status["Uid"].split()[0],
        int(status["CapBnd"], 16),
        status["NoNewPrivs"],
    )
    is_met = (user, capabilities, barred) == ("10001", 0, "1")
    found = f"user {user}, capabilities {capabilities}, no new privileges {barred}"
    check(f"{where}: no root, no capability, no new privileges", is_met, found)
    write = "import pathlib; pathlib.Path('/opt/dropserve/x').write_text('')"
    done = subprocess.run(
        ["podman", "exec", name, "python", "-c", write], capture_output=True, text=True, check=False
    )
    check(f"{where}: its files cannot be written", "Read-only file system" in done.stderr)


def check_curls(address: str) -> None:
    for command, output in CURLS:
        done = image.run(
            "bash",
            "-c",
            command.replace(ADDRESS, address).replace("curl ", "curl --silent ", 1),
            folder=SAMPLES.parents[1],
        )
        if json.loads(done) != json.loads(output):
            check(f"{command}", False, done)
            return
    check("the pages' curls answer as printed", True, len(CURLS))


def photo() -> bytes:
    """A digit on paper, 48 megapixels, with a camera's noise: a JPEG of some megabytes."""
    generator = np.random.default_rng(0)
    with Image.open(io.BytesIO(sample("7.png"))) as digit:
        ink = np.asarray(digit.convert("L").resize(_PHOTO_SIDES, Image.Resampling.BICUBIC))
    noise = generator.integers(0, 12, ink.shape, dtype=np.uint8)
    paper = (225 - (ink // 2 + ink // 4) + noise).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(paper[:, :, None], 3, axis=2)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def check_load(name: str, address: str) -> None:
    """Sixteen connections of MC requests, and photos at the same time."""
    picture = photo()
    megapixels = _PHOTO_SIDES[0] * _PHOTO_SIDES[1] / 1e6
    answer = httpx.post(
        f"{address}/predict/mc?seed=1", content=picture, trust_env=False, timeout=30
    )
    check(
        f"a photo of {megapixels:.0f} megapixels, {len(picture) / 1e6:.1f} MB",
        answer.status_code == 200,
        f"{answer.status_code}, digit {answer.json().get('digit')}",
    )

    async def keep_sending(path: str, content: bytes, outcomes: Counter[str]) -> None:
        end = time.monotonic() + _LOAD_SECONDS
        async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as client:
            while time.monotonic() < end:
                try:
                    outcome = str((await client.post(path, content=content)).status_code)
                except httpx.TransportError as error:
                    outcome = type(error).__name__
                outcomes[outcome] += 1

    async def both() -> None:
        answers: Counter[str] = Counter()
        photos: Counter[str] = Counter()
        small = [
            keep_sending("/predict/mc?passes=50", sample("7.png"), answers)
            for _ in range(_CONNECTIONS)
        ]
        await asyncio.gather(*small, keep_sending("/predict", picture, photos))
        check(
            f"{_CONNECTIONS} connections for {_LOAD_SECONDS:.0f} s",
            answers.keys() == {"200"},
            dict(answers),
        )
        check("photos meanwhile", photos.keys() == {"200"}, dict(photos))

    uvloop.run(both())
    state = image.inspect(name)["State"]
    assert isinstance(state, dict)
    check(
        "not killed",
        state["Running"] and not state["OOMKilled"],
        f"most memory {peak_memory(state['Pid']) / 2**20:.0f} MiB of {MEMORY}",
    )


def peak_memory(pid: int) -> int:
    """Bytes, of the whole container, page cache included."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.max_usage_in_bytes").read_text())
        if number == "0" and (peak := Path(f"/sys/fs/cgroup{path}/memory.peak")).exists():
            return int(peak.read_text())
    return 0


def check_health(name: str) -> None:
    done = subprocess.run(
        ["podman", "healthcheck", "run", name], check=False, capture_output=True, text=True
    )
    check("the health check passes", done.returncode == 0, (done.stdout + done.stderr).strip())


async def stop_under_load(address: str, stop: Callable[[], None], what: str) -> None:
    async with steady_load(address, 32) as seen:
        await asyncio.sleep(1)
        began = time.monotonic()
        await asyncio.to_thread(stop)
        seconds = time.monotonic() - began
    check(
        f"{what} leaves no accepted connection unanswered",
        seen.unexpected() == 0,
        f"{len(seen.answers)} answered, {seen.unexpected()} not, {seconds:.1f} s",
    )


def check_strict_run() -> None:
    with running() as (name, address, seconds):
        check(f"ready within {READY_SECONDS:.0f} s", seconds <= READY_SECONDS, f"{seconds:.1f} s")
        check_confinement(name, "podman run")
        check_curls(address)
        check_health(name)
        check_load(name, address)
        uvloop.run(stop_under_load(address, lambda: _stop(name), "podman stop"))
        state = image.inspect(name)["State"]
        assert isinstance(state, dict)
        check("it ends with 0", state["ExitCode"] == 0, state["ExitCode"])


def _stop(name: str) -> None:
    subprocess.run(["podman", "stop", name], check=True, capture_output=True)


def check_workers() -> None:
    with running("--env", "DROPSERVE_WORKERS=2") as (_, address, seconds):
        answer = httpx.post(f"{address}/predict", content=sample("7.png"), trust_env=False)
        check(
            "two workers, with the files read-only",
            answer.status_code == 200,
            f"ready after {seconds:.1f} s",
        )


def check_other_cpu() -> None:
    """As on a CPU without AVX2, and as a user whom the image does not know."""
    unknown = ("--user", "54321:54321", "--unsetenv", "HOME", "--env", "NUMBA_CPU_NAME=generic")
    with running(*unknown) as (name, _, seconds):
        logs = subprocess.run(
            ["podman", "logs", name], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    check(
        "on another CPU, as an unknown user without a home: nothing is compiled",
        b"Dropserve answers" in logs.stdout and b"compil" not in logs.stdout,
        f"ready after {seconds:.1f} s",
    )


def check_kubernetes() -> None:
    """The Deployment of deploy/, in podman."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "deployment.yaml")
        manifest.write_text(podman_pod(image.IMAGE, port))
        image.run("podman", "kube", "play", str(manifest))
        try:
            wait_until_ready(address)
            answer = httpx.post(f"{address}/predict", content=sample("7.png"), trust_env=False)
            check("the Deployment runs in podman kube play", answer.status_code == 200)
            check_pod()
        finally:
            image.run("podman", "kube", "down", str(manifest))


def check_pod() -> None:
    names = image.run("podman", "ps", "--format", "{{.Names}}").split()
    (name,) = [name for name in names if re.search("dropserve-.*-dropserve$", name)]
    check_confinement(name, "podman kube play")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-build", action="store_true", help="take the image that is there")
    arguments = parser.parse_args()
    if reason := image.why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder, "containers.conf")
        conf.write_text(_CONTAINERS_CONF)
        os.environ["CONTAINERS_CONF"] = str(conf)
        if not arguments.no_build:
            began = time.monotonic()
            image.build_image()
            check("the Dockerfile builds", True, f"{time.monotonic() - began:.0f} s")
        check_image()
        check_strict_run()
        check_workers()
        check_other_cpu()
        check_kubernetes()
    sys.exit(bool(_failed))


if __name__ == "__main__":
    main()
