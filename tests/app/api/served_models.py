"""A server with several networks: a folder of them, and the application that serves it."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from app.api.application import create_app
from app.api.auth import key_line
from app.api.middleware import KEY_PREFIX
from app.settings import Settings
from model.checkpoint import AnyCheckpoint, Network, save_checkpoint
from model.files import DEFAULT_CHECKPOINT

ADMIN = KEY_PREFIX + "z" * 43
AS_ADMIN = {"authorization": f"Bearer {ADMIN}"}


def save_network(
    folder: Path, name: str, network: Network, version: int = 1, training: Mapping[str, Any] = {}
) -> Path:
    """Puts a network into a model folder; returns its file."""
    path = folder / name / str(version) / "model.safetensors"
    save_checkpoint(path, AnyCheckpoint(network, training={"name": name, **training}))
    return path


def link_default(folder: Path, name: str = "mnist") -> Path:
    """Puts the committed network into a model folder; returns its file."""
    path = folder / name / "1" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(DEFAULT_CHECKPOINT.read_bytes())
    return path


def write_admin_key(folder: Path) -> Path:
    path = folder / "admin.keys"
    path.write_text(key_line(ADMIN, "admin"))
    return path


@asynccontextmanager
async def serving_models(settings: Settings) -> AsyncGenerator[FastAPI, None]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app
