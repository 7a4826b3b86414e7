"""Reading HDF5 files in a process of its own, since damaged ones can make the HDF5 library crash.

`python -m training.importing.hdf5` reads a file from its standard input and writes what is in it as
safetensors to its standard output. It opens no other file: links to other files are not followed.
"""

import json
import math
import os
import subprocess  # nosec B404: see read_hdf5
import sys
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from training.errors import TrainingError
from training.importing.archives import MOST_BYTES, MOST_JSON_BYTES

# Of the processor, which a sound file of the largest size needs a few of; and on the clock.
_SECONDS, _WAIT_SECONDS = 30, 300
_MOST_MEMBERS = 20_000
_REFUSED = 3  # the exit status for a file that is refused
_KEYS = "content"


class Hdf5Content(NamedTuple):
    """What a file holds.

    Attributes:
        arrays: by their paths in the file, as little-endian float32.
        attributes: text, or lists of text, by "path@name"; only `model_config`, `layer_names` and
            `weight_names`, without what is longer than a description may be.
    """

    arrays: dict[str, Any]
    attributes: dict[str, Any]


def read_hdf5(content: bytes) -> Hdf5Content:
    """Reads all arrays of numbers, but for the optimiser's.

    Raises:
        TrainingError: the file is damaged, or holds what Keras never writes.
        ModuleNotFoundError: h5py is not installed.
    """
    import h5py  # noqa: F401  # here, where its absence can be explained

    # With the modules of this process, not with those of a folder that happens to be here.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(  # nosec B603: the file is its input, not its command
            [sys.executable, "-P", "-m", "training.importing.hdf5"],
            input=content,
            capture_output=True,
            timeout=_WAIT_SECONDS,
            env=environment,
            check=False,
        )
        if done.returncode == _REFUSED:
            raise TrainingError(done.stderr.decode(errors="replace").strip())
        return parse_converted(done.stdout)
    except (subprocess.TimeoutExpired, SafetensorError, ValueError, KeyError) as error:
        raise TrainingError("the HDF5 file is damaged") from error


def parse_converted(content: bytes) -> Hdf5Content:
    """What the process has written."""
    tensors = deserialize(content)  # type: ignore[no-untyped-call]
    length = int.from_bytes(content[:8], "little")
    attributes = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEYS])
    arrays = {
        name: np.frombuffer(tensor["data"], "<f4").reshape(tensor["shape"])
        for name, tensor in tensors
    }
    return Hdf5Content(arrays, attributes)


def _convert(content: bytes) -> bytes:
    """The file as safetensors.

    Raises:
        TrainingError: it holds what Keras never writes.
    """
    import io

    import h5py

    arrays: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    left = min(len(content), MOST_BYTES)
    pending = [("", h5py.File(io.BytesIO(content), "r"))]
    visited = 0
    while pending:
        path, item = pending.pop()
        visited += 1
        if visited > _MOST_MEMBERS:
            raise TrainingError(f"the HDF5 file has more than {_MOST_MEMBERS:,} members")
        if isinstance(item, h5py.Dataset):
            if item.dtype.kind not in "fiu" or path.startswith("optimizer"):
                continue
            left -= _check(path, item)
            if left < 0:
                raise TrainingError("the arrays of the HDF5 file overlap")
            arrays[path] = np.ascontiguousarray(item[()], np.float32)
            continue
        for name in ("model_config", "layer_names", "weight_names"):
            if name in item.attrs:
                attributes[f"{path}@{name}"] = _text(f"{path}@{name}", item.attrs[name])
        for name in item:
            if not isinstance(item.get(name, getlink=True), h5py.HardLink):
                raise TrainingError(f"the HDF5 file has a link, {path}/{name}")
            pending.append((f"{path}/{name}".lstrip("/"), item[name]))
    return save(arrays, metadata={_KEYS: json.dumps(attributes)})


def _check(path: str, array: Any) -> int:
    """The bytes that an array takes in the file; more than Keras's plain ones are refused."""
    is_plain = array.chunks is None and array.external is None and not array.is_virtual
    size: int = math.prod(array.shape) * array.dtype.itemsize
    if not is_plain or array.id.get_storage_size() != size:
        raise TrainingError(f"the HDF5 file has {path} in a form that Keras never writes")
    return size


def _text(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.size > _MOST_MEMBERS:
            raise TrainingError(f"the HDF5 file has too long an attribute, {name}")
        return [_text(name, each) for each in value.ravel().tolist()]
    text = value.decode() if isinstance(value, bytes) else str(value)
    if len(text) > MOST_JSON_BYTES:
        raise TrainingError(f"the HDF5 file has too long an attribute, {name}")
    return text


def _limit() -> None:
    """Bounds the process's time and memory, where the system can."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (8 * MOST_BYTES, 8 * MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _main() -> None:
    _limit()
    try:
        sys.stdout.buffer.write(_convert(sys.stdin.buffer.read()))
    except TrainingError as error:
        print(error, file=sys.stderr)
        sys.exit(_REFUSED)
    except Exception:  # whatever the library makes of a damaged file
        print("the HDF5 file is damaged", file=sys.stderr)
        sys.exit(_REFUSED)


if __name__ == "__main__":
    _main()
