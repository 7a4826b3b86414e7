"""Whether the server answers what its OpenAPI description allows, and refuses what it forbids.

`python -m tests.load.schema_fuzz` starts a server that requires an API key, and runs schemathesis
against its /openapi.json: the examples, the edges of every schema, and random requests, valid and
invalid. The exit code is that of schemathesis. `schema_fuzz.toml` and `schema_strategies.py` hold
what the description cannot express, with the reasons.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.api.auth import key_line, make_key
from tests.load.servers import ROOT, serving

CONFIGURATION = Path(__file__).with_name("schema_fuzz.toml")


def fuzz(folder: Path, options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs schemathesis against a server; its exit code is 0 if it found nothing.

    Args:
        folder: where the API key is stored and schemathesis may leave files.
        options: of `schemathesis run`.
    """
    key, file = make_key(), folder / "keys"
    file.write_text(key_line(key, "schemathesis"))
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    with serving("--log-level", "error", "--api-keys-file", str(file)) as server:
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
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--max-examples={arguments.examples}", f"--seed={arguments.seed}"]
        done = fuzz(Path(folder), options)
    print(re.sub(r"(?s)^.*?(?=Loaded|=== FAIL|$)", "", done.stdout) + done.stderr, end="")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
