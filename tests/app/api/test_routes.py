"""The table of routes has every route of the application, and no other."""

import re
from collections.abc import Iterable

import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute

from app.api.routes import (
    OPEN_ROUTES,
    OTHER,
    PREDICTION_ROUTES,
    ROUTES,
    TABLE,
    DirectRoute,
    path_within,
    route_label,
)


def paths(routes: Iterable[BaseRoute], prefix: str = "") -> Iterable[str]:
    """A path for each route, also of mounted and included ones."""
    for route in routes:
        router = getattr(route, "original_router", None)
        nested = getattr(route, "routes", None) or getattr(router, "routes", None)
        path = prefix + getattr(route, "path", "")
        if nested:
            yield from paths(nested, path)
        else:
            yield re.sub(r"{\w+(:path)?}", "something", path)


def test_every_route_is_in_the_table_and_the_reverse(app: FastAPI) -> None:
    labels = {path: route_label(path) for path in paths(app.router.routes)}

    assert {"/predict", "/health/live", "/v2/health/ready", "/static/something"} <= labels.keys()
    assert [path for path, label in labels.items() if label == OTHER] == []
    assert set(labels.values()) == {route.label for route in TABLE}
    assert len({route.label for route in TABLE}) == len(TABLE)


@pytest.mark.parametrize("label", [label for label in ROUTES if label != OTHER])
def test_a_label_has_the_path_that_it_looks_like(label: str) -> None:
    assert route_label(re.sub(r"{\w+}", "something", label)) == label


def test_the_direct_routes_are_the_predictions(app: FastAPI) -> None:
    direct = [route.path for route in app.router.routes if isinstance(route, DirectRoute)]

    assert sorted(direct) == sorted(PREDICTION_ROUTES)


def test_nothing_that_computes_or_counts_is_open() -> None:
    assert OPEN_ROUTES.isdisjoint({*PREDICTION_ROUTES, "/model", "/metrics", OTHER})


@pytest.mark.parametrize(
    "path",
    ["/predict//", "/etc/passwd", "/v2/models", "/v2/models/a/b", "/static", "/%00", "", "*"],
)
def test_made_up_addresses_make_no_series(path: str) -> None:
    assert route_label(path) in (OTHER, "/static")


@pytest.mark.parametrize("path", ["/predict", "/predict/mc/stream", "/predict/batch", "/v2"])
def test_a_slash_at_the_end_makes_no_other_label(path: str) -> None:
    assert route_label(f"{path}/") == path


@pytest.mark.parametrize(
    ("root_path", "path"), [("", "/predict"), ("/digits", "/digits/predict"), ("/a", "/predict")]
)
def test_a_path_is_the_same_wherever_the_application_is_mounted(root_path: str, path: str) -> None:
    assert path_within({"path": path, "root_path": root_path}) == "/predict"
    assert path_within({"path": "/predict"}) == "/predict"
