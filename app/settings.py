"""Settings: one frozen object from `DROPSERVE_*` variables and command-line options."""

import difflib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

PREFIX = "DROPSERVE_"
# Variables of training, tests and `predict`, which the server must not take for typing errors.
_OTHER_NAMES = frozenset({"API_KEY", "DATA_DIR", "URL"})
# Variables that are no setting any more: since which version, from which version they are unknown,
# and why. They are ignored with a warning for two versions, so that an upgrade starts.
_RETIRED = MappingProxyType(
    {
        "TRUSTED_PROXIES": ("0.2", "0.4", "no answer depends on a client's address"),
        "MAX_QUEUED_PASSES": ("0.2", "0.4", "DROPSERVE_MAX_WAIT_MS limits the wait instead"),
    }
)
# Kubernetes injects these into every container for a Service named `dropserve`.
_KUBERNETES_NAME = re.compile(r"(.*_)?SERVICE_HOST|(.*_)?SERVICE_PORT(_.*)?|(.*_)?PORT_\d+_.*")
_KUBERNETES_VALUE = "tcp://"
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MC_SUFFIX = "-mc"
# Each names what is served, so that only one of them is given.
_SOURCES = ("checkpoint", "models", "model")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")

logger = logging.getLogger("dropserve")


class SettingsError(Exception):
    """A setting is unknown or has an impossible value; the text is one line for the user."""


def _split(value: Any) -> Any:
    if isinstance(value, list):  # of an option that is given several times
        value = ",".join(value)
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _check_origin(origin: str) -> str:
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise ValueError("an origin is *, or like https://example.org, without a path")
    return origin


def check_model_name(name: str) -> None:
    """Raises a ValueError that says what the name of a model must be."""
    if name.endswith(_MC_SUFFIX):
        raise ValueError(
            f"the name of a model cannot end in {_MC_SUFFIX}, which V2 clients append for dropout"
        )
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError(
            "the name of a model has up to 64 letters, digits, dots, hyphens and underscores, and "
            "begins with a letter or a digit"
        )


def _check_model(model: str) -> str:
    name, _, path = model.partition("=")
    if not path:
        raise ValueError("a model is given as NAME=FILE")
    check_model_name(name)
    return model


_Model = Annotated[str, AfterValidator(_check_model)]
_Origin = Annotated[str, AfterValidator(_check_origin)]


def _setting(default: object, description: str, **limits: float) -> Any:
    return Field(default, description=description, **limits)  # type: ignore[call-overload]


