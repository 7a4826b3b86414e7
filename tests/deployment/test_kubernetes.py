"""Every overlay builds, every object is valid, and the objects agree with the server."""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import pytest

from app.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.deployment import kubernetes
from tests.pages import commands_of

# The oldest that is still looked after, and the newest that there are schemas of.
VERSIONS = ("1.33", kubernetes_validate.latest_version())
# What Kubernetes itself does not define: nothing here can check them against a schema.
WITHOUT_SCHEMA = {"InferenceService", "PrometheusRule", "ServiceMonitor"}
_ENDING_SECONDS = 2

Object = dict[str, Any]

pytestmark = pytest.mark.skipif(kubernetes.why_not() is not None, reason=str(kubernetes.why_not()))


def build_edited(name: str, edit: Callable[[str], str]) -> list[Object]:
    """The objects of an overlay, or of the base, whose kustomization.yaml was edited."""
    with TemporaryDirectory() as folder:
        copy = shutil.copytree(kubernetes.MANIFESTS, Path(folder) / "kubernetes") / name
        file = copy / "kustomization.yaml"
        file.write_text(edit(file.read_text()))
        return kubernetes.build(copy)


@cache
def built() -> dict[str, list[Object]]:
    """The objects of all that can be applied, and of the public overlay as its comment says."""
    found = {
        str(path.relative_to(kubernetes.MANIFESTS)): kubernetes.build(path)
        for path in kubernetes.KUSTOMIZATIONS
    }
    found["public, with the operator"] = build_edited(
        "overlays/public", lambda text: text.replace("- ../../base", "- ../prometheus-operator")
    )
    return found


def objects() -> Iterator[tuple[str, Object]]:
    for name, found in built().items():
        for each in found:
            yield name, each


def pod_specs(found: Iterable[tuple[str, Object]] | None = None) -> Iterator[tuple[str, Object]]:
    for name, each in objects() if found is None else found:
        if each["kind"] == "Deployment":
            yield name, each["spec"]["template"]["spec"]
        elif each["kind"] == "InferenceService":
            yield name, each["spec"]["predictor"]


def test_there_is_a_base_and_each_overlay() -> None:
    overlays = {f"overlays/{name}" for name in ("kserve", "prometheus-operator", "public")}
    assert built().keys() - {"public, with the operator"} == {"namespace", "base", *overlays}


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


def test_the_command_that_sets_the_image_sets_all() -> None:
    # What `kustomize edit set image dropserve=registry.example.com/dropserve:1.2.3` adds.
    entry = (
        "images:\n- name: dropserve\n  newName: registry.example.com/dropserve\n  newTag: 1.2.3\n"
    )
    for name in ("base", *(name for name in built() if name.startswith("overlays/"))):
        edited = [(name, each) for each in build_edited(name, lambda text: text + entry)]
        images = [
            container["image"] for _, spec in pod_specs(edited) for container in spec["containers"]
        ]
        assert images == ["registry.example.com/dropserve:1.2.3"], name


def test_all_is_in_the_namespace_that_it_brings() -> None:
    for name, found in built().items():
        (namespace,) = [each for each in found if each["kind"] == "Namespace"]
        for each in found:
            if each is not namespace:
                assert each["metadata"]["namespace"] == namespace["metadata"]["name"], name
        assert "restricted" in namespace["metadata"]["labels"].values()


def test_selectors_find_the_pods() -> None:
    selectors = {
        "Deployment": "selector",
        "PodDisruptionBudget": "selector",
        "NetworkPolicy": "podSelector",
    }
    for name, found in built().items():
        for deployment in (each["spec"] for each in found if each["kind"] == "Deployment"):
            template = deployment["template"]
            labels = template["metadata"]["labels"]
            (service,) = [each for each in found if each["kind"] == "Service"]
            assert service["spec"]["selector"] == labels
            for each in found:
                if each["kind"] in selectors:
                    assert each["spec"][selectors[each["kind"]]] == {"matchLabels": labels}, name
                if each["kind"] == "ServiceMonitor":
                    assert each["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
            for constraint in template["spec"]["topologySpreadConstraints"]:
                assert constraint["labelSelector"] == {"matchLabels": labels}


def test_what_is_named_is_there() -> None:
    for name, found in built().items():
        there = {(each["kind"], each["metadata"]["name"]) for each in found}
        for kind, spec in ((each["kind"], each["spec"]) for each in found if "spec" in each):
            if kind == "HorizontalPodAutoscaler":
                assert ("Deployment", spec["scaleTargetRef"]["name"]) in there, name
            if kind == "Ingress":
                (rule,) = spec["rules"]
                (path,) = rule["http"]["paths"]
                assert ("Service", path["backend"]["service"]["name"]) in there
                assert path["backend"]["service"]["port"] == {"name": "http"}
                assert [tls["hosts"] for tls in spec["tls"]] == [[rule["host"]]]
        for _, spec in pod_specs((name, each) for each in found):
            (container,) = spec["containers"]
            volumes = {volume["name"] for volume in spec["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        # Services, policies and monitors name the port.
        named = re.findall(r"'(?:port|targetPort)': '(\w+)'", str(found))
        ports = re.findall(r"'containerPort': 8000, 'name': '(\w+)'", str(found))
        assert {*named} <= {*ports}, name


def test_secrets_are_those_that_the_page_makes() -> None:
    made = {
        (kind, name, key)
        for command, _ in commands_of("docs/deploying.md")
        for kind, name, key in re.findall(
            r"create secret (\w+) ([\w-]+) .*?--(?:from-\w+=|)(\w+)", command
        )
    }
    used = set()
    for _, spec in pod_specs():
        keys_file = {each["name"]: each["value"] for each in spec["containers"][0].get("env", [])}
        for volume in spec["volumes"]:
            if "secret" in volume:
                (mount,) = [
                    each
                    for each in spec["containers"][0]["volumeMounts"]
                    if each["name"] == volume["name"]
                ]
                file = Path(keys_file[f"{PREFIX}API_KEYS_FILE"])
                assert str(file.parent) == mount["mountPath"]
                used.add(("generic", volume["secret"]["secretName"], file.name))
    for name, each in objects():
        if each["kind"] == "Ingress":
            used |= {("tls", tls["secretName"], "cert") for tls in each["spec"]["tls"]}
        if each["kind"] == "ServiceMonitor":
            (endpoint,) = each["spec"]["endpoints"]
            # Where pods want keys, Prometheus has one.
            assert ("authorization" in endpoint) == name.startswith("public"), name
            if "authorization" in endpoint:
                credentials = endpoint["authorization"]["credentials"]
                used.add(("generic", credentials["name"], credentials["key"]))
    assert used == made


def test_whoever_must_reach_the_pods_is_admitted() -> None:
    for name, found in built().items():
        admitted = {
            labels
            for each in found
            if each["kind"] == "NetworkPolicy"
            for rule in each["spec"]["ingress"]
            for peer in rule["from"]
            for labels in peer.get("namespaceSelector", {}).get("matchLabels", {}).items()
        }
        kinds = {each["kind"] for each in found}
        assert (("kubernetes.io/metadata.name", "monitoring") in admitted) == (
            "ServiceMonitor" in kinds
        ), name
        assert (("kubernetes.io/metadata.name", "ingress") in admitted) == ("Ingress" in kinds), (
            name
        )


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
