"""Route labels: every path of the application has one, and made-up paths share one."""

import re
from collections.abc import Iterable

import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute

from app.api.routes import OTHER, ROUTES, route_label


def paths(routes: Iterable[BaseRoute], prefix: str = "") -> Iterable[str]:
    """An address for each route, also of mounted and included ones."""
    for route in routes:
        router = getattr(route, "original_router", None)
        nested = getattr(route, "routes", None) or getattr(router, "routes", None)
        path = prefix + getattr(route, "path", "")
        if nested:
            yield from paths(nested, path)
        else:
            yield re.sub(r"{\w+}", "something", path)


def test_every_address_has_a_name_of_its_own(app: FastAPI) -> None:
    found = {path: route_label(path) for path in paths(app.router.routes)}

    assert {"/predict", "/health/live", "/v2/health/ready", "/playground.js"} <= found.keys()
    assert [path for path, label in found.items() if label == OTHER] == []
    assert {*found.values(), "/static", OTHER} == set(ROUTES)


@pytest.mark.parametrize(
    "path", ["/predict/", "/etc/passwd", "/v2/models", "/v2/models/a/b", "/static", "/%00", "", "*"]
)
def test_made_up_addresses_make_no_series(path: str) -> None:
    assert route_label(path) in (OTHER, "/static")
