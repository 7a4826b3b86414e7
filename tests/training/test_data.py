"""Reading IDX files: the format, a given folder, and other data sets."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from app.api.application import create_app
from app.settings import Settings
from model.checkpoint import load_checkpoint
from tests.conftest import connect
from tests.training.idx_files import (
    CONTENTS,
    LABELS,
    PIXELS,
    corrupt,
    cut,
    empty,
    fill,
    idx,
    refusal,
)
from training import data
from training.config import TrainConfig
from training.data import (
    DATASETS,
    FASHION_MNIST,
    FILES,
    KMNIST,
    NOTMNIST,
    Dataset,
    Images,
    find_folder,
    load_corrupted,
    load_images,
    load_unfamiliar,
    parse_idx,
)
from training.errors import TrainingError
from training.train import train

pytestmark = pytest.mark.usefixtures("tiny_mnist")


# The format


def test_an_idx_file_is_an_array_in_row_major_order() -> None:
    array = parse_idx(idx((2, 3), bytes([1, 2, 3, 4, 5, 255])))
    assert array.dtype == np.uint8
    assert array.tolist() == [[1, 2, 3], [4, 5, 255]]


def test_sizes_are_big_endian_and_four_bytes_long() -> None:
    assert parse_idx(idx((300,), bytes(300))).shape == (300,)


def test_a_parsed_array_can_be_written_to() -> None:
    array = parse_idx(idx((2,), bytes(2)))
    array[0] = 1
    assert array.tolist() == [1, 0]


def test_an_empty_array_is_read() -> None:
    assert parse_idx(idx((0, 28, 28), b"")).shape == (0, 28, 28)


@pytest.mark.parametrize("length", range(len(CONTENTS[PIXELS])))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(TrainingError, match="IDX"):
        parse_idx(CONTENTS[PIXELS][:length])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"promises shape \(3,\) has 12 bytes"):
        parse_idx(idx((3,), bytes(4)))


@pytest.mark.parametrize("kind", [0x09, 0x0B, 0x0D, 0x0E])
def test_another_element_type_is_refused(kind: int) -> None:
    """Signed bytes, 16-bit integers, floats and doubles."""
    with pytest.raises(TrainingError, match="unsigned bytes"):
        parse_idx(bytes([0, 0, kind, 1]) + (1).to_bytes(4, "big") + b"\0")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"<html></html>"])
def test_another_format_is_refused(content: bytes) -> None:
    with pytest.raises(TrainingError, match="not an IDX file"):
        parse_idx(content)


def test_a_size_that_overflows_is_refused() -> None:
    # 65536^4 = 2^64, which is 0 in 64 bits: as if no data were promised.
    with pytest.raises(TrainingError, match="promises shape"):
        parse_idx(idx((65536,) * 4, b""))


# A given folder


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_a_given_folder_is_read(tmp_path: Path, subfolder: str, gzipped: bool) -> None:
    fill(tmp_path / "given" / subfolder, gzipped=gzipped)
    images = load_images("train", tmp_path / "given")
    assert images.pixels.tolist() == [
        [[244, 245], [246, 247]],
        [[248, 249], [250, 251]],
        [[252, 253], [254, 255]],
    ]
    assert images.labels.tolist() == [7, 0, 9]
    assert images.pixels.dtype == np.uint8
    assert images.labels.dtype == np.int64


def test_the_test_split_has_files_of_its_own(tmp_path: Path) -> None:
    images = load_images("test", fill(tmp_path / "given"))
    assert (len(images), images.labels.tolist()) == (1, [5])


def test_a_slice_of_the_images_keeps_pixels_and_labels_together(tmp_path: Path) -> None:
    rest = load_images("train", fill(tmp_path / "given"))[1:]
    assert (len(rest), rest.labels.tolist()) == (2, [0, 9])
    assert rest.pixels[0].tolist() == [[248, 249], [250, 251]]


def test_an_empty_subfolder_does_not_hide_the_files_next_to_it(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert find_folder(tmp_path) == tmp_path


def test_the_argument_comes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPSERVE_DATA_DIR", str(tmp_path / "nowhere"))
    assert len(load_images("train", fill(tmp_path / "given"))) == 3


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    given = fill(tmp_path / "given")
    (given / LABELS).unlink()
    message = refusal(given)
    assert f"{given} has no {LABELS} or {LABELS}.gz" in message
    assert "put MNIST's four IDX files there" in message
    assert "--data-dir and DROPSERVE_DATA_DIR" in message


def test_a_missing_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'} has no {PIXELS}" in message
    assert "leave out --data-dir" in message


@pytest.mark.parametrize("damage", [corrupt, cut, empty])
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_damaged_given_file_is_named_and_never_replaced(
    tmp_path: Path, gzipped: bool, damage: Callable[[bytes], bytes]
) -> None:
    given = fill(tmp_path / "given", gzipped=gzipped)
    path = given / (f"{LABELS}.gz" if gzipped else LABELS)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    message = refusal(given)
    assert f"{path} is corrupt or partial" in message
    assert "replace or delete it" in message
    assert path.read_bytes() == damaged


def test_the_checksums_are_those_of_the_official_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert data.MNIST.md5 == {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }


# Other data sets


def test_labels_and_checksums_of_every_data_set_are_whole() -> None:
    assert list(DATASETS) == ["mnist", "fashion-mnist", "kmnist"]
    for dataset in DATASETS.values():
        assert len(set(dataset.labels)) == 10
        assert len(set(dataset.md5.values())) == 4
        assert all(mirror.endswith("/") for mirror in dataset.mirrors)
    assert FASHION_MNIST.labels[9] == "Ankle boot"
    assert NOTMNIST.name not in DATASETS


SIDE = 28


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
            content = idx(values.shape, values.tobytes())
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
    assert answer["label"] == dataset.labels[answer["class_index"]]
    assert answer["model"]["name"] == dataset.name

    other = next(each for each in DATASETS.values() if each.name not in ("mnist", dataset.name))
    again = Images(images.pixels, images.labels, other)
    with pytest.raises(TrainingError, match="other settings"):
        train(config, again, output, device=torch.device("cpu"), resume=True)


def test_corrupted_digits_are_found_next_to_the_data_or_not_at_all(tmp_path: Path) -> None:
    assert load_corrupted(tmp_path / "mnist") == {}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    for name in ("fog", "identity"):
        folder = tmp_path / "mnist_c" / name
        folder.mkdir(parents=True)
        np.save(folder / "test_images.npy", pixels)
        np.save(folder / "test_labels.npy", np.arange(4))
    for data_dir in (tmp_path, tmp_path / "mnist"):
        (name,) = found = load_corrupted(data_dir)
        assert name == "fog"
        assert np.array_equal(found["fog"].pixels, pixels[..., 0])
        assert found["fog"].labels.tolist() == [0, 1, 2, 3]


def test_images_that_are_no_digits_need_no_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = FILES["test"][0]
    monkeypatch.setitem(KMNIST.md5, name, hashlib.md5(CONTENTS[name]).hexdigest())
    fill(tmp_path / "kmnist")
    (tmp_path / "kmnist" / FILES["test"][1]).unlink()
    found = load_unfamiliar(KMNIST, tmp_path / "mnist")
    assert found.pixels.shape == (1, 2, 2)
    assert found.labels.tolist() == [-1]
