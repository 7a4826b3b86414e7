"""The manifests of deploy/kubernetes, as kustomize builds them."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.deployment.image import run

MANIFESTS = ROOT / "deploy" / "kubernetes"
# What can be applied; components cannot alone.
KUSTOMIZATIONS = sorted(
    path.parent
    for path in MANIFESTS.rglob("kustomization.yaml")
    if path.parent.parent.name != "components"
)


def why_not() -> str | None:
    """Why nothing can be built here; None where it can."""
    return None if shutil.which("kubectl") else "kubectl is not installed"


def build(kustomization: Path) -> list[dict[str, Any]]:
    """The objects of a folder with a `kustomization.yaml`."""
    return list(yaml.safe_load_all(run("kubectl", "kustomize", str(kustomization))))


def podman_pod(image: str, port: int) -> str:
    """The base's Deployment for `podman kube play`, with what it needs where there is no network.

    Args:
        image: its name; it is not pulled.
        port: of the loopback address, to serve on.
    """
    (deployment,) = [each for each in build(MANIFESTS / "base") if each["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    spec["hostNetwork"] = True
    (container,) = spec["containers"]
    container |= {"image": image, "imagePullPolicy": "Never"}
    del container["ports"]  # podman maps them, and has nothing to map to
    container["env"] = [
        {"name": "DROPSERVE_HOST", "value": "127.0.0.1"},
        {"name": "DROPSERVE_PORT", "value": str(port)},
    ]
    return yaml.safe_dump(deployment)
