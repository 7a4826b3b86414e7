"""The project's pages: their commands, and the comparison of what is printed with what they say."""

import re
from pathlib import Path

from tests.conftest import ROOT

# Pages whose output and tables `docs/update.py` inserts.
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
# Everything that GitHub renders, except the model card, which `dropserve-train evaluate` writes.
ALL_PAGES = [*PAGES, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md"]
# Of the server in the examples.
ADDRESS = "http://127.0.0.1:8000"

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(page: str) -> str:
    return Path(ROOT, page).read_text()


def commands_of(page: str) -> list[tuple[str, str]]:
    """Each command of a page, such as `docs/deploying.md`, with the output that it promises."""
    found = []
    for block in _BLOCK.findall(read(page)):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


# Every command once: a page may repeat what another one says.
COMMANDS = dict(pair for page in [*PAGES, "CONTRIBUTING.md"] for pair in commands_of(page))
# Those of the committed network's native API; the other pages have their own tests.
CURLS = [
    pair
    for pair in COMMANDS.items()
    if pair[0].startswith("curl") and "/v2/" not in pair[0] and "/models/" not in pair[0]
]


def command_for(what: str) -> str:
    """The command of CONTRIBUTING.md for tests that the gate skips."""
    (command,) = re.findall(rf"^\| {what} \| `(.*)` \|$", read("CONTRIBUTING.md"), re.MULTILINE)
    return str(command)
