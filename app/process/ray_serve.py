"""The same application on Ray Serve: `serve run app.ray_serve:app`, or `deploy/ray/serve.yaml`.

A replica is what a worker of `dropserve serve` is: one process, one engine, one thread. Ray Serve
takes the place of uvicorn and its limits on connections, of the supervisor and of draining, so
their settings have no effect here.
"""

import os
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from app.api.application import create_app
from app.settings import SettingsError, load_settings

# Requests that a replica has in hand where it has enough to do: they are computed together.
_TARGET_REQUESTS = 8
# Beyond what the application itself takes, so that overload is its 429 and not Serve's queue.
_MOST_REQUESTS = 1000
# What Ray decides.
_RAYS_OWN = frozenset(
    {
        "host",
        "port",
        "workers",
        "drain_seconds",
        "max_connections",
        "max_head_seconds",
        "keep_alive_seconds",
        "max_body_seconds",
        "trusted_proxies",
        "log_format",
        "log_level",
        "access_log",
    }
)


class ReplicaError(Exception):
    """A replica cannot answer."""


class Replica:
    """What Ray asks of a replica; its wrapper adds the application."""

    app: FastAPI

    async def check_health(self) -> None:
        """Asked on the loop that serves; a replica that fails or hangs is replaced.

        Raises:
            ReplicaError: the network is not loaded.
        """
        if not self.app.state.models.is_ready:
            raise ReplicaError("the network is not loaded")


def app(args: dict[str, Any]) -> Application:
    """What Ray Serve runs.

    Args:
        args: settings by name, over those of the environment where this is called.

    Raises:
        SettingsError: a setting is unknown, impossible, or Ray's to decide.
    """
    if foreign := sorted(_RAYS_OWN & args.keys()):
        raise SettingsError(f"{', '.join(foreign)}: Ray Serve decides that, in its own config")
    # Each replica would show only what it has counted itself: Ray counts requests over all.
    settings = load_settings(os.environ, {"metrics": False, **args})

    def build() -> FastAPI:
        torch.set_num_threads(1)  # before the first operation
        return create_app(settings)

    deployment = serve.deployment(
        name="Dropserve",
        ray_actor_options={"num_cpus": 1},
        autoscaling_config=AutoscalingConfig(
            min_replicas=1, max_replicas=8, target_ongoing_requests=_TARGET_REQUESTS
        ),
        max_ongoing_requests=_MOST_REQUESTS,
        max_queued_requests=_MOST_REQUESTS,
        health_check_period_s=5,
        health_check_timeout_s=10,
        # Longer than any request may take.
        graceful_shutdown_timeout_s=settings.max_timeout_ms / 1000 + 5,
    )
    return deployment(serve.ingress(build)(Replica)).bind()
