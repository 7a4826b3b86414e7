"""Requests: parameters, and batches of any size."""

import inspect
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

import httpx
import pytest

from app.api.application import create_app
from app.client import (
    AsyncDropserveClient,
    DropserveClient,
    DropserveError,
    ImageError,
    McPrediction,
    Prediction,
    UnexpectedAnswerError,
)
from app.schemas import McParameters, PredictParameters
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.app.client.conftest import ANSWER, MC_ANSWER, PICTURE, client_of
from tests.conftest import SAMPLES, sample


@pytest.mark.parametrize("client_type", [DropserveClient, AsyncDropserveClient])
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("predict", PredictParameters),
        ("predict_batch", PredictParameters),
        ("predict_mc", McParameters),
        ("predict_mc_batch", McParameters),
        ("predict_mc_stream", McParameters),
    ],
)
def test_methods_take_the_parameters_that_the_api_declares(
    client_type: type, method: str, parameters: type[PredictParameters]
) -> None:
    _, images, *arguments = inspect.signature(getattr(client_type, method)).parameters.values()

    assert images.name == ("images" if "batch" in method else "image")
    assert {each.name: each.default for each in arguments} == {
        name: field.default for name, field in parameters.model_fields.items()
    }
    assert {each.name: each.annotation for each in arguments} == {
        name: field.annotation for name, field in parameters.model_fields.items()
    }
    assert {each.kind for each in arguments} == {inspect.Parameter.KEYWORD_ONLY}


async def check_types(client: DropserveClient, asking: AsyncDropserveClient) -> None:
    """Never called: the type checker knows the parameters, and complains of others."""
    assert_type(client.predict(PICTURE, preprocess="none", timeout_ms=None), Prediction)
    assert_type(client.predict_mc("7.png", passes=4, estimator="balanced"), McPrediction)
    assert_type(client.predict_mc("7.png", dropout=0.5).dropout, float | None)
    assert_type(client.predict_batch([PICTURE], coverage=0.99), list[Prediction | DropserveError])
    assert_type(client.predict_mc_stream(PICTURE, seed=1), Iterator[McPrediction])
    assert_type(asking.predict_mc_stream(PICTURE, seed=1), AsyncIterator[McPrediction])
    assert_type(await asking.predict(PICTURE), Prediction)
    client.predict(PICTURE, passes=4)  # type: ignore[call-arg]
    client.predict(PICTURE, dropout=0.5)  # type: ignore[call-arg]
    client.predict(7)  # type: ignore[arg-type]
    client.predict_mc(PICTURE, estimator="odd")  # type: ignore[arg-type]
    client.predict_mc_batch([PICTURE], sed=4)  # type: ignore[call-arg]


async def test_none_is_the_servers_default(asking: AsyncDropserveClient) -> None:
    nothing: Any = None
    answer = await asking.predict_mc(PICTURE, passes=nothing, seed=4, estimator=nothing)

    assert answer == await asking.predict_mc(PICTURE, seed=4)


async def test_another_dropout_rate_is_a_field_of_the_answer(asking: AsyncDropserveClient) -> None:
    answer = await asking.predict_mc(PICTURE, dropout=0.9)
    again = await asking.predict_mc(PICTURE, dropout=answer.dropout, seed=answer.seed)
    plain = await asking.predict_mc(PICTURE)

    assert (answer.dropout, answer.decision) == (230 / 256, None)
    assert again == answer
    assert plain.dropout is None


async def test_a_batch_has_the_single_answers_and_errors_in_order(
    asking: AsyncDropserveClient, tmp_path: Path
) -> None:
    names = ["7.png", "doubtful.png", "3.png"]
    single = [await asking.predict_mc(SAMPLES / name, seed=5) for name in names]
    images: list[Any] = [SAMPLES / name for name in names]
    images[1:1] = [b"no image", tmp_path / "none.png"]

    found = await asking.predict_mc_batch(images, seed=5)

    assert [one for one in found if isinstance(one, McPrediction)] == single
    assert [one.raw for one in found if isinstance(one, McPrediction)] == [
        one.raw for one in single
    ]
    no_image, none = found[1:3]
    assert isinstance(no_image, ImageError)
    assert isinstance(none, ImageError)
    assert (no_image.code, none.code) == ("not_an_image", "unreadable_file")
    with pytest.raises(ImageError) as alone:
        await asking.predict_mc(b"no image")
    assert alone.value.message == no_image.message
    assert await asking.predict_batch([SAMPLES / names[0]]) == [
        await asking.predict(SAMPLES / names[0])
    ]
    assert await asking.predict_batch([b"no image"] * 2) != []
    assert await asking.predict_batch([]) == []


@pytest.mark.parametrize("limits", [{}, {"max_batch_images": 3}, {"max_body_bytes": 2000}], ids=str)
async def test_a_batch_of_any_size_is_split_as_the_server_needs(
    one_thread: None, default_checkpoint: Checkpoint, limits: dict[str, Any]
) -> None:
    app = create_app(Settings(**limits), default_checkpoint)
    images = [sample(f"{number % 10}.png") for number in range(150)]
    async with app.router.lifespan_context(app), client_of(app) as asking:
        found = await asking.predict_batch(iter(images))

    assert [one.digit for one in found if isinstance(one, Prediction)] == [*range(10)] * 15


async def test_an_image_too_large_for_the_server_is_an_error_in_its_place(
    one_thread: None, default_checkpoint: Checkpoint
) -> None:
    app = create_app(Settings(max_body_bytes=2000), default_checkpoint)
    async with app.router.lifespan_context(app), client_of(app) as asking:
        good, bad, other = await asking.predict_batch([PICTURE, bytes(5000), PICTURE])

    assert good == other
    assert isinstance(bad, ImageError)
    assert bad.code == "body_too_large"


async def test_many_passes_go_in_smaller_requests() -> None:
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sizes.append(len(json.loads(request.content)["inputs"]))
        return httpx.Response(200, json={"predictions": [MC_ANSWER] * sizes[-1]})

    asking = AsyncDropserveClient(transport=httpx.MockTransport(answer))
    await asking.predict_mc_batch([PICTURE] * 128)
    assert sizes == [64, 64]
    sizes.clear()
    await asking.predict_mc_batch([PICTURE] * 16, passes=1000)
    assert sizes == [8, 8]


@pytest.mark.parametrize("one", ["7.png", b"bytes", Path("7.png")])
async def test_a_single_image_is_no_batch(asking: AsyncDropserveClient, one: Any) -> None:
    with pytest.raises(TypeError, match="list of images"):
        await asking.predict_batch(one)


async def test_too_few_answers_to_a_batch_are_noticed() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"predictions": [ANSWER]})

    asking = AsyncDropserveClient(transport=httpx.MockTransport(answer))
    with pytest.raises(UnexpectedAnswerError, match="1 answers to 2 images"):
        await asking.predict_batch([PICTURE, PICTURE])
