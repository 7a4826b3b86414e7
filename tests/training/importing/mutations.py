"""Imports thousands of damaged files of each kind, and counts how they end; on Linux.

`python -m tests.training.importing.mutations` damages 5,000 files of each kind that is imported,
and as many checkpoints. Every file must be read or refused in one line, without a traceback, within
a second of the processor and 100 MB above the memory at the start. The exit code is 1 if one is
not, and the file is kept. HDF5 is read as the command does, but each process is a fork of this one,
which has imported h5py already.
"""

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import training.importing.keras
from model.checkpoint import AnyCheckpoint, load_any_checkpoint, save_checkpoint
from model.errors import CheckpointError
from tests.load.processes import resident_mib
from tests.model.layered_networks import convnet
from tests.training.importing.importing import FILES, MOST_BYTES, MOST_SECONDS, pack, unpack
from tests.training.importing.networks import LENET_LAYERS, LeNet, make
from tests.training.importing.test_torch import SHAPES, export
from training.config import ImportOptions
from training.errors import TrainingError
from training.importing import hdf5
from training.importing.command import import_network

_MIB = 2**20
# A file that needs none of these ignores them.
_OPTIONS: Any = {"layers": LENET_LAYERS, "input_shape": (1, 28, 28)}


@dataclass
class Seen:
    """How the files of a kind ended.

    Attributes:
        ends: read, refused, or anything else.
        seconds: the longest, of the processor.
        mib: the most memory above that at the start.
        kept: files that ended otherwise than they should.
    """

    ends: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    mib: float = 0.0
    kept: list[Path] = field(default_factory=list)

    @property
    def is_as_wanted(self) -> bool:
        in_bounds = self.seconds < MOST_SECONDS and self.mib < MOST_BYTES / _MIB
        return in_bounds and self.ends.keys() <= {"read", "refused"}


_forked_mib = 0.0  # the most memory of a fork above that of this process


def read_in_a_fork(content: bytes) -> hdf5.Hdf5Content:
    """`read_hdf5`."""
    global _forked_mib
    reading, writing = os.pipe()
    before = resident_mib(os.getpid())
    if (child := os.fork()) == 0:
        with os.fdopen(writing, "wb") as pipe:
            hdf5._limit()
            try:
                pipe.write(b"+" + hdf5._convert(content))
            except TrainingError as error:
                pipe.write(b"-" + str(error).encode())
            except Exception:
                pipe.write(b"-the HDF5 file is damaged")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, _, usage = os.wait4(child, 0)
    _forked_mib = max(_forked_mib, usage.ru_maxrss / 1024 - before)
    if not answer.startswith(b"+"):
        raise TrainingError(answer[1:].decode() or "the HDF5 file is damaged")
    return hdf5.parse_converted(answer[1:])


def originals() -> dict[str, list[bytes]]:
    """Sound files, by the end of their names."""
    module = make(LeNet)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    found = {
        kind: [path.read_bytes() for path in sorted(FILES.glob(f"*{kind}"))]
        for kind in (".keras", ".h5")
    }
    with tempfile.NamedTemporaryFile() as file:
        save_checkpoint(Path(file.name), AnyCheckpoint(convnet()))
        found["checkpoint"] = [Path(file.name).read_bytes()]
    found |= {".pt2": [export(module, SHAPES[LeNet])], ".pt": [buffer.getvalue()]}
    return found | {".safetensors": [save(module.state_dict())]}


def change(content: bytes, generator: random.Random) -> bytes:
    """Some bytes changed, cut out, repeated or lost at the end."""
    changed = bytearray(content)
    # Descriptions are at the beginning and at the end, and most of a file is weights.
    ends = min(len(changed), 4096)
    for _ in range(generator.choice([1, 3, 20])):
        place = generator.randrange(len(changed))
        if generator.random() < 0.5:
            place = generator.randrange(ends) - generator.choice([0, ends])
        place %= len(changed)
        match generator.randrange(4):
            case 0 | 1:
                changed[place] = generator.choice([0, 255, generator.randrange(256)])
            case 2:
                changed[place : place + 8] = generator.randbytes(8)
            case 3:
                changed[place] ^= 1 << generator.randrange(8)
    if generator.random() < 0.1:
        del changed[generator.randrange(len(changed)) :]
    return bytes(changed)


