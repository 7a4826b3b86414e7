"""The network that is served, and how another one takes its place."""

import asyncio
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.errors import ErrorCode
from app.inference.pipeline import Predictor
from app.inference.repository import ModelRepository
from app.schemas import PredictParameters
from app.settings import Settings
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, save_checkpoint
from model.network import MLP, Linear
from tests.api_errors import raises_error
from tests.app.api.request_bodies import small


@pytest.fixture
def settings(tmp_path: Path, one_thread: None) -> Settings:
    """They name a copy of the committed checkpoint; an old predictor is closed soon."""
    path = tmp_path / "network.safetensors"
    shutil.copyfile(DEFAULT_CHECKPOINT, path)
    return Settings(checkpoint=path, max_timeout_ms=1)


def replace_file(settings: Settings, checkpoint: Checkpoint, name: str) -> str:
    """A checkpoint with another name in place of the file; returns its version."""
    assert settings.checkpoint is not None
    training = {**checkpoint.training, "dataset": name}
    return save_checkpoint(settings.checkpoint, replace(checkpoint, training=training))


def damage_file(settings: Settings) -> None:
    assert settings.checkpoint is not None
    content = settings.checkpoint.read_bytes()
    settings.checkpoint.write_bytes(content[: len(content) // 2])


async def test_nothing_answers_before_loading_and_after_closing(settings: Settings) -> None:
    repository = ModelRepository(settings)
    assert not repository.is_ready
    with raises_error(ErrorCode.NOT_READY):
        _ = repository.predictor

    repository.load()
    assert repository.is_ready
    assert (await digit_of(repository.predictor)) == 7

    await repository.close()
    assert not repository.is_ready
    with raises_error(ErrorCode.NOT_READY):
        _ = repository.predictor


async def digit_of(predictor: Predictor) -> int:
    answer, _ = await predictor.predict(small("7.png"), PredictParameters(timeout_ms=30_000))
    return answer.index


async def test_the_given_checkpoint_is_served_and_no_file_is_read(
    default_checkpoint: Checkpoint,
) -> None:
    repository = ModelRepository(Settings(checkpoint=Path("there is none.safetensors")))
    repository.load(default_checkpoint)

    assert repository.predictor.checkpoint is default_checkpoint
    await repository.close()


async def test_reloading_serves_the_new_file_and_closes_the_old_predictor(
    settings: Settings, default_checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    repository = ModelRepository(settings)
    repository.load()
    old = repository.predictor
    version = replace_file(settings, default_checkpoint, "other")

    with caplog.at_level("INFO", "dropserve"):
        await repository.reload()

    served = repository.predictor.checkpoint
    assert (served.name, served.version) == ("other", version)
    assert f"reloaded: other {version}" in caplog.text
    assert (await digit_of(repository.predictor)) == 7
    with raises_error(ErrorCode.NOT_READY):
        old.check(PredictParameters)
    await repository.close()


async def test_a_network_that_is_replaced_is_freed(settings: Settings) -> None:
    repository = ModelRepository(settings)
    repository.load()
    old = weakref.ref(repository.predictor)

    await repository.reload()

    assert old() is None
    await repository.close()


async def test_a_damaged_file_keeps_the_old_predictor_and_the_log_says_why(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    repository = ModelRepository(settings)
    repository.load()
    old = repository.predictor
    damage_file(settings)

    await repository.reload()

    assert repository.predictor is old
    assert (await digit_of(old)) == 7
    assert "the checkpoint is not reloaded" in caplog.text
    assert str(settings.checkpoint) in caplog.text
    await repository.close()


@pytest.mark.parametrize(
    ("labels", "largest", "reason"),
    [(["\ud800", *"123456789"], 1.0, "cannot be sent"), (None, 3e38, "not finite")],
)
async def test_a_network_whose_answers_cannot_be_sent_is_not_served(
    settings: Settings,
    default_checkpoint: Checkpoint,
    labels: list[str] | None,
    largest: float,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    repository = ModelRepository(settings)
    repository.load()
    old, network = repository.predictor, default_checkpoint.network
    config = replace(network.config, labels=tuple(labels or network.config.labels))
    weight, bias = network.layers[-1]
    last = Linear(weight / np.abs(weight).max() * np.float32(largest), bias)
    changed = MLP(config, (*network.layers[:-1], last))
    assert settings.checkpoint is not None
    save_checkpoint(settings.checkpoint, replace(default_checkpoint, network=changed))

    await repository.reload()

    assert repository.predictor is old
    assert (await digit_of(old)) == 7
    assert reason in caplog.text
    await repository.close()


async def test_of_two_reloads_at_once_the_file_as_it_is_last_stays(
    settings: Settings, default_checkpoint: Checkpoint
) -> None:
    repository = ModelRepository(settings)
    repository.load()
    replace_file(settings, default_checkpoint, "first")
    reloading = asyncio.create_task(repository.reload())
    await asyncio.sleep(0)
    replace_file(settings, default_checkpoint, "second")
    await asyncio.gather(reloading, repository.reload())

    assert repository.predictor.checkpoint.name == "second"
    await repository.close()
