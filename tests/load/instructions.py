"""How many instructions an answer takes, counted by valgrind: as many on a busy machine.

`python -m tests.load.instructions` counts those of 50 passes by the engine alone, and of a request
with 32 passes and one without any, from their bytes on a connection to the bytes of their answers.
It compares them with `instructions.json`; exit code 1 if one differs by more than 3 %. `--refresh`
writes the file: after a change that is meant to cost or to save something. Counts depend on the
versions of Python, NumPy and Numba, and on how code is compiled: here for any CPU.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from uvicorn.server import ServerState

from app.api.application import create_app
from app.api.examples import example_pngs
from app.inference.decoding import decode
from app.process.server import configure
from app.settings import Settings
from model.literals import SIDE
from model.sampling.masks import Passes
from tests.load.servers import ROOT
from tests.samples.draw import preprocess_image

BASELINE = Path(__file__).with_suffix(".json")
MOST_CHANGE = 0.03
TOOLS = ("valgrind", "vgdb")
# A step of the scheduler has as many passes as fit into a time, and 32 at least.
_ROUTES = {"/predict": "/predict", "/predict/mc": "/predict/mc?passes=32&seed=1"}
_PASSES = "50 passes"
# What `_FEW` calls take is subtracted from what `_MANY` take: the rest is that of the calls alone.
_FEW, _MANY = 4, 24

Counts = dict[str, int]


def key() -> str:
    """The versions that a baseline belongs to."""
    parts = [f"Python {platform.python_version()}"]
    return ", ".join(parts + [f"{name} {version(name)}" for name in ("numpy", "numba")])


def read_baseline() -> Counts | None:
    """The committed counts of these versions, if there are any."""
    counts: Counts | None = json.loads(BASELINE.read_text()).get(key())
    return counts


def count_instructions(root: Path = ROOT) -> Counts:
    """Counts in a process of its own, under valgrind.

    Args:
        root: of the code that is measured.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DROPSERVE_", "NUMBA_"))}
    with tempfile.TemporaryDirectory() as folder:
        ours = {"PYTHONPATH": str(root), "PYTHONHASHSEED": "0", "NUMBA_CPU_NAME": "generic"}
        output = f"--callgrind-out-file={folder}/counts"
        valgrind = ("valgrind", "--tool=callgrind", "--instr-atstart=no", output)
        done = subprocess.run(
            [*valgrind, sys.executable, "-m", "tests.load.instructions", "--within", folder],
            cwd=root,
            env={**kept, **ours},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    counts: Counts = json.loads(done.stdout.splitlines()[-1])
    return counts


def changes(counts: Counts, baseline: Counts) -> dict[str, float]:
    """By how much each count differs from the baseline, as a share of it."""
    return {name: counts[name] / before - 1 for name, before in baseline.items()}


async def _count_all(folder: Path) -> Counts:
    app = create_app(Settings())
    async with app.router.lifespan_context(app):
        engine, passes = app.state.models.predictor.engine, Passes(50, 1, "independent", None)
        picture = example_pngs()[4]
        pixels = preprocess_image(decode(picture, max_pixels=SIDE * SIDE)[0])

        async def sample() -> None:
            engine.sample(engine.prepare(pixels, passes), 0, passes.count)

        connection = _Connection(app)
        calls = {_PASSES: sample}
        for name, target in _ROUTES.items():
            calls[name] = partial(connection.ask, target, picture)
        gc.collect()
        gc.disable()
        return {name: await _count(call, folder) for name, call in calls.items()}


class _Connection(asyncio.Transport):
    """A connection without a network."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        config = configure(Settings(), app)
        config.load()
        self._protocol: Any = config.http_protocol_class(config, ServerState(), {})  # type: ignore
        self._protocol.connection_made(self)
        self._answer = b""

    async def ask(self, target: str, body: bytes) -> None:
        head = f"POST {target} HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: {len(body)}"
        self._protocol.data_received(head.encode() + b"\r\n\r\n" + body)
        self._answer = b""
        await asyncio.gather(*self._protocol.tasks)
        assert self._answer.startswith(b"HTTP/1.1 200 "), self._answer

    def write(self, data: Any) -> None:
        self._answer += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _count(call: Callable[[], Awaitable[None]], folder: Path) -> int:
    counts = []
    # The first warms up. Of two, one may contain what a timer does meanwhile, on a slow machine.
    for calls in (_FEW, _FEW, _MANY, _MANY):
        _command("instrumentation", "on")
        _command("zero")
        for _ in range(calls):
            await call()
        _command("dump")
        _command("instrumentation", "off")
        counts.append(_read_newest(folder))
    return round((min(counts[2:]) - counts[1]) / (_MANY - _FEW))


def _read_newest(folder: Path) -> int:
    newest = max(folder.glob("counts.*"), key=lambda path: int(path.suffix[1:]))
    (line,) = (line for line in newest.read_text().splitlines() if line.startswith("totals:"))
    return int(line.split()[1])


def _command(*words: str) -> None:
    subprocess.run(["vgdb", f"--pid={os.getpid()}", *words], check=True, capture_output=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; exit code 1 where a count has changed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--refresh", action="store_true", help="write the counts as the baseline")
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.within:
        print(json.dumps(asyncio.run(_count_all(options.within))))
        return 0
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        parser.error(f"{' and '.join(missing)} must be installed")
    counts, before = count_instructions(), read_baseline()
    if options.refresh:
        known: dict[str, Any] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
        text = json.dumps({**known, key(): counts}, indent=2, sort_keys=True)
        BASELINE.write_text(text + "\n")
    changed = changes(counts, before) if before else {}
    for name, count in counts.items():
        share = f"{changed[name]:+.1%}" if name in changed else "new"
        print(f"{name:12} {count:>12,} instructions  {share}")
    return int(not options.refresh and any(abs(each) > MOST_CHANGE for each in changed.values()))


if __name__ == "__main__":
    sys.exit(main())
