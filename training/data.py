"""Image sets in IDX format: from a given folder, the cache, or a verified download."""

import gzip
import hashlib
import math
import os
import sys
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.files import write_atomically
from training.errors import TrainingError

Split = Literal["train", "test"]

DATA_DIR_VARIABLE = "DROPSERVE_DATA_DIR"

FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class Dataset:
    """Labelled images of 28x28 pixels in four IDX files.

    Attributes:
        name: of its folder, of the checkpoints trained on it, and on the command line.
        title: as its authors write it.
        labels: the name of each class.
        md5: per file, of the decompressed content, since gzip files of the same content differ.
        mirrors: where the gzipped files are downloaded from.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    md5: Mapping[str, str]
    mirrors: tuple[str, ...]


MNIST = Dataset(
    "mnist",
    "MNIST",
    tuple("0123456789"),
    {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)
FASHION_MNIST = Dataset(
    "fashion-mnist",
    "Fashion-MNIST",
    (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
)
KMNIST = Dataset(
    "kmnist",
    "KMNIST",
    ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    {
        "train-images-idx3-ubyte": "6da9a790214d8f8ab97e552e6577677a",
        "train-labels-idx1-ubyte": "949e75301f8813e0dc5800dcc320fc52",
        "t10k-images-idx3-ubyte": "3cf9ba584ccda5cd47140c280ad886eb",
        "t10k-labels-idx1-ubyte": "9f55f451c0988b028eccdf7d5cc265ab",
    },
    ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
)
# What can be trained on; the first is the default.
DATASETS: Mapping[str, Dataset] = {
    dataset.name: dataset for dataset in (MNIST, FASHION_MNIST, KMNIST)
}
# Letters: out-of-distribution images for the report.
NOTMNIST = Dataset(
    "notmnist",
    "notMNIST",
    tuple("ABCDEFGHIJ"),
    {
        "t10k-images-idx3-ubyte": "1e78b07d677d6e4de2c8857bafff012e",
        "t10k-labels-idx1-ubyte": "b10b3ef34b4e468313a7b24c216c6a53",
    },
    ("https://github.com/davidflanagan/notMNIST-to-MNIST/raw/master/",),
)
_IDX_UINT8 = 0x08


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: ink 0 to 255, uint8, (N, 28, 28).
        labels: class indices, int64, (N,).
        dataset: the set they belong to.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    dataset: Dataset = MNIST

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Images":
        return Images(self.pixels[rows], self.labels[rows], self.dataset)


def load_images(
    split: Split,
    data_dir: Path | None = None,
    dataset: Dataset = MNIST,
    *,
    client: httpx.Client | None = None,
) -> Images:
    """The 60,000 training or 10,000 test images of a data set.

    Args:
        split: "train" or "test".
        data_dir: folder with the four IDX files, gzipped or not, or with a subfolder of the data
            set's name that has them. Without one: the folder that DROPSERVE_DATA_DIR names, or else
            the cache, filled by a download.
        dataset: which images.
        client: for the download; a new client by default.

    Raises:
        TrainingError: a file is missing or damaged and cannot be fetched.
    """
    data_dir = data_dir or _data_dir_from_environment()
    if data_dir is not None:
        folder = find_folder(data_dir, dataset)
        contents = [_read_given(folder, name, dataset) for name in FILES[split]]
    else:
        contents = [_read_cached(name, dataset, client) for name in FILES[split]]
    return Images(parse_idx(contents[0]), parse_idx(contents[1]).astype(np.int64), dataset)


def load_unfamiliar(dataset: Dataset, data_dir: Path | None = None) -> Images:
    """A data set's test images; never downloaded. Without the file of labels, all of them are -1.

    Raises:
        TrainingError: they are neither in the data folder nor in the cache.
    """
    data_dir = data_dir or _data_dir_from_environment()
    name, labels = FILES["test"]
    folders = [cache_dir(dataset)]
    if data_dir is not None:
        folders = [data_dir / dataset.name, data_dir.parent / dataset.name]
    for folder in folders:
        if _find_file(folder, labels) is not None:
            return load_images("test", folder, dataset)
        if _find_file(folder, name) is not None:
            pixels = parse_idx(_read_given(folder, name, dataset))
            return Images(pixels, np.full(len(pixels), -1), dataset)
    raise TrainingError(f"there is no {name}.gz in {folders[0]}; {dataset.mirrors[0]} has it")


def load_corrupted(data_dir: Path | None = None) -> dict[str, Images]:
    """MNIST-C's test images of each corruption, where the data folder has them; never downloaded.

    Mu and Gilmer 2019, https://github.com/google-research/mnist-c: folders with the name of a
    corruption, in a folder `mnist_c`.
    """
    data_dir = data_dir or _data_dir_from_environment()
    if data_dir is None:
        return {}
    corrupted = {}
    for path in sorted(data_dir.glob("mnist_c/*/test_images.npy")) or sorted(
        data_dir.parent.glob("mnist_c/*/test_images.npy")
    ):
        pixels, labels = (
            np.load(path.with_name(f"test_{what}.npy")) for what in ("images", "labels")
        )
        if path.parent.name != "identity":
            corrupted[path.parent.name] = Images(pixels.reshape(-1, 28, 28), labels)
    return corrupted


def find_folder(data_dir: Path, dataset: Dataset = MNIST) -> Path:
    """`data_dir` itself, or its subfolder of the data set's name where that holds the files."""
    subfolder = data_dir / dataset.name
    holds_data = any(_find_file(subfolder, name) for names in FILES.values() for name in names)
    return subfolder if holds_data else data_dir


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes.

    Raises:
        TrainingError: the content is no IDX file of unsigned bytes, or is cut short.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_UINT8:
        raise TrainingError("not an IDX file of unsigned bytes")
    header = 4 + 4 * content[3]  # the number of dimensions
    if len(content) < header:
        raise TrainingError(f"an IDX file of {len(content)} bytes ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    if len(content) - header != math.prod(shape):
        raise TrainingError(f"an IDX file that promises shape {shape} has {len(content)} bytes")
    # A copy, since torch wants arrays that could be written to.
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape).copy()