class Settings(BaseModel):
    """How the server runs. Every field is a `DROPSERVE_` variable and an option of `serve`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Not empty: that would mean every interface.
    host: str = _setting(
        "127.0.0.1", "Address to listen on; 0.0.0.0 is every interface", min_length=1
    )
    port: int = _setting(8000, "Port to listen on; 0 takes a free one", ge=0, le=65535)
    checkpoint: Path | None = _setting(
        None, "Path of the checkpoint to serve; if unset, the committed ones"
    )
    models: Path | None = _setting(
        None,
        "Folder of the checkpoints to serve, DIR/NAME/VERSION/model.safetensors; of each name the "
        "highest version answers where none is asked for",
    )
    model: Annotated[tuple[_Model, ...], BeforeValidator(_split)] = _setting(
        (),
        "Checkpoints to serve, NAME=FILE, separated by commas; the option can be given several "
        "times",
    )
    default_model: str | None = _setting(
        None,
        "Name of the model that the short routes such as /predict are for; if unset, the first",
    )
    device: str = _setting(
        "cpu",
        "Device for inference: cpu, cuda, or a numbered one such as cuda:1; all but cpu need torch",
    )
    precision: Literal["float32", "bfloat16"] = _setting(
        "float32",
        "Number format of the stochastic layers: float32, or on CUDA bfloat16, which is less exact",
    )
    max_body_bytes: int = _setting(10 * 2**20, "Largest request body, in bytes", ge=1024)
    max_pixels: int = _setting(
        50_000_000,
        "Largest image, in pixels; a JPEG is measured after reduced decoding, a WebP may have half "
        "as many",
        ge=784,
    )
    max_image_memory: int | None = _setting(
        None,
        "Most memory for the pictures that are being decoded by all workers, in bytes; if unset, "
        "about a third of the container's limit, or of the machine's memory",
        ge=2**20,
    )
    max_passes: int = _setting(1000, "Most stochastic passes per request", ge=1, le=65_536)
    max_batch_images: int = _setting(256, "Most images per batch request", ge=1)
    max_wait_ms: int = _setting(
        1000,
        "Longest wait of a request before its own work begins, in milliseconds; where it may be "
        "longer, the answer is 429",
        ge=1,
    )
    max_timeout_ms: int = _setting(30_000, "Longest deadline of a request, in milliseconds", ge=1)
    workers: int = _setting(1, "Processes that serve, with one thread each", ge=1)
    drain_seconds: float = _setting(
        5, "Seconds to keep serving after SIGTERM, while /health/ready answers 503", ge=0
    )
    max_connections: int = _setting(
        800,
        "Most connections per worker; for a request beyond them, a slow or idle one is closed",
        ge=1,
    )
    max_head_seconds: float = _setting(10, "Seconds to receive the request headers", gt=0)
    keep_alive_seconds: int = _setting(
        75,
        "Idle timeout: seconds that a connection stays open after an answer; choose more than the "
        "load balancer's, usually 60, which must close first",
        ge=1,
    )
    max_body_seconds: float = _setting(
        60, "Seconds to receive a request body, and for the client to read an answer", gt=0
    )
    api_keys_file: Path | None = _setting(
        None,
        "File with the digests of the API keys, which `dropserve new-key` prints; if unset, no key "
        "is required",
    )
    admin_keys_file: Path | None = _setting(
        None,
        "File with the digests of the keys that load and unload models, in the form of "
        "DROPSERVE_API_KEYS_FILE; if unset, nobody can",
    )
    metrics_need_key: bool = _setting(
        True, "Whether /metrics requires an API key, if other routes do"
    )
    cors_origins: Annotated[tuple[_Origin, ...], BeforeValidator(_split)] = _setting(
        (),
        "Origins whose pages may call the API from a browser, separated by commas, such as "
        "https://example.org; * allows all",
    )
    metrics: bool = _setting(True, "Whether to serve metrics for Prometheus at /metrics")
    feedback_secret: Annotated[SecretStr, Field(min_length=16)] | None = _setting(
        None,
        "Signs the tokens with which clients send feedback, at least 16 characters, the same on "
        "all replicas; if unset, answers carry no tokens",
    )
    review_dir: Path | None = _setting(
        None,
        "Folder in which pictures that were abstained from are kept, with their answers, for "
        "dropserve review; if unset, no picture is stored",
    )
    review_bytes: int = _setting(
        100 * 2**20, "Most bytes in the review folder; the oldest pictures give way", ge=2**16
    )
    audit_share: float = _setting(
        0.0, "Share of accepted pictures that are kept for review, too, at random", ge=0, le=1
    )
    otlp_endpoint: str | None = _setting(
        None,
        "Address of an OpenTelemetry collector, OTLP over HTTP, such as http://127.0.0.1:4318, for "
        "the spans of sampled traces; needs the extra otel",
        min_length=1,
    )
    log_format: Literal["auto", "json", "console"] = _setting(
        "auto",
        "Log format: json, console, or auto, which is console on a terminal and json elsewhere",
    )
    access_log: bool = _setting(True, "Whether to log each request")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "Lowest level that is logged: debug, info, warning or error"
    )

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        given = [name for name in _SOURCES if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} cannot be combined; give one of them")
        if len({each.partition("=")[0] for each in self.model}) < len(self.model):
            raise ValueError("model has a name twice")
        return self

    def __hash__(self) -> int:
        return hash(self.port)  # pydantic's takes all fields, which a request would notice


def load_settings(environ: Mapping[str, str], options: Mapping[str, Any] | None = None) -> Settings:
    """Settings from the environment, overridden by command-line options that are not None.

    A retired variable is a warning in the log, which Python prints while no log is configured.

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
        elif name in _RETIRED:
            since, until, reason = _RETIRED[name]
            text = "%s is ignored since Dropserve %s, and will be refused from %s on: %s"
            logger.warning(text, variable, since, until, reason)
        elif not (
            name in _OTHER_NAMES
            or value.startswith(_KUBERNETES_VALUE)
            or _KUBERNETES_NAME.fullmatch(name)
        ):
            known = [field.upper() for field in Settings.model_fields]
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise SettingsError(
                f"unknown setting {variable}; the nearest known one is {PREFIX}{nearest}"
            )
    given = {name: value for name, value in (options or {}).items() if value is not None}
    if not given.keys().isdisjoint(_SOURCES):
        values = {name: value for name, value in values.items() if name not in _SOURCES}
    values |= given
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str((first["loc"] or ("model",))[0])
        raise SettingsError(
            f"{PREFIX}{name.upper()} (--{name.replace('_', '-')}): {first['msg']}"
        ) from error
