"""Builds the image with buildah, also where none can be pulled: the base is then made here.

The Dockerfile is built as it is. Mounted files give it the settings of this machine's pip, such as
where packages are on its disk, and the certificates to trust.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import ROOT

IMAGE = "localhost/dropserve:check"
# What `FROM python:3.11-slim` finds first.
BASE = "localhost/python:3.11-slim"
PROGRAMS = ("buildah", "podman", "runc", "mmdebstrap")
_PACKAGES = "buildah podman runc mmdebstrap catatonit"
_RELEASE = "bookworm"  # its Python is 3.11
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PIP_CONF = "/etc/pip.conf"


def why_not() -> str | None:
    """Why no image can be built and run here; None where it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "containers are built and run as root, on Linux"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"no {', '.join(missing)}; on Debian: apt-get install {_PACKAGES}"
    return None


def build_image() -> None:
    """Builds `IMAGE`, and the base before it if there is none.

    Raises:
        subprocess.CalledProcessError: it cannot be built; what was said is on standard error.
    """
    if run("buildah", "images", "--quiet", "--filter", f"reference={BASE}").strip() == "":
        _make_base()
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder, "pip.conf")
        conf.write_text(_pip_settings())
        mounts = [f"{conf}:{_PIP_CONF}:ro", *(f"{path}:{path}:ro" for path in _local_paths())]
        run(
            *("buildah", "bud", "--isolation", "chroot", "--format", "docker", "--layers"),
            *(f"--volume={mount}" for mount in mounts),
            *("--tag", IMAGE, str(ROOT)),
        )


def image_bytes() -> int:
    """What the image takes on a disk."""
    return int(run("podman", "image", "inspect", "--format", "{{.Size}}", IMAGE))


def run(*command: str, folder: Path | None = None) -> str:
    """What a command prints.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _make_base() -> None:
    """Debian with Python, in the place and of the shape of the official image."""
    with tempfile.TemporaryDirectory() as folder:
        archive = str(Path(folder, "base.tar"))
        packages = "--include=python3,python3-venv,ca-certificates"
        run("mmdebstrap", "--quiet", "--variant=minbase", packages, _RELEASE, archive, _mirror())
        container = run("buildah", "from", "scratch").strip()
        run("buildah", "add", "--quiet", container, archive, "/")
        tidy = "ln -sf python3 /usr/bin/python && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED"
        run("buildah", "run", "--isolation", "chroot", container, "--", "sh", "-c", tidy)
        run("buildah", "commit", "--quiet", "--rm", container, BASE)


def _mirror() -> str:
    """Where this machine has its own Debian packages from."""
    for entry in run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)").splitlines():
        address, _, name = entry.partition(" ")
        if name == _RELEASE:
            return address
    raise LookupError(f"apt knows no source of {_RELEASE}")


def _pip_settings() -> str:
    lines = [f"{name} = {' '.join(values)}" for name, values in _places().items() if values]
    if _CERTIFICATES.exists():
        lines.append(f"cert = {_CERTIFICATES}")
    return "\n".join(["[global]", *lines, ""])


def _places() -> dict[str, list[str]]:
    """Where this machine's pip looks on the disk, by the name of its setting."""
    command = (sys.executable, "-m", "pip", "config", "list")
    found: dict[str, list[str]] = {"find-links": [], "extra-index-url": []}
    for line in run(*command).splitlines():
        name, _, value = line.partition("=")
        places = found.get(name.rpartition(".")[2].strip(":"))
        if places is not None:
            local = [place for place in value.strip("'\"").split() if _path(place).is_dir()]
            places += [place for place in local if place not in places]
    return found


def _local_paths() -> Iterator[Path]:
    if _CERTIFICATES.exists():
        yield _CERTIFICATES
    places = _places()
    yield from map(_path, places["find-links"])
    # The files of an index may be next to its pages.
    yield from (_path(place).parent for place in places["extra-index-url"])


def _path(place: str) -> Path:
    """The folder that an address on the disk names."""
    return Path(urlsplit(place).path)


def inspect(container: str) -> dict[str, object]:
    """What podman knows of a container."""
    (found,) = json.loads(run("podman", "inspect", container))
    assert isinstance(found, dict)
    return found
