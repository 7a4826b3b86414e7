"""A real nginx in front of a server, with `deploy/nginx.conf`."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.load.servers import free_port

_PATIENCE_SECONDS = 60.0
_CONF = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr error;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {locations}
        # nginx's own defaults: HTTP/1.0 to the server.
        location /plain/ {{ proxy_pass http://127.0.0.1:8000/; }}
    }}
}}
"""


@contextmanager
def nginx_before(address: str, folder: Path) -> Iterator[str]:
    """Runs nginx; the address of its site, which has the server at `address` below `/digits/`."""
    # Debian keeps it where only root's shells look.
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("no nginx here (Debian: apt-get install nginx-light)")
    port = free_port()
    locations = (ROOT / "deploy" / "nginx.conf").read_text()
    conf = _CONF.format(folder=folder, port=port, locations=locations)
    (folder / "conf").write_text(conf.replace("http://127.0.0.1:8000", address))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(folder / "conf"), "-e", "stderr"],
            stdout=output,
            stderr=output,
        )
    site = f"http://127.0.0.1:{port}"
    try:
        _wait_for(site, process, log)
        yield site
        assert log.read_text() == ""
    finally:
        process.terminate()
        process.wait()


def _wait_for(site: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if httpx.get(f"{site}/digits/health/ready", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.02)
