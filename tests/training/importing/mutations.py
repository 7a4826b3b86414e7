"""Imports thousands of damaged files and counts how they end; by hand, on Linux.

`python -m tests.training.importing.mutations --files 5000`. Every file must be read or refused in
one line, without a traceback and in time. HDF5 is read as the command does, but each process is a
fork of this one, which has imported h5py already.
"""

import argparse
import contextlib
import io
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import training.importing.keras
from tests.training.importing.importing import FILES, pack, unpack
from tests.training.importing.networks import LENET_LAYERS, LeNet, make
from tests.training.importing.test_torch import SHAPES, export
from training.config import ImportOptions
from training.errors import TrainingError
from training.importing import hdf5
from training.importing.command import import_network

ENDS: Counter[str] = Counter()


def read_in_a_fork(content: bytes) -> hdf5.Hdf5Content:
    """`read_hdf5`; notes how the process ended."""
    reading, writing = os.pipe()
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
    _, status = os.waitpid(child, 0)
    ENDS[f"HDF5 process ended with {status}"] += 1
    if not answer.startswith(b"+"):
        raise TrainingError(answer[1:].decode() or "the HDF5 file is damaged")
    return hdf5.parse_converted(answer[1:])


def originals() -> dict[str, bytes]:
    module = make(LeNet)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    files = {path.name: path.read_bytes() for path in FILES.iterdir() if path.suffix != ".npz"}
    files |= {"a.pt2": export(module, SHAPES[LeNet]), "a.safetensors": save(module.state_dict())}
    return files | {"a.pt": buffer.getvalue()}


def change(content: bytes, generator: random.Random) -> bytes:
    """Some bytes changed, cut out, repeated or lost at the end."""
    changed = bytearray(content)
    for _ in range(generator.choice([1, 3, 20])):
        place = generator.randrange(len(changed))
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


def change_inside(name: str, content: bytes, generator: random.Random) -> bytes:
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setattr(training.importing.keras, "read_hdf5", read_in_a_fork)  # noqa: B010
    files, generator, longest = originals(), random.Random(0), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.files):
            name = sorted(files)[number % len(files)]
            file = Path(folder) / name
            file.write_bytes(change_inside(name, files[name], generator))
            settings: Any = {"layers": LENET_LAYERS, "input_shape": (1, 28, 28)}
            started = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                try:
                    output = Path(folder) / "out"
                    import_network(ImportOptions(file=file, output=output, **settings))
                    end = "read"
                except TrainingError as error:
                    end = "refused" if len(str(error).splitlines()) == 1 else "refused in lines"
                except Exception as error:
                    end = f"{type(error).__name__}: {error}"
                    Path(f"/tmp/mutation-{number}-{name}").write_bytes(file.read_bytes())
            ENDS[f"{file.suffix} {end}"] += 1
            longest = max(longest, time.process_time() - started)
    for end, count in sorted(ENDS.items()):
        print(f"{count:6} {end}")
    print(f"longest {longest:.2f} s of the processor")


if __name__ == "__main__":
    main()
