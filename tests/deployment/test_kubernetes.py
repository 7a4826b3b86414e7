"""Every overlay builds, every object is valid, and the objects agree with the server."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from app.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.deployment import kubernetes

# The oldest that is still looked after, and the newest that there are schemas of.
VERSIONS = ("1.33", kubernetes_validate.latest_version())
# What Kubernetes itself does not define: nothing here can check them against a schema.
WITHOUT_SCHEMA = {"InferenceService", "PrometheusRule", "ServiceMonitor"}
_ENDING_SECONDS = 2

pytestmark = pytest.mark.skipif(kubernetes.why_not() is not None, reason=str(kubernetes.why_not()))


def objects() -> Iterator[tuple[Path, dict[str, Any]]]:
    for kustomization in kubernetes.KUSTOMIZATIONS:
        for each in kubernetes.build(kustomization):
            yield kustomization, each


def pod_specs() -> Iterator[tuple[Path, dict[str, Any]]]:
    for kustomization, each in objects():
        if each["kind"] == "Deployment":
            yield kustomization, each["spec"]["template"]["spec"]
        elif each["kind"] == "InferenceService":
            yield kustomization, each["spec"]["predictor"]


def test_there_is_a_base_and_each_overlay() -> None:
    names = {str(path.relative_to(kubernetes.MANIFESTS)) for path in kubernetes.KUSTOMIZATIONS}
    assert names == {"base", "overlays/kserve", "overlays/prometheus-operator"}


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_follow_the_schemas(version: str) -> None:
    unchecked = set()
    for kustomization, each in objects():
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unchecked.add(each["kind"])
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{kustomization}: {each['kind']}: {error.message}")
    assert unchecked == WITHOUT_SCHEMA


def test_a_wrong_object_is_found() -> None:
    _, first = next(objects())
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**first, "spec": {"portz": []}}, VERSIONS[1], strict=True)


def test_pods_are_confined() -> None:
    for kustomization, spec in pod_specs():
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"], kustomization
        assert spec["enableServiceLinks"] is False
        assert spec["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        user = spec["securityContext"]["runAsUser"]
        assert f"\nUSER {user}:{user}\n" in (ROOT / "Dockerfile").read_text()


def test_pods_have_the_time_that_the_drain_takes() -> None:
    for kustomization, spec in pod_specs():
        least = Settings().drain_seconds + _ENDING_SECONDS
        assert spec["terminationGracePeriodSeconds"] > least, kustomization


def test_pods_are_asked_where_the_server_answers() -> None:
    paths = {
        (container[probe]["httpGet"]["path"], probe)
        for _, spec in pod_specs()
        for container in spec["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    for path, probe in paths:
        assert re.fullmatch(r"(/v2)?/health/(live|ready)", path)
        assert path.endswith("live") == (probe == "livenessProbe")


def test_variables_are_settings() -> None:
    for _, spec in pod_specs():
        for variable in spec["containers"][0].get("env", []):
            name = variable["name"]
            if name.startswith(PREFIX):
                assert name.removeprefix(PREFIX).lower() in Settings.model_fields


def test_selectors_find_the_pods() -> None:
    base = {each["kind"]: each["spec"] for each in kubernetes.build(kubernetes.MANIFESTS / "base")}
    labels = base["Deployment"]["template"]["metadata"]["labels"]
    assert base["Service"]["selector"] == labels
    for kind, key in (
        ("Deployment", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        assert base[kind][key] == {"matchLabels": labels}
    for constraint in base["Deployment"]["template"]["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"] == {"matchLabels": labels}


def test_the_operator_scales_by_a_metric_that_there_is() -> None:
    overlay = kubernetes.MANIFESTS / "overlays" / "prometheus-operator"
    (scaler,) = [
        each for each in kubernetes.build(overlay) if each["kind"] == "HorizontalPodAutoscaler"
    ]
    (pods,) = [each["pods"] for each in scaler["spec"]["metrics"] if each["type"] == "Pods"]
    assert pods["metric"]["name"] in (ROOT / "deploy" / "grafana-dashboard.json").read_text()
    # Even a slow core computes as much in a second.
    longest_wait = Settings().max_wait_ms / 1000
    assert int(pods["target"]["averageValue"]) < 100_000 * longest_wait
