"""Other data sets through the same code: IDX files in, named classes out over HTTP."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.api.application import create_app
from app.settings import Settings
from model.checkpoint import load_checkpoint
from tests.conftest import connect
from training.config import TrainConfig
from training.data import DATASETS, FASHION_MNIST, FILES, KMNIST, Dataset, Images, load_images
from training.errors import TrainingError
from training.train import train

SIDE = 28


def idx(values: NDArray[np.uint8]) -> bytes:
    """An IDX file of unsigned bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


@pytest.fixture(params=[FASHION_MNIST, KMNIST], ids=lambda dataset: str(dataset.name))
def dataset(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Dataset:
    """A data set of 60 training and 10 test images, in its folder below `tmp_path`."""
    chosen: Dataset = request.param
    folder = tmp_path / chosen.name
    folder.mkdir()
    for split, count in (("train", 60), ("test", 10)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pixels = np.zeros((count, SIDE, SIDE), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[4:24, 2 * label + 4 : 2 * label + 6] = 255
        for name, values in zip(FILES[split], (pixels, labels), strict=True):  # type: ignore[index]
            content = idx(values)
            monkeypatch.setitem(chosen.md5, name, hashlib.md5(content).hexdigest())
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return chosen


def test_its_images_are_found_by_the_name_of_their_folder(dataset: Dataset, tmp_path: Path) -> None:
    images = load_images("train", tmp_path, dataset)
    assert (images.pixels.shape, images.dataset) == ((60, SIDE, SIDE), dataset)
    assert images[50:].dataset is dataset
    assert len(load_images("test", tmp_path / dataset.name, dataset)) == 10


def test_damaged_files_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    name = FILES["test"][0]
    (tmp_path / dataset.name / f"{name}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(TrainingError, match=r"corrupt or partial"):
        load_images("test", tmp_path, dataset)


@pytest.mark.slow
async def test_it_trains_and_is_served_with_its_own_labels(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = TrainConfig(epochs=2, batch_size=10, validation_images=10)
    images = load_images("train", tmp_path, dataset)
    output = tmp_path / "net.safetensors"
    train(config, images, output, device=torch.device("cpu"))
    checkpoint = load_checkpoint(output)
    assert checkpoint.name == dataset.name
    assert checkpoint.network.config.labels == dataset.labels
    assert checkpoint.training["data_md5"] == {name: dataset.md5[name] for name in FILES["train"]}

    app = create_app(Settings(), checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        body = {"pixels": images.pixels[3].tolist(), "preprocess": "none"}
        answer = (await client.post("/predict", json=body)).json()
    assert answer["label"] == dataset.labels[answer["digit"]]
    assert answer["model"]["name"] == dataset.name

    other = next(each for each in DATASETS.values() if each.name not in ("mnist", dataset.name))
    again = Images(images.pixels, images.labels, other)
    with pytest.raises(TrainingError, match="other settings"):
        train(config, again, output, device=torch.device("cpu"), resume=True)
