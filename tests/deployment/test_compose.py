"""Server, Prometheus and Grafana of the composition: files, ports and jobs fit together."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())[
    "services"
]


def files_of(service: str) -> dict[str, Path]:
    """Where a container finds files of this repository."""
    mounts = [volume.split(":") for volume in SERVICES[service]["volumes"] if volume[:2] == "./"]
    assert all(options == ["ro"] for _, _, *options in mounts)
    return {inside: DEPLOY / outside for outside, inside, *_ in mounts}


def test_mounted_files_are_there() -> None:
    for service in ("prometheus", "grafana"):
        assert files_of(service)
        for path in files_of(service).values():
            assert path.is_file(), path


def test_ports_are_of_this_machine_only() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items()}
    assert ports == {
        "dropserve": [f"127.0.0.1:{Settings().port}:{Settings().port}"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_the_server_is_as_confined_as_the_page_says() -> None:
    server = SERVICES["dropserve"]
    assert server["read_only"]
    assert (server["cap_drop"], server["tmpfs"]) == (["ALL"], ["/tmp"])
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert server["mem_limit"] == "512m"
    assert float(server["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds + 2
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()  # which the others wait for


def test_prometheus_asks_the_server_under_the_name_that_the_alerts_have() -> None:
    files = files_of("prometheus")
    config = yaml.safe_load(files["/etc/prometheus/prometheus.yml"].read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "dropserve"
    assert job["static_configs"] == [{"targets": [f"dropserve:{Settings().port}"]}]
    for name in config["rule_files"]:
        assert 'job="dropserve"' in files[f"/etc/prometheus/{name}"].read_text()


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here (Debian: apt-get install prometheus)")
    for inside, path in files_of("prometheus").items():
        shutil.copy(path, tmp_path / Path(inside).name)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    files = files_of("grafana")
    (provider,) = yaml.safe_load(
        files["/etc/grafana/provisioning/dashboards/dropserve.yaml"].read_text()
    )["providers"]
    (source,) = yaml.safe_load(
        files["/etc/grafana/provisioning/datasources/dropserve.yaml"].read_text()
    )["datasources"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert files[home] == DEPLOY / "grafana-dashboard.json"
    assert str(Path(home).parent) == provider["options"]["path"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")


def test_the_operators_rules_are_the_alert_rules() -> None:
    overlay = DEPLOY / "kubernetes" / "overlays" / "prometheus-operator"
    theirs = yaml.safe_load((overlay / "prometheus-rule.yaml").read_text())["spec"]
    assert theirs == yaml.safe_load((DEPLOY / "prometheus-alerts.yaml").read_text())
