"""Inserts the saved output of commands, and tables derived from the code, into the pages.

A page marks where they belong. In README.md or docs/*.md, everything between these lines is
generated, and an edit by hand fails a test:

    <!-- output: bench-engine -->   the file docs/output/bench-engine.txt: a command and its output
    <!-- table: settings -->        a table, one of `TABLES` below
    <!-- end -->

`python docs/update.py` rewrites all pages; with names of saved outputs, or `--all`, it first runs
their commands again, in the repository's root, and saves what they print. For commands with the
server's address it starts a server, unless there is one. To add an output, write its file with one
line, `$ COMMAND`, and run `python docs/update.py NAME`. `--check` changes nothing: its exit code is
1 if a page is outdated.

`python docs/update.py --all --compare` saves nothing: it prints which figures differ by more than
10 % from the saved ones, and its exit code is 1 if any does or a command fails. All together take
hours, need MNIST, torch, wrk, perf_analyzer and what `tests.deployment.check_container` needs, and
write the files that they write anyhow, such as figures.
"""

import argparse
import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "output"
REGION = re.compile(
    r"^<!-- (?P<kind>output|table): (?P<name>[\w-]+) -->\n.*?^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
ADDRESS = "127.0.0.1", 8000
_START_SECONDS = 120.0
# A number that stands alone or before a unit: not the 32 of float32.
_FIGURE = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_MOVED = 0.1


def pages() -> list[Path]:
    """Every page that may have generated regions."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def updated(text: str) -> str:
    """A page's text with every region generated anew."""
    return REGION.sub(_region, text)


def outdated() -> list[Path]:
    """The pages that differ from what would be generated."""
    return [page for page in pages() if updated(page.read_text()) != page.read_text()]


def rerun(name: str) -> str:
    """Runs the command of a saved output; returns the new text of its file.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    command = (OUTPUT / f"{name}.txt").read_text().partition("\n")[0].removeprefix("$ ")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with _served() if "{}:{}".format(*ADDRESS) in command else nullcontext():
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    printed = done.stdout.removesuffix("\n")
    return f"$ {command}\n{printed}\n"


def moved(old: str, new: str) -> Iterator[str]:
    """Each line whose figures differ by more than 10 %, or that has other words."""
    before, after = old.splitlines(), new.splitlines()
    words = [[_FIGURE.sub("", line).split() for line in lines] for lines in (before, after)]
    matcher = SequenceMatcher(
        a=list(map(str, words[0])), b=list(map(str, words[1])), autojunk=False
    )
    for kind, *ends in matcher.get_opcodes():
        lines, others = before[ends[0] : ends[1]], after[ends[2] : ends[3]]
        if kind != "equal":
            yield from (f"gone: {line}" for line in lines)
            yield from (f"new: {line}" for line in others)
            continue
        for line, other in zip(lines, others, strict=True):
            pairs = zip(_FIGURE.findall(line), _FIGURE.findall(other), strict=True)
            far = [f"{was} is now {now}" for was, now in pairs if _is_far(was, now)]
            if far:
                yield f"{' '.join(line.split())}: {', '.join(far)}"


def _is_far(was: str, now: str) -> bool:
    before, after = (float(figure.replace(",", "")) for figure in (was, now))
    return abs(after - before) > _MOVED * before


@contextmanager
def _served() -> Iterator[None]:
    """A server at the commands' address, unless there is one."""

    def is_there() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(ADDRESS) == 0

    if is_there():
        yield
        return
    server = subprocess.Popen(
        [sys.executable, "-m", "app", "serve"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not is_there():  # it listens when it is ready
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("dropserve serve does not start")
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def _region(found: re.Match[str]) -> str:
    kind, name = found["kind"], found["name"]
    if kind == "output":
        content = f"```console\n{(OUTPUT / f'{name}.txt').read_text()}```"
    else:
        header, *rows = TABLES[name]()
        lines = [header, ["---"] * len(header), *rows]
        table = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        content = f"\n{table}\n"
    return f"<!-- {kind}: {name} -->\n{content}\n<!-- end -->"


def _cell(text: str) -> str:
    """Text that GitHub neither takes for the end of a cell nor for HTML."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", r"\<")


# Tables: a header, then rows. The code is imported only where a table needs it.
Rows = Iterator[Sequence[str]]


def _settings() -> Rows:
    from app.settings import PREFIX, Settings

    yield "variable", "default", "meaning"
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else _in_json(field.default)
        yield f"`{PREFIX}{name.upper()}`", default, field.description or ""


def _errors() -> Rows:
    from app.errors import ErrorCode

    yield "status", "code", "message, unless a more specific one is given"
    for code in ErrorCode:
        yield str(code.status), f"`{code.text}`", code.message


def _routes() -> Rows:
    yield "route", "answer"
    for path, methods in _description()["paths"].items():
        if path.startswith("/models/"):
            continue  # as the short ones
        for method, route in methods.items():
            summary = route["description"].partition("\n\n")[0]
            yield f"`{method.upper()} {path}`", summary


def _parameters() -> Rows:
    paths = _description()["paths"]
    shared = {one["name"] for one in paths["/predict"]["post"]["parameters"]}
    yield "parameter", "values", "default", "routes", "meaning"
    for parameter in paths["/predict/mc"]["post"]["parameters"]:
        name, schema = parameter["name"], parameter["schema"]
        default = _in_json(schema["default"]) if "default" in schema else ""
        routes = "all" if name in shared else "`mc`"
        yield f"`{name}`", _values(schema), default, routes, parameter["description"]


def _answer() -> Rows:
    schemas = _description()["components"]["schemas"]
    shared = schemas["Prediction"]["properties"]
    yield "field", "type", "routes", "meaning"
    for name, schema in schemas["McPrediction"]["properties"].items():
        routes = "all" if name in shared else "`mc`"
        yield f"`{name}`", _type(schema), routes, _meaning(schema, schemas)


def _decision() -> Rows:
    schemas = _description()["components"]["schemas"]
    yield "field of `decision`", "type", "meaning"
    for name, schema in schemas["Decision"]["properties"].items():
        yield f"`{name}`", _type(schema), _meaning(schema, schemas)


def _v2_outputs() -> Rows:
    yield "output", "datatype", "shape", "models"
    deterministic, stochastic = asyncio.run(_v2_models())
    shared = {output["name"] for output in deterministic["outputs"]}
    both = f"`{deterministic['name']}`, `{stochastic['name']}`"
    for output in stochastic["outputs"]:
        shape = ", ".join("B" if size == -1 else str(size) for size in output["shape"])
        models = both if output["name"] in shared else f"`{stochastic['name']}`"
        yield f"`{output['name']}`", output["datatype"], f"[{shape}]", models


def _target_errors() -> Rows:
    from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint

    calibration = load_checkpoint(DEFAULT_CHECKPOINT).calibration
    yield "target error", "answers", "threshold, nats", "coverage", "confidence"
    kinds = {"predict": "without dropout", "mc": "with 50 passes"}
    confidence = calibration["fitted_with"]["rules"]["confidence"]
    for kind, words in kinds.items():
        for level, point in calibration["target_errors"][kind].items():
            if point is not None:
                shares = f"{point['coverage']:.2%}", f"{confidence:.0%}"
                yield f"{float(level):.2%}", words, f"{point['threshold']:.4f}", *shares


TABLES = {
    "answer": _answer,
    "decision": _decision,
    "errors": _errors,
    "parameters": _parameters,
    "routes": _routes,
    "settings": _settings,
    "target-errors": _target_errors,
    "v2-outputs": _v2_outputs,
}


@cache
def _application() -> Any:
    from app.api.application import create_app
    from app.settings import Settings
    from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint

    return create_app(Settings(), load_checkpoint(DEFAULT_CHECKPOINT))


@cache
def _description() -> dict[str, Any]:
    description: dict[str, Any] = _application().openapi()
    return description


async def _v2_models() -> list[dict[str, Any]]:
    """The metadata of both V2 models, the deterministic one first."""
    import httpx

    app = _application()
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://dropserve") as client,
    ):
        index = (await client.post("/v2/repository/index")).json()
        return [(await client.get(f"/v2/models/{one['name']}")).json() for one in index]


def _values(schema: Mapping[str, Any]) -> str:
    """What a parameter may be: a range, a choice, or examples."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "boolean":
        return "`true`, `false`"
    if "examples" in schema:
        return ", ".join(str(value) for value in schema["examples"])
    if "exclusiveMinimum" in schema:
        return f"above {schema['exclusiveMinimum']}"
    largest = str(schema["maximum"]).replace(str(2**53 - 1), "2^53 - 1")
    return f"{schema['minimum']} to {largest}"


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        # A tuple has its items one by one: they are of one type here.
        return f"{_type(schema.get('items') or schema['prefixItems'][0])}[]"
    return str(schema.get("type", "object"))


def _meaning(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    if "description" in schema:
        return str(schema["description"])
    return str(schemas[schema["$ref"].rpartition("/")[2]]["description"])


def _in_json(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="saved outputs to produce again, such as evaluate"
    )
    parser.add_argument("--all", action="store_true", help="produce every saved output again")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if outdated")
    parser.add_argument(
        "--compare", action="store_true", help="save nothing; print what moved by more than 10 %%"
    )
    options = parser.parse_args()
    names = sorted(path.stem for path in OUTPUT.iterdir()) if options.all else options.names
    failed = False
    for name in names:
        for problem in _produce(name, save=not options.compare):
            failed = True
            print(f"{name}: {problem}", flush=True)  # at once: the others may take hours
    stale = [] if options.compare else outdated()
    if options.check and stale:
        pages = ", ".join(str(page.relative_to(ROOT)) for page in stale)
        sys.exit(f"outdated: {pages}; python docs/update.py")
    for page in stale:
        page.write_text(updated(page.read_text()))
    sys.exit(failed)


def _produce(name: str, *, save: bool) -> Iterator[str]:
    """Runs an output's command, and saves the output or compares it; what is not as it was."""
    saved = OUTPUT / f"{name}.txt"
    try:
        text = rerun(name)
    except subprocess.CalledProcessError as error:
        yield f"exit code {error.returncode}"
        return
    if save:
        saved.write_text(text)
    else:
        yield from moved(saved.read_text(), text)


if __name__ == "__main__":
    main()
