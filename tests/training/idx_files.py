"""Three images in IDX files stand for MNIST's 60,000; whole and damaged."""

import gzip
from pathlib import Path

import httpx
import pytest

from training.data import FILES, load_images
from training.errors import TrainingError

PIXELS, LABELS = FILES["train"]


def idx(shape: tuple[int, ...], values: bytes) -> bytes:
    """An IDX file of unsigned bytes: two zeros, 8, how many dimensions, their sizes, the data."""
    sizes = b"".join(size.to_bytes(4, "big") for size in shape)
    return bytes([0, 0, 8, len(shape)]) + sizes + values


# Three 2x2 images and their labels stand for the 60,000.
CONTENTS = {
    "train-images-idx3-ubyte": idx((3, 2, 2), bytes(range(244, 256))),
    "train-labels-idx1-ubyte": idx((3,), bytes([7, 0, 9])),
    "t10k-images-idx3-ubyte": idx((1, 2, 2), bytes([1, 2, 3, 4])),
    "t10k-labels-idx1-ubyte": idx((1,), bytes([5])),
}


def fill(folder: Path, *, gzipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENTS.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def corrupt(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def cut(content: bytes) -> bytes:
    return content[:-3]


def empty(content: bytes) -> bytes:
    return b""


def refusal(data_dir: Path | None = None, client: httpx.Client | None = None) -> str:
    """The message of the refusal: one line."""
    with pytest.raises(TrainingError) as caught:
        load_images("train", data_dir, client=client)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message
