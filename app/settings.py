"""Settings: one frozen object from `DROPSERVE_*` variables and command-line options."""

import difflib
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

PREFIX = "DROPSERVE_"
# Read by training, by the tests and by `predict`; the server only must not mistake them for typing
# errors.
_OTHER_NAMES = frozenset({"API_KEY", "DATA_DIR", "URL"})
# Kubernetes injects these into every container for a Service named `dropserve`.
_KUBERNETES_NAME = re.compile(r"(.*_)?SERVICE_HOST|(.*_)?SERVICE_PORT(_.*)?|(.*_)?PORT_\d+_.*")
_KUBERNETES_VALUE = "tcp://"


class SettingsError(Exception):
    """A setting is unknown or has an impossible value; the text is one line for the user."""


def _split(value: Any) -> Any:
    """What stands between commas."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _check_origin(origin: str) -> str:
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise ValueError("an origin is *, or like https://example.org, without a path")
    return origin


def _check_network(proxy: str) -> str:
    try:
        ipaddress.ip_network(proxy)
    except ValueError:
        raise ValueError("a proxy is an IP address, or a network such as 10.0.0.0/8") from None
    return proxy


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")


class Settings(BaseModel):
    """How the server runs. Every field is a `DROPSERVE_` variable and an option of `serve`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Not empty: that would mean every interface.
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="address to listen on; 0.0.0.0 for every interface",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one"
    )
    checkpoint: Path | None = Field(
        default=None, description="checkpoint to serve; without it the committed one"
    )
    device: str = Field(default="cpu", description="what computes: cpu, cuda or cuda:1")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of the stochastic layers: float32, or the less exact bfloat16",
    )
    max_body_bytes: int = Field(
        default=10 * 2**20, ge=1024, description="largest request body, bytes"
    )
    max_pixels: int = Field(
        default=50_000_000,
        ge=784,
        description="largest image, pixels, after a JPEG's reduced decoding; half for WebP",
    )
    max_passes: int = Field(
        default=1000, ge=1, le=65_536, description="most stochastic passes a request may ask for"
    )
    max_batch_images: int = Field(default=256, ge=1, description="most images in one batch request")
    max_queued_passes: int = Field(
        default=20_000,
        ge=1,
        description="passes queued at a time; a request without room for twenty of its size is "
        "answered with 429, unless seven eighths are free",
    )
    max_timeout_ms: int = Field(
        default=30_000, ge=1, description="longest deadline of a request, milliseconds"
    )
    workers: int = Field(default=1, ge=1, description="processes that serve, one thread each")
    drain_seconds: float = Field(
        default=5, ge=0, description="seconds to serve on after SIGTERM, not ready"
    )
    max_connections: int = Field(
        default=800,
        ge=1,
        description="connections of a worker; beyond that the longest idle give way",
    )
    max_head_seconds: float = Field(
        default=10,
        gt=0,
        description="until the head of a request must be there, from the connection or its first "
        "bytes",
    )
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        description="an answered connection may rest; longer than a load balancer lets it, usually "
        "60, or some of its requests meet a connection that is being closed",
    )
    max_body_seconds: float = Field(
        default=60, gt=0, description="until a body must be there, and until an answer is read"
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="digests of the API keys, as `dropserve new-key` prints; without it no key is "
        "asked for",
    )
    metrics_need_key: bool = Field(
        default=True, description="whether /metrics needs an API key, where others do"
    )
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_check_origin)], ...], BeforeValidator(_split)
    ] = Field(
        default=(),
        description="pages that may ask from a browser, such as https://example.org; * is all",
    )
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_check_network)], ...], BeforeValidator(_split)
    ] = Field(
        default=(),
        description="addresses and networks whose X-Forwarded-For and -Proto are believed",
    )
    metrics: bool = Field(default=True, description="whether GET /metrics counts, for Prometheus")
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="of the log: json, console, or auto, which is console on a terminal only",
    )
    access_log: bool = Field(default=True, description="whether each request is a line in the log")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe message that is logged"
    )


def load_settings(environ: Mapping[str, str], options: Mapping[str, Any] | None = None) -> Settings:
    """Settings from the environment, overridden by command-line options that are not None.

    Raises:
        SettingsError: a `DROPSERVE_*` name is unknown, or a value is impossible.
    """
    values: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX)
        if name.lower() in Settings.model_fields and not value.startswith(_KUBERNETES_VALUE):
            values[name.lower()] = value
        elif not _is_ignored(name, value):
            raise SettingsError(f"unknown setting {variable}; {_nearest(name)}")
    values |= {name: value for name, value in (options or {}).items() if value is not None}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0])
        raise SettingsError(
            f"{PREFIX}{name.upper()} (--{name.replace('_', '-')}): {first['msg']}"
        ) from error


def _is_ignored(name: str, value: str) -> bool:
    return (
        name in _OTHER_NAMES
        or value.startswith(_KUBERNETES_VALUE)
        or _KUBERNETES_NAME.fullmatch(name) is not None
    )


def _nearest(name: str) -> str:
    known = [field.upper() for field in Settings.model_fields]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"the nearest known one is {PREFIX}{nearest}"
