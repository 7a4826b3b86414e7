"""The table of routes: metrics, the access log, API keys and OpenAPI all read it."""

import re
from typing import NamedTuple

from fastapi.routing import APIRoute
from starlette.types import Scope

from app.telemetry.request_record import RouteLabels

OTHER = "other"


class RouteFacts(NamedTuple):
    """What the application knows about a route, besides its endpoint.

    Attributes:
        label: the path with its parameters in braces, as in metrics, logs and OpenAPI; all files
            below `/static` share one label.
        is_open: whether the route needs no API key.
        is_prediction: whether the route runs the network, so that the stages of its time count.
        is_admin: whether the route takes an admin key and no other.
    """

    label: str
    is_open: bool = False
    is_prediction: bool = False
    is_admin: bool = False


# What a route of `PREDICTIONS` may stand behind: the model that is asked, without one the default.
MODEL_PREFIXES = ("", "/models/{model}", "/models/{model}/versions/{version}")
PREDICTIONS = (
    "/predict",
    "/predict/mc",
    "/predict/mc/stream",
    "/predict/batch",
    "/predict/mc/batch",
)

# Open are the health checks of load balancers, and the pages: they are the same for everyone, and a
# browser needs them before a person can enter a key.
TABLE = (
    *(
        RouteFacts(prefix + route, is_prediction=True)
        for prefix in MODEL_PREFIXES
        for route in PREDICTIONS
    ),
    RouteFacts("/v2/models/{model}/infer", is_prediction=True),
    RouteFacts("/v2/models/{model}/versions/{version}/infer", is_prediction=True),
    RouteFacts("/feedback"),
    RouteFacts("/health/live", is_open=True),
    RouteFacts("/health/ready", is_open=True),
    RouteFacts("/model"),
    RouteFacts("/models"),
    *(RouteFacts(prefix) for prefix in MODEL_PREFIXES[1:]),
    RouteFacts("/metrics"),
    RouteFacts("/", is_open=True),
    RouteFacts("/docs", is_open=True),
    RouteFacts("/openapi.json", is_open=True),
    RouteFacts("/static", is_open=True),
    RouteFacts("/v2"),
    RouteFacts("/v2/health/live", is_open=True),
    RouteFacts("/v2/health/ready", is_open=True),
    RouteFacts("/v2/repository/index"),
    RouteFacts("/v2/repository/models/{model}/load", is_admin=True),
    RouteFacts("/v2/repository/models/{model}/unload", is_admin=True),
    RouteFacts("/v2/models/{model}"),
    RouteFacts("/v2/models/{model}/ready"),
    RouteFacts("/v2/models/{model}/config"),
    RouteFacts("/v2/models/{model}/versions/{version}"),
    RouteFacts("/v2/models/{model}/versions/{version}/ready"),
    RouteFacts("/v2/models/{model}/versions/{version}/config"),
)
ROUTES = (*(route.label for route in TABLE), OTHER)
PREDICTION_ROUTES = tuple(route.label for route in TABLE if route.is_prediction)
ROUTE_LABELS = RouteLabels(ROUTES, PREDICTION_ROUTES)
OPEN_ROUTES = frozenset(route.label for route in TABLE if route.is_open)
ADMIN_ROUTES = frozenset(route.label for route in TABLE if route.is_admin)

_EXACT = frozenset(ROUTES)
_WITH_SLASH = frozenset(f"{label}/" for label in ("/v2", *PREDICTION_ROUTES))
_TEMPLATES = tuple(label for label in ROUTES if "{" in label)
_TEMPLATE = re.compile("|".join(f"({re.sub('{.+?}', '[^/]+', label)})" for label in _TEMPLATES))


def path_within(scope: Scope) -> str:
    """A request's path below the path at which the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def route_label(path: str) -> str:
    """The label of the route that a path belongs to.

    The label is never the path itself where that is made up: anyone could add series to the
    metrics, or write an API key into the log.
    """
    if path in _EXACT:
        return path
    if path.startswith("/static/"):
        return "/static"
    if path in _WITH_SLASH:
        return path[:-1]
    if (match := _TEMPLATE.fullmatch(path)) and match.lastindex:
        return _TEMPLATES[match.lastindex - 1]
    return OTHER


class DirectRoute(APIRoute):
    """A POST route whose endpoint takes the bare request, and nothing that FastAPI would inject."""
