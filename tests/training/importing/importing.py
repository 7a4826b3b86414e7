"""What the tests of `dropserve-train import` share."""

import io
import json
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoint import AnyCheckpoint, load_any_checkpoint
from model.engines import build_engine
from model.engines.protocol import sample_probs
from model.sampling.masks import Passes
from training.config import ImportOptions
from training.errors import TrainingError
from training.importing.command import import_network

FILES = Path(__file__).parent / "files"
MOST_SECONDS, MOST_BYTES = 1.0, 100 * 2**20


def import_file(file: Path, output: Path, **options: Any) -> AnyCheckpoint:
    import_network(ImportOptions(file=file, output=output, **options))
    return load_any_checkpoint(output)


def refusal(file: Path, **options: Any) -> str:
    """The one line with which a file is refused, in little time and memory."""
    output = file.with_name("refused.safetensors")
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(TrainingError) as caught:
            import_network(ImportOptions(file=file, output=output, **options))
        seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.isprintable()  # and therefore one line
    assert str(file) in message
    assert not output.exists()
    assert peak < MOST_BYTES
    assert seconds < MOST_SECONDS
    return message


def pack(members: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def unpack(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def changed_json(content: bytes, change: Callable[[Any], object]) -> bytes:
    document = json.loads(content)
    change(document)
    return json.dumps(document).encode()


def assert_passes_agree(checkpoint: AnyCheckpoint, values: Any, theirs: Mapping[str, Any]) -> None:
    """Mean and variance within five standard errors of the library's own passes of one input."""
    passes = 2000
    ours = sample_probs(build_engine(checkpoint.network), values, Passes(passes, 7))
    p = ours.astype(np.float64)
    centred = p - p.mean(axis=0)
    variance, fourth = (centred**2).mean(axis=0), (centred**4).mean(axis=0)
    off = np.abs(p.mean(axis=0) - theirs["mean"])
    assert (off <= 5 * np.sqrt((variance + theirs["moment_2"]) / passes) + 1e-7).all()
    spread = (fourth - variance**2) + (theirs["moment_4"] - theirs["moment_2"] ** 2)
    off = np.abs(variance - theirs["moment_2"])
    assert (off <= 5 * np.sqrt(np.maximum(spread, 0) / passes) + 1e-7).all()
    assert float(variance.max()) > 1e-3  # or nothing was tested
