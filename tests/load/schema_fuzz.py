"""Whatever the API's description allows is answered, and whatever it forbids refused.

`python -m tests.load.schema_fuzz` starts a server that wants a key, and has schemathesis ask it
what follows from its own /openapi.json: the examples, the edges of every schema, and random
requests, valid and invalid. It fails where schemathesis finds something. What it is told beside the
description stands in `schema_fuzz.toml` and `schema_strategies.py`, with the reasons.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from app.api.auth import key_line, make_key
from tests.conftest import ROOT, RunningServer, ServerStarter

CONFIGURATION = Path(__file__).with_name("schema_fuzz.toml")


def start_guarded(starter: ServerStarter, folder: Path) -> tuple[RunningServer, str]:
    """A server that wants a key, and the key."""
    key, file = make_key(), folder / "keys"
    file.write_text(key_line(key, "schemathesis"))
    return starter.start("--log-level", "error", "--api-keys-file", str(file)), key


def fuzz(
    server: RunningServer, key: str, folder: Path, options: list[str]
) -> subprocess.CompletedProcess[str]:
    """Runs schemathesis; its exit code is 0 if it found nothing.

    Args:
        server: what is asked.
        key: an API key of it.
        folder: where schemathesis may leave files.
        options: of `schemathesis run`.
    """
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    return subprocess.run(
        [
            *(sys.executable, "-c", program, "--config-file", str(CONFIGURATION)),
            *("run", f"{server.address}/openapi.json", "--continue-on-failure"),
            *("--header", f"Authorization: Bearer {key}", *options),
        ],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200, help="at least, of each operation")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    starter = ServerStarter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            server, key = start_guarded(starter, folder)
            numbers = {"--max-examples": arguments.examples, "--seed": arguments.seed}
            options = [str(part) for pair in numbers.items() for part in pair]
            done = fuzz(server, key, folder, options)
        finally:
            starter.end_all()
    sys.stdout.write(re.sub(r"(?s)^.*?(?=Loaded|=== FAIL|$)", "", done.stdout) + done.stderr)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
