"""The threat model names commands that exist, and what it says of the code holds."""

import re
from importlib.util import find_spec
from pathlib import Path

from tests.test_code_quality import ROOT, imported_packages, modules

PAGE = (ROOT / "docs" / "threat-model.md").read_text()
# What opens connections of its own. uvicorn and asyncio answer those of others.
FETCHING = {"httpx", "urllib3", "requests", "aiohttp", "http", "ftplib", "smtplib"}
# Commands of the user's own machine, which serve nobody.
COMMANDS = re.compile(r"app/(client|cli|bench|load_client|scoring)")


def test_every_command_that_the_threat_model_names_exists() -> None:
    commands = set(re.findall(r"`python -m ([\w.]+)`", PAGE))

    assert commands
    assert all(find_spec(command) for command in commands)


def test_nothing_in_the_server_can_fetch() -> None:
    serving = [
        module
        for module in modules("app") + modules("model")
        if not COMMANDS.match(str(module.relative_to(ROOT)))
    ]
    assert Path(ROOT / "app" / "api" / "application.py") in serving
    for module in serving:
        assert not imported_packages(module) & FETCHING, module
        assert "urlopen" not in module.read_text(), module


def test_nothing_unpickles() -> None:
    for module in modules("app") + modules("model"):
        assert not imported_packages(module) & {"pickle", "shelve", "marshal", "dill"}, module
        assert "torch.load" not in module.read_text(), module
