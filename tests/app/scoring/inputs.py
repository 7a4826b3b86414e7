"""Digits in every form that is scored."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from app.api.examples import example_digits

PIXELS: NDArray[np.uint8] = np.stack(example_digits())


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files(count: int) -> list[tuple[str, bytes]]:
    return [(f"digit{number:02}.png", png(PIXELS[number])) for number in range(count)]


def write_folder(path: Path, count: int) -> Path:
    path.mkdir()
    for name, content in files(count):
        (path / name).write_bytes(content)
    return path


def write_zip(path: Path, count: int, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("notes.txt", "no image")
        for name, content in files(count):
            archive.writestr(name, content)
    return path


def write_tar(path: Path, count: int) -> Path:
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files(count):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_idx(path: Path, pixels: NDArray[np.uint8]) -> Path:
    header = bytes([0, 0, 8, pixels.ndim]) + np.array(pixels.shape, ">u4").tobytes()
    content = header + pixels.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_npz(path: Path, pixels: NDArray[np.generic]) -> Path:
    np.savez_compressed(path, x=pixels, y=np.arange(len(pixels)))
    return path


def write_parquet(path: Path, column: pa.Array, group_rows: int = 8, name: str = "image") -> Path:
    table = pa.table({"id": pa.array(range(len(column))), name: column})
    pq.write_table(table, path, row_group_size=group_rows, compression="none", use_dictionary=False)
    return path


def encoded(count: int) -> pa.Array:
    return pa.array([content for _, content in files(count)], pa.binary())