def cache_dir(dataset: Dataset = MNIST) -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/dropserve/NAME` or `~/.cache/dropserve/NAME`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dropserve" / dataset.name


def _data_dir_from_environment() -> Path | None:
    return Path(value) if (value := os.environ.get(DATA_DIR_VARIABLE)) else None


def _read_given(folder: Path, name: str, dataset: Dataset) -> bytes:
    if (path := _find_file(folder, name)) is None:
        raise TrainingError(
            f"{folder} has no {name} or {name}.gz; put {dataset.title}'s four IDX files there, "
            f"or leave out --data-dir and {DATA_DIR_VARIABLE} to download them"
        )
    if (content := _verified(path.read_bytes(), dataset.md5[name])) is None:
        raise TrainingError(
            f"{path} is corrupt or partial (its MD5 is wrong); replace or delete it"
        )
    return content


def _find_file(folder: Path, name: str) -> Path | None:
    """The file called `name` in a folder, plain or gzipped."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _read_cached(name: str, dataset: Dataset, client: httpx.Client | None) -> bytes:
    path = cache_dir(dataset) / f"{name}.gz"
    if path.is_file():
        if (content := _verified(path.read_bytes(), dataset.md5[name])) is not None:
            return content
        tqdm.write(f"{path} is corrupt or partial; fetching it again", file=sys.stderr)
    compressed = _download(name, dataset, client)
    try:
        write_atomically(path, compressed)
    except OSError as error:
        raise TrainingError(
            f"cannot write {path} ({error.strerror}); set XDG_CACHE_HOME to a writable folder, "
            f"or give one that has {dataset.title} with --data-dir or {DATA_DIR_VARIABLE}"
        ) from error
    content = _verified(path.read_bytes(), dataset.md5[name])
    if content is None:  # _download verified the bytes, so the disk did not keep them
        raise TrainingError(f"{path} cannot be read back as it was written; check the disk")
    return content


def _verified(data: bytes, md5: str) -> bytes | None:
    """The decompressed content, or None where its checksum is wrong."""
    try:
        content = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error):
        return None
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return content if digest == md5 else None


def _download(name: str, dataset: Dataset, client: httpx.Client | None) -> bytes:
    """The gzipped file from the first mirror that gives it intact."""
    problems = []
    # A given client stays open: it is the caller's.
    owned = (
        httpx.Client(timeout=30, follow_redirects=True) if client is None else nullcontext(client)
    )
    with owned as session:
        for mirror in dataset.mirrors:
            url = f"{mirror}{name}.gz"
            try:
                data = _fetch(session, url, name)
            except httpx.HTTPStatusError as error:
                problems.append(f"{url}: status {error.response.status_code}")
                continue
            except httpx.HTTPError as error:
                problems.append(f"{url}: {type(error).__name__}: {error}")
                continue
            if _verified(data, dataset.md5[name]) is not None:
                return data
            problems.append(f"{url}: the file is corrupt or partial")
    raise TrainingError(
        f"{dataset.title}'s {name} is neither in {cache_dir(dataset)} nor can it be downloaded "
        f"({'; '.join(problems)}); connect to the internet, or give a folder that has it with "
        f"--data-dir or {DATA_DIR_VARIABLE}"
    )


def _fetch(client: httpx.Client, url: str, name: str) -> bytes:
    with client.stream("GET", url) as response:
        response.raise_for_status()
        total = int(response.headers.get("content-length", 0)) or None
        chunks = []
        with tqdm(total=total, unit="B", unit_scale=True, desc=name) as bar:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                bar.update(len(chunk))
    return b"".join(chunks)
