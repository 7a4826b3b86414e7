"""The commands that the project's pages print."""

import re
from pathlib import Path

from tests.conftest import ROOT

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_of(page: str) -> list[tuple[str, str]]:
    """Each command of a page, such as `deploy/README.md`, with the output that it promises."""
    found = []
    for block in _BLOCK.findall(Path(ROOT, page).read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found
