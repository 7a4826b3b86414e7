"""Mutants that once survived the tests: each is applied to a copy of the tree, and must be killed.

`python -m tests.mutations.survivors` prints which test file kills which mutant, and exits with 1 if
one survives; words after it select mutants by their names. It takes some minutes.
"""

import sys
from pathlib import Path
from typing import NamedTuple

from tests.mutations.running import copy_of_the_tree, do_pass


class Mutant(NamedTuple):
    """A change that must be noticed: `old`, which is in the file once, becomes `new`.

    Attributes:
        tests: arguments of pytest, one of which must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_SUPERVISOR, _SERVER = "app/process/supervisor.py", "app/process/server.py"
_DRAINING, _RECEIVING = "app/process/draining.py", "app/api/receiving.py"
_TESTS_OF_WORKERS = ("tests/app/process/test_supervisor.py", "tests/app/process/test_signals.py")
_TESTS_OF_LIMITS = ("tests/app/process/test_server.py",)
_TESTS_OF_DRAINING = ("tests/app/process/test_draining.py",)
_TESTS_OF_BODIES = ("tests/app/api/test_receiving.py",)
_TESTS_OF_LABELS = (
    "tests/app/inference/test_answers.py",
    "tests/app/scoring/test_answers.py",
    "tests/app/cli/predict/test_verdict.py",
    "tests/app/cli/predict/test_writers.py",
)

MUTANTS = (
    Mutant(
        "SIGTERM is not passed on to the workers",
        _SUPERVISOR,
        "        self._send(sig)\n        while (alive",
        "        while (alive",
        _TESTS_OF_WORKERS,
    ),
    Mutant(
        "a worker drops the SIGTERM that it was passed",
        _SERVER,
        "            self.handle_exit(message, None)",
        "            pass",
        _TESTS_OF_WORKERS,
    ),
    Mutant(
        "a worker serves on without its supervisor",
        _SERVER,
        "            message = signal.SIGTERM\n",
        "            return\n",
        _TESTS_OF_WORKERS,
    ),
    Mutant(
        "a worker drops the SIGHUP that it was passed",
        _SERVER,
        "        elif message == SIGHUP:\n            self.reload()",
        "        elif message == SIGHUP:\n            pass",
        _TESTS_OF_WORKERS,
    ),
    Mutant(
        "SIGHUP is ignored with one worker",
        _SERVER,
        "add_signal_handler(SIGHUP, self.reload)",
        "add_signal_handler(SIGHUP, lambda: None)",
        _TESTS_OF_WORKERS,
    ),
    Mutant(
        "SIGHUP is kept for ever with one worker",
        _SERVER,
        "            hold_reloads(False)\n",
        "",
        _TESTS_OF_WORKERS,
    ),
    Mutant(
        "the supervisor's listener stays open as its workers end",
        _SUPERVISOR,
        "            listener.close()\n",
        "            pass\n",
        _TESTS_OF_WORKERS,
    ),
    Mutant(
        "a worker that dies as it starts is replaced at once",
        _SUPERVISOR,
        "self._no_start_before = time.monotonic() + _PAUSE_SECONDS",
        "pass",
        _TESTS_OF_WORKERS,
    ),
    Mutant(
        "first workers that die as they start are started again for ever",
        _SUPERVISOR,
        "            if not self._has_served:\n                return False\n",
        "",
        _TESTS_OF_WORKERS,
    ),
    Mutant(
        "the last answers of a drain keep their connections",
        _DRAINING,
        "self.server_state.default_headers = self.server_state.default_headers + close",
        "pass",
        _TESTS_OF_DRAINING,
    ),
    Mutant(
        "the answers of a drain keep their connections after a second",
        _DRAINING,
        "self.config.encoded_headers = self.config.encoded_headers + close",
        "pass",
        _TESTS_OF_DRAINING,
    ),
    Mutant(
        "whoever is not accepted yet is reset at the end",
        _DRAINING,
        "                    accepted.append(listener.accept()[0])",
        "                    break",
        _TESTS_OF_DRAINING,
    ),
    Mutant(
        "the kernel connects clients to the end",
        _DRAINING,
        "            stop_connecting(listener)",
        "            pass",
        _TESTS_OF_DRAINING,
    ),
    Mutant(
        "requests on their way are not waited for",
        _DRAINING,
        "if self.force_exit or not self._is_anyone_waiting():",
        "if True:",
        _TESTS_OF_DRAINING,
    ),
    Mutant(
        "new connections are accepted to the end",
        _DRAINING,
        "            await self._close_listeners()\n",
        "",
        _TESTS_OF_DRAINING,
    ),
    Mutant(
        "without httptools the limits are gone, and nobody says so",
        _SERVER,
        "        logger.warning(_WITHOUT_LIMITS)",
        "        pass",
        _TESTS_OF_LIMITS,
    ),
    Mutant(
        "the limits are gone with httptools, too",
        _SERVER,
        'if importlib.util.find_spec("httptools"):',
        "if False:",
        _TESTS_OF_LIMITS,
    ),
    Mutant(
        "an answer's label is its class index",
        "app/inference/answers.py",
        "self._labels[index]",
        "str(index)",
        _TESTS_OF_LABELS,
    ),
    Mutant(
        "a scored row's label is its class index",
        "app/scoring/answers.py",
        "[labels[digit] for digit in digits.tolist()]",
        "[str(digit) for digit in digits.tolist()]",
        _TESTS_OF_LABELS,
    ),
    Mutant(
        "a verdict's rival is its class index",
        "app/cli/predict/verdict.py",
        "{label} or {labels[rival_of(answer)]}?",
        "{label} or {rival_of(answer)}?",
        _TESTS_OF_LABELS,
    ),
    Mutant(
        "a verdict counts the votes of a class index",
        "app/cli/predict/verdict.py",
        "{_say(others)} {labels[rival]}",
        "{_say(others)} {rival}",
        _TESTS_OF_LABELS,
    ),
    Mutant(
        "the only pass says a class index",
        "app/cli/predict/verdict.py",
        "{labels[answer.votes.index(1)]}",
        "{answer.votes.index(1)}",
        _TESTS_OF_LABELS,
    ),
    Mutant(
        "a table's rival is its class index",
        "app/cli/predict/writers.py",
        "{self._labels[rival]}:",
        "{rival}:",
        _TESTS_OF_LABELS,
    ),
    Mutant(
        "a prediction set has class indices",
        "app/cli/predict/writers.py",
        '", ".join(self.labels[index] for',
        '", ".join(str(index) for',
        _TESTS_OF_LABELS,
    ),
    Mutant(
        "bodies on their way are unbounded",
        _RECEIVING,
        "            _check_unread_bodies(request)\n            chunk",
        "            chunk",
        _TESTS_OF_BODIES,
    ),
    Mutant(
        "bodies that wait to be parsed are unbounded",
        _RECEIVING,
        "        _check_unread_bodies(request)\n        async with",
        "        async with",
        _TESTS_OF_BODIES,
    ),
    Mutant(
        "the memory of a body on its way is never given back",
        _RECEIVING,
        "        return bytes(body)\n    finally:\n        state.unread_body_bytes -= len(body)",
        "        return bytes(body)\n    finally:\n        pass",
        _TESTS_OF_BODIES,
    ),
    Mutant(
        "a body that breaks its limit counts on while it is read off",
        _RECEIVING,
        "                state.unread_body_bytes -= len(body)\n                body = bytearray()",
        "                body = bytearray()",
        _TESTS_OF_BODIES,
    ),
)


def killer(mutant: Mutant, folder: Path) -> str | None:
    """The first test file that fails with the mutant; None: it survives.

    Raises:
        ValueError: the file has changed, and the mutant must be written anew.
    """
    path = folder / mutant.file
    whole = path.read_text()
    if whole.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} has {whole.count(mutant.old)} times: {mutant.old.strip()}")
    path.write_text(whole.replace(mutant.old, mutant.new))
    try:
        for tests in mutant.tests:
            if not do_pass([tests], folder):
                return tests
        return None
    finally:
        path.write_text(whole)


def main() -> int:
    chosen = [each for each in MUTANTS if all(word in each.name for word in sys.argv[1:])]
    survivors = 0
    with copy_of_the_tree() as folder:
        for tests in sorted({tests for mutant in chosen for tests in mutant.tests}):
            if not do_pass([tests], folder):
                print(f"{tests} fails without any mutant")
                return 1
        for mutant in chosen:
            by = killer(mutant, folder)
            survivors += by is None
            verdict = "survived" if by is None else "killed  "
            print(f"{verdict}  {mutant.name}  {by or ''}".rstrip(), flush=True)
    print(f"{len(chosen)} mutants, {survivors} survived")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
