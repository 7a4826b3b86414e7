"""Addresses within the application, and the few names that metrics and logs have for them."""

import re

from starlette.types import Scope

from app.telemetry.metrics import RouteLabels

PREDICTION_ROUTES = (
    "/predict",
    "/predict/mc",
    "/predict/mc/stream",
    "/predict/batch",
    "/predict/mc/batch",
    "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}/infer",
)
OTHER = "other"
ROUTES = (
    *PREDICTION_ROUTES,
    "/health/live",
    "/health/ready",
    "/model",
    "/metrics",
    "/",
    "/playground.css",
    "/playground.js",
    "/docs",
    "/openapi.json",
    "/static",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/repository/index",
    *(
        f"/v2/models/{{model}}{version}{what}"
        for version in ("", "/versions/{version}")
        for what in ("", "/ready", "/config")
    ),
    OTHER,
)
ROUTE_LABELS = RouteLabels(ROUTES, PREDICTION_ROUTES)
_EXACT = frozenset(ROUTES)
_MODEL_PATH = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?(/infer|/ready|/config)?")


def path_within(scope: Scope) -> str:
    """A request's address below whatever the application is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def route_label(path: str) -> str:
    """The route that an address belongs to; never the address itself, which anyone can make up."""
    if path in _EXACT:
        return path
    if path.startswith("/static/"):
        return "/static"
    if path == "/v2/":
        return "/v2"
    if match := _MODEL_PATH.fullmatch(path):
        version = "/versions/{version}" if match[1] else ""
        return f"/v2/models/{{model}}{version}{match[2] or ''}"
    return OTHER