def change_inside(content: bytes, generator: random.Random) -> bytes:
    """A change to one member, in an archive that is sound otherwise."""
    if not content.startswith(b"PK") or generator.random() < 0.3:
        return change(content, generator)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        members = unpack(Path(file.name))
    described = [each for each in members if each.endswith((".json", ".pkl"))]
    which = generator.choice(described) if generator.random() < 0.6 else None
    which = which or generator.choice([each for each in members if members[each]])
    return pack(members | {which: change(members[which], generator)})


def ending(read: Callable[[], object]) -> str:
    """How reading a file ended, in words."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        try:
            read()
            end = "read"
        except (TrainingError, CheckpointError) as error:
            end = "refused" if str(error).isprintable() else "refused with odd characters"
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
    return f"{end}, {caught[0].message}" if caught else end


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """The most resident memory since the block began, MiB above that before it."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_mib(os.getpid())

    def peak() -> float:
        status = Path("/proc/self/status").read_text()
        most = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(most.split()[1]) / 1024 - before

    yield peak


def damage(kind: str, files: list[bytes], number: int, folder: Path, seed: int = 0) -> Seen:
    """Damages files of a kind and reads them."""
    global _forked_mib
    seen, generator, _forked_mib = Seen(), random.Random(f"{kind} {seed}"), 0.0
    file, output = folder / f"net{kind}", folder / "out"
    read: Callable[[], object] = partial(
        import_network, ImportOptions(file=file, output=output, **_OPTIONS)
    )
    if kind == "checkpoint":
        read = partial(load_any_checkpoint, file)
    before = resident_mib(os.getpid())
    for index in range(number):
        content = change_inside(files[index % len(files)], generator)
        file.write_bytes(content)
        started = time.process_time()
        with peak_memory() as peak, contextlib.redirect_stdout(io.StringIO()):
            end = ending(read)
            seen.mib = max(seen.mib, peak())
        seconds = time.process_time() - started
        seen.ends[end] += 1
        seen.seconds = max(seen.seconds, seconds)
        if end not in ("read", "refused") or seconds > MOST_SECONDS:
            kept = Path(tempfile.gettempdir(), f"mutation-{index}{kind}")
            kept.write_bytes(content)
            seen.kept.append(kept)
    # What was not given back counts, too.
    seen.mib = max(seen.mib, _forked_mib, resident_mib(os.getpid()) - before)
    return seen


def damage_all(
    number: int, folder: Path, kinds: Collection[str] = ()
) -> Iterator[tuple[str, Seen]]:
    """Damages as many files of each kind, or of some, one kind after the other."""
    torch.set_num_threads(1)
    previous = hdf5.read_hdf5
    setattr(training.importing.keras, "read_hdf5", read_in_a_fork)  # noqa: B010
    try:
        files = {kind: each for kind, each in originals().items() if kind in (kinds or {kind})}
        for kind, each in files.items():  # what is imported only now is none of a file's memory
            damage(kind, each, 3, folder, seed=1)
        for kind, each in files.items():
            yield kind, damage(kind, each, number, folder)
    finally:
        setattr(training.importing.keras, "read_hdf5", previous)  # noqa: B010


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000, help="of each kind")
    parser.add_argument("--kinds", nargs="+", default=(), help="such as .keras; all without it")
    options = parser.parse_args()
    is_as_wanted = True
    print("kind            read  refused  other  longest, s of processor  most MiB above the start")
    with tempfile.TemporaryDirectory() as folder:
        for kind, seen in damage_all(options.files, Path(folder), options.kinds):
            is_as_wanted &= seen.is_as_wanted
            read, refused = seen.ends.pop("read", 0), seen.ends.pop("refused", 0)
            row = f"{kind:13}{read:7}{refused:9}{seen.ends.total():7}"
            print(f"{row}{seen.seconds:25.2f}{seen.mib:26.0f}", flush=True)
            for end, count in seen.ends.items():
                print(f"  {count} {end}")
            for path in seen.kept:
                print(f"  kept: {path}")
    if not is_as_wanted:
        sys.exit(1)


if __name__ == "__main__":
    main()
