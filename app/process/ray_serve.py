"""The application on Ray Serve: `serve run app.process.ray_serve:app`, or `deploy/ray/serve.yaml`.

A replica is what a worker of `dropserve serve` is: one process, one engine, one thread. Ray Serve
takes the place of uvicorn and its limits on connections, of the supervisor and of the drain, so
their settings have no effect here.
"""

import os
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from app.api.application import create_app
from app.settings import SettingsError, load_settings

# What a replica needs in hand to be busy: these requests are computed together.
_TARGET_REQUESTS = 8
# More than the application admits, so that overload is its 429 and not a queue of Ray Serve.
_MAX_REQUESTS = 1000
# Settings of what Ray Serve does itself.
_CONNECTIONS = {"max_connections", "max_head_seconds", "keep_alive_seconds", "max_body_seconds"}
_LOGS = {"log_format", "log_level", "access_log"}
_REPLACED = {"host", "port", "workers", "drain_seconds"} | _CONNECTIONS | _LOGS


class Replica:
    """What Ray Serve calls; its wrapper, `serve.ingress`, sets `app`."""

    app: FastAPI

    async def check_health(self) -> None:
        """Runs on the event loop that serves; a replica that fails or hangs is replaced.

        Raises:
            RuntimeError: the network is not loaded.
        """
        if not self.app.state.models.is_ready:
            raise RuntimeError("the network is not loaded")


def app(args: dict[str, Any]) -> Application:
    """What Ray Serve runs.

    Args:
        args: settings by name; they override the environment of the process that calls this.

    Raises:
        SettingsError: a setting is unknown, impossible, or of something that Ray Serve does.
    """
    if replaced := sorted(_REPLACED & args.keys()):
        raise SettingsError(f"{', '.join(replaced)}: Ray Serve decides that, in its own config")
    # No metrics: each replica would show only its own. Ray counts requests over all of them.
    settings = load_settings(os.environ, {"metrics": False, **args})

    def build() -> FastAPI:
        return create_app(settings)

    deployment = serve.deployment(
        name="Dropserve",
        ray_actor_options={"num_cpus": 1},
        autoscaling_config=AutoscalingConfig(
            min_replicas=1, max_replicas=8, target_ongoing_requests=_TARGET_REQUESTS
        ),
        max_ongoing_requests=_MAX_REQUESTS,
        max_queued_requests=_MAX_REQUESTS,
        health_check_period_s=5,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=settings.max_timeout_ms / 1000 + 5,  # after every deadline
    )
    return deployment(serve.ingress(build)(Replica)).bind()
