"""Runs of `dropserve score`, in this process or in one of their own, and what they leave behind."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from app.__main__ import main
from app.scoring import sources
from app.scoring.readers import Failure, Reader
from tests.conftest import OURS, ROOT, interruptible


def score(*arguments: object, output: Path) -> int:
    """The exit code; in this process."""
    with pytest.raises(SystemExit) as caught:
        main(["score", *map(str, arguments), "-o", str(output), "--workers", "1"])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def rows(output: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(output).to_pylist()
    return table


def failures(output: Path) -> list[dict[str, Any]]:
    lines = output.with_suffix(".errors.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def start(
    *arguments: object, block_rows: int | None = None, **options: Any
) -> "subprocess.Popen[str]":
    """A run in a process of its own.

    Args:
        block_rows: size of its blocks, between which it pauses, so that there is time to stop it
            however few they are; None: as usual.
    """
    program: Sequence[str] = OURS
    if block_rows:
        program = (sys.executable, "-c", _SLOWLY.format(block_rows))
    with interruptible():
        return subprocess.Popen(
            [*program, "score", *map(str, arguments)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


_SLOWLY = """
import time
from app.__main__ import main
from app.cli import scoring
from app.scoring import sources

def cut_slowly(*given, cut=sources.cut):
    for block in cut(*given):
        yield block
        time.sleep(0.3)

sources.BLOCK_ROWS, scoring.cut = {}, cut_slowly
main()
"""


def until(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def read_images(path: Path, start: int = 0, column: str | None = None) -> list[tuple[str, Any]]:
    """The source and the content of a file's images: a file's bytes, an array, or a Failure."""
    pieces, _ = sources.survey([str(path)], column)
    found, first = [], 0
    with closing(Reader()) as files:
        for piece in pieces:
            last = first + piece.stop - piece.start
            if start < last:
                begin = piece.start + max(start - first, 0)
                found += [
                    (source, Failure(code, message or "") if code else _content(form, image))
                    for source, form, image, code, message in zip(
                        *files.read(piece._replace(start=begin)), strict=True
                    )
                ]
            first = last
    assert start + len(found) == first
    return found


def _content(form: str | None, image: bytes | None) -> Any:
    if not form or image is None:
        return image
    dtype, *shape = form.split()
    return np.frombuffer(image, dtype).reshape(*map(int, shape))
