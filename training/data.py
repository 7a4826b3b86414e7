"""MNIST in IDX format: from a given folder, the cache, or a verified download."""

import gzip
import hashlib
import math
import os
import sys
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.checkpoint import write_atomically
from training.errors import TrainingError

Split = Literal["train", "test"]

DATA_DIR_VARIABLE = "DROPSERVE_DATA_DIR"

# MD5 of the decompressed content, since gzip files of the same content differ.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_IDX_UINT8 = 0x08


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: ink 0 to 255, uint8, (N, 28, 28).
        labels: class indices, int64, (N,).
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Images":
        return Images(self.pixels[rows], self.labels[rows])


def load_mnist(
    split: Split, data_dir: Path | None = None, *, client: httpx.Client | None = None
) -> Images:
    """MNIST's 60,000 training or 10,000 test images.

    Args:
        split: which of the two.
        data_dir: folder with the four IDX files, gzipped or not. Without one: the folder that
            DROPSERVE_DATA_DIR names, or else the cache, filled by a download.
        client: what downloads; a new client by default.

    Raises:
        TrainingError: a file is missing or damaged and cannot be fetched.
    """
    data_dir = data_dir or _data_dir_from_environment()
    pixels_file, labels_file = FILES[split]
    if data_dir is not None:
        contents = [
            _read_given(find_mnist_folder(data_dir), name) for name in (pixels_file, labels_file)
        ]
    else:
        contents = [_read_cached(name, client) for name in (pixels_file, labels_file)]
    return Images(parse_idx(contents[0]), parse_idx(contents[1]).astype(np.int64))


def find_mnist_folder(data_dir: Path) -> Path:
    """`data_dir` itself, or its subfolder `mnist` where that holds the files."""
    subfolder = data_dir / "mnist"
    names = [name for names in FILES.values() for name in names]
    holds_data = any(_find_file(subfolder, name) for name in names)
    return subfolder if holds_data else data_dir


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes.

    Raises:
        TrainingError: the content is no IDX file of unsigned bytes, or is cut short.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_UINT8:
        raise TrainingError("not an IDX file of unsigned bytes")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise TrainingError(f"an IDX file of {len(content)} bytes ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    if len(content) - header != math.prod(shape):
        raise TrainingError(f"an IDX file that promises shape {shape} has {len(content)} bytes")
    # A copy, since torch wants arrays that could be written to.
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape).copy()


def cache_dir() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/dropserve/mnist` or `~/.cache/dropserve/mnist`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dropserve" / "mnist"


def _data_dir_from_environment() -> Path | None:
    value = os.environ.get(DATA_DIR_VARIABLE)
    return Path(value) if value else None


def _read_given(folder: Path, name: str) -> bytes:
    path = _find_file(folder, name)
    if path is None:
        raise TrainingError(
            f"{folder} has no {name} or {name}.gz; put MNIST's four IDX files there, "
            f"or leave out --data-dir and {DATA_DIR_VARIABLE} to download them"
        )
    content = _intact_content(path, name)
    if content is None:
        raise TrainingError(
            f"{path} is corrupt or partial (its MD5 is wrong); replace or delete it"
        )
    return content


def _find_file(folder: Path, name: str) -> Path | None:
    """The file called `name` in a folder, plain or gzipped."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _read_cached(name: str, client: httpx.Client | None) -> bytes:
    path = cache_dir() / f"{name}.gz"
    if path.is_file():
        content = _intact_content(path, name)
        if content is not None:
            return content
        tqdm.write(f"{path} is corrupt or partial; fetching it again", file=sys.stderr)
    compressed = _download(name, client)
    try:
        write_atomically(path, compressed)
    except OSError as error:
        raise TrainingError(
            f"cannot write {path} ({error.strerror}); set XDG_CACHE_HOME to a folder that can be "
            f"written, or give one that has MNIST with --data-dir or {DATA_DIR_VARIABLE}"
        ) from error
    content = _intact_content(path, name)
    if content is None:  # _download verified the bytes, so the disk did not keep them
        raise TrainingError(f"{path} cannot be read back as it was written; check the disk")
    return content


def _intact_content(path: Path, name: str) -> bytes | None:
    """The decompressed content, or None where it is not exactly what it should be."""
    return _verified(path.read_bytes(), name)


def _verified(data: bytes, name: str) -> bytes | None:
    try:
        content = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error):
        return None
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return content if digest == MD5[name] else None


def _download(name: str, client: httpx.Client | None) -> bytes:
    """The gzipped file from the first mirror that gives it intact."""
    problems = []
    # A given client stays open: it is the caller's.
    owned = (
        httpx.Client(timeout=30, follow_redirects=True) if client is None else nullcontext(client)
    )
    with owned as session:
        for mirror in MIRRORS:
            url = f"{mirror}{name}.gz"
            try:
                data = _fetch(session, url, name)
            except httpx.HTTPStatusError as error:
                problems.append(f"{url}: status {error.response.status_code}")
                continue
            except httpx.HTTPError as error:
                problems.append(f"{url}: {type(error).__name__}: {error}")
                continue
            if _verified(data, name) is not None:
                return data
            problems.append(f"{url}: the file is corrupt or partial")
    raise TrainingError(
        f"MNIST's {name} is neither in {cache_dir()} nor can it be downloaded "
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
