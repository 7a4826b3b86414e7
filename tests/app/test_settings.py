"""Settings: from variables and options, strict in names and values."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.settings import _RETIRED, Settings, SettingsError, load_settings
from tests.conftest import ROOT


def refusal(environ: dict[str, str], options: dict[str, Any] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_without_variables_the_defaults_hold() -> None:
    assert load_settings({"PATH": "/bin", "HOST": "else", "XDROPSERVE_PORT": "1"}) == Settings()
    assert (Settings().host, Settings().port) == ("127.0.0.1", 8000)
    assert Settings().max_body_bytes == 10 * 2**20
    assert Settings().max_pixels == 50_000_000
    assert Settings().max_passes == 1000


def test_every_setting_is_a_variable(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "host": "::1",
        "port": 81,
        "checkpoint": tmp_path / "own.safetensors",
        "max_body_bytes": 2048,
        "max_pixels": 10_000,
        "max_passes": 7,
        "log_level": "warning",
    }
    environ = {f"DROPSERVE_{name.upper()}": str(value) for name, value in values.items()}

    settings = load_settings(environ)

    assert {name: getattr(settings, name) for name in values} == values
    for name in values:
        assert getattr(settings, name) != Settings.model_fields[name].default


def test_commas_separate_the_items_of_a_list() -> None:
    environ = {"DROPSERVE_CORS_ORIGINS": "https://page.example, http://localhost:3000,"}

    settings = load_settings(environ)

    assert settings.cors_origins == ("https://page.example", "http://localhost:3000")
    assert load_settings({"DROPSERVE_CORS_ORIGINS": ""}).cors_origins == ()
    assert load_settings({"DROPSERVE_CORS_ORIGINS": "*"}).cors_origins == ("*",)


def test_an_option_overrides_its_variable_and_no_other() -> None:
    environ = {"DROPSERVE_PORT": "81", "DROPSERVE_HOST": "::1"}

    settings = load_settings(environ, {"port": "82", "host": None, "max_passes": "9"})

    assert (settings.port, settings.host, settings.max_passes) == (82, "::1", 9)


def test_an_option_overrides_even_a_wrong_variable() -> None:
    assert load_settings({"DROPSERVE_PORT": "many"}, {"port": "82"}).port == 82


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("DROPSERVE_MAX_PASES", "DROPSERVE_MAX_PASSES"),
        ("DROPSERVE_PROT", "DROPSERVE_PORT"),
        ("DROPSERVE_CHECKPIONT", "DROPSERVE_CHECKPOINT"),
        ("DROPSERVE_LOGLEVEL", "DROPSERVE_LOG_LEVEL"),
        ("DROPSERVE_MAXBODYBYTES", "DROPSERVE_MAX_BODY_BYTES"),
        ("DROPSERVE_PORT_", "DROPSERVE_PORT"),
    ],
)
def test_an_unknown_variable_is_refused_and_the_nearest_named(variable: str, nearest: str) -> None:
    message = refusal({variable: "5"})

    assert f"{variable};" in message
    assert message.endswith(f" {nearest}")


@pytest.mark.parametrize("value", ["10.0.0.0/8, ::1", ""])
def test_a_retired_variable_is_ignored_with_a_warning(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings({"DROPSERVE_TRUSTED_PROXIES": value, "DROPSERVE_PORT": "81"})

    assert settings == Settings(port=81)
    (warning,) = caplog.messages
    assert warning.startswith("DROPSERVE_TRUSTED_PROXIES is ignored since Dropserve 0.2, ")


def test_the_warning_of_a_retired_variable_names_its_successor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert load_settings({"DROPSERVE_MAX_QUEUED_PASSES": "20000"}) == Settings()

    (warning,) = caplog.messages
    assert "DROPSERVE_MAX_QUEUED_PASSES is ignored" in warning
    assert "DROPSERVE_MAX_WAIT_MS" in warning


def test_a_retired_variable_is_shown_at_start_without_stopping_it() -> None:
    # Help and refusals come before a log is configured, and so does this.
    program = "import os; from app.settings import load_settings; load_settings(os.environ)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "DROPSERVE_TRUSTED_PROXIES": "10.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
    )

    (line,) = done.stderr.splitlines()
    assert "DROPSERVE_TRUSTED_PROXIES is ignored" in line


def test_a_retired_variable_is_forgotten_after_two_versions() -> None:
    now = [int(number) for number in version("dropserve").split(".")[:2]]
    for name, (since, until, _) in _RETIRED.items():
        first, last = ([int(number) for number in one.split(".")] for one in (since, until))
        assert last == [first[0], first[1] + 2], name
        assert now < last, f"{name} has been retired long enough"
        assert name.lower() not in Settings.model_fields


@pytest.mark.parametrize("variable", ["DROPSERVE_", "DROPSERVE_XYZZY", "DROPSERVE_SERVICE"])
def test_a_variable_like_no_other_is_refused_too(variable: str) -> None:
    assert variable in refusal({variable: ""})


@pytest.mark.parametrize("service", ["DROPSERVE", "DROPSERVE_CANARY"])
def test_what_kubernetes_injects_for_a_service_is_ignored(service: str) -> None:
    injected = {
        f"{service}_SERVICE_HOST": "10.0.0.1",
        f"{service}_SERVICE_PORT": "80",
        f"{service}_SERVICE_PORT_HTTP": "80",
        f"{service}_PORT": "tcp://10.0.0.1:80",
        f"{service}_PORT_80_TCP": "tcp://10.0.0.1:80",
        f"{service}_PORT_80_TCP_PROTO": "tcp",
        f"{service}_PORT_80_TCP_PORT": "80",
        f"{service}_PORT_80_TCP_ADDR": "10.0.0.1",
    }

    assert load_settings(injected) == Settings()
    assert load_settings(injected, {"port": "82"}).port == 82


def test_what_is_for_other_commands_is_no_typing_error() -> None:
    environ = {"DROPSERVE_DATA_DIR": "/data", "DROPSERVE_API_KEY": "key"}

    assert load_settings(environ) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "many"),
        ("port", "-1"),
        ("port", "65536"),
        ("port", "80.5"),
        ("port", ""),
        ("host", ""),
        ("max_body_bytes", "1023"),
        ("max_body_bytes", "10 MiB"),
        ("max_pixels", "783"),
        ("max_passes", "0"),
        ("max_passes", "nan"),
        ("max_connections", "0"),
        ("max_head_seconds", "0"),
        ("cors_origins", "page.example"),
        ("cors_origins", "https://page.example/"),
        ("cors_origins", "https://page.example,other"),
        ("log_level", "loud"),
        ("log_level", "INFO"),
    ],
)
def test_an_impossible_value_is_refused_by_name(name: str, value: str) -> None:
    variable, option = f"DROPSERVE_{name.upper()}", f"--{name.replace('_', '-')}"
    for message in (refusal({variable: value}), refusal({}, {name: value})):
        assert variable in message
        assert option in message


@pytest.mark.parametrize(("port", "expected"), [("0", 0), ("65535", 65535)])
def test_the_outermost_ports_are_possible(port: str, expected: int) -> None:
    assert load_settings({"DROPSERVE_PORT": port}).port == expected


def test_settings_cannot_be_changed() -> None:
    settings = Settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


def test_an_unknown_field_is_no_setting() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Settings.model_validate({"prot": 1})


def test_every_setting_is_documented() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description[0].isupper(), name
        assert field.description[-1] != ".", name
        # What a number counts is in its name and in its description.
        for unit in ("bytes", "pixels", "passes", "images", "seconds", "connections"):
            assert unit not in name or unit in field.description.lower(), name
