"""Reads `/metrics` with Prometheus' own parser."""

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.metrics import CONTENT_TYPE

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


class Scrape:
    """The samples of one answer of `/metrics`."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    @classmethod
    def of(cls, response: httpx.Response) -> "Scrape":
        assert response.status_code == 200
        assert response.headers["content-type"] == CONTENT_TYPE.decode()
        return cls(response.text)

    def __call__(self, name: str, **labels: str) -> float:
        """The value of a series; 0 if it is not there."""
        return self.samples.get((f"dropserve_{name}", frozenset(labels.items())), 0)

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """The values above 0 of the series that have these labels and one more, by that one."""
        return {
            dict(found)[label]: value
            for (series, found), value in self.samples.items()
            if series == f"dropserve_{name}" and value and set(labels.items()) <= found
            if len(found) == len(labels) + 1
        }
