"""The mutation score: how many of the changes that cosmic-ray makes to the code its tests notice.

`python -m tests.mutations.score` draws 400 mutants of `TESTS`' modules with a seed, runs each
module's own tests against each of its mutants, and prints the survivors and the share of those
killed; exits with 1 if it is below 90 %. Installing cosmic-ray is up to the user, and an
environment of its own will do: `pip install --target FOLDER cosmic-ray`, with FOLDER in PYTHONPATH.
"""

import argparse
import ast
import difflib
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.mutations.reasons import REASONS
from tests.mutations.running import ROOT, Compiling, copy_of_the_tree, do_pass

_LEAST_SCORE = 0.9
# Each module's tests, the quick ones first.
TESTS = {
    "app/inference/scheduler.py": (
        "tests/app/inference/test_scheduler_limits.py",
        "tests/app/inference/test_scheduler.py",
    ),
    "app/inference/admission.py": ("tests/app/inference/test_admission.py",),
    "app/inference/backlog.py": ("tests/app/inference/test_backlog.py",),
    "app/api/auth.py": (
        "-m=not slow",
        "tests/app/api/test_auth.py",
        "tests/app/api/test_models.py",
    ),
    "model/sampling/masks.py": (
        "-k=not has_no_bias",  # for which the whole engine would be compiled
        "tests/model/sampling/test_masks.py",
        "tests/model/sampling/test_balanced.py",
    ),
    "model/uncertainty/statistics.py": ("tests/model/uncertainty/test_statistics.py",),
    "model/uncertainty/calibration.py": ("tests/model/uncertainty/test_calibration.py",),
    "model/uncertainty/decisions.py": ("tests/model/uncertainty/test_decisions.py",),
}
COMPILING: dict[str, Compiling] = {
    "model/sampling/masks.py": "lazily",  # their numbers have the sizes of compiled code
    "model/uncertainty/statistics.py": "off",
    "model/uncertainty/calibration.py": "off",
}


class Mutant(NamedTuple):
    """One change of a module: by an operator of cosmic-ray, which has it in several places."""

    module: str
    operator: str
    occurrence: int

    def code(self) -> str:
        """The module with the change."""
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        changed = mutate_code(_source(self.module), get_operator(self.operator)(), self.occurrence)
        assert isinstance(changed, str)
        return changed

    def change(self) -> str:
        """The lines that it has in place of others; where it has none, those that it lacks."""
        both = _source(self.module).splitlines(), self.code().splitlines()
        lines = list(difflib.ndiff(*both))
        new, old = (
            " / ".join(filter(None, (line[2:].strip() for line in lines if line[0] == sign)))
            for sign in "+-"
        )
        return new or f"without {old}"


def _source(module: str) -> str:
    return (ROOT / module).read_text()


def places_of(module: str) -> list[list[Mutant]]:
    """The changes that are possible in each place of a module.

    By place, since a plus has twelve and a number two. Those of annotations are left out: they
    fail at the import, or mean nothing.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree, annotations = get_ast(_source(module)), list(_annotations(_source(module)))
    places: dict[object, list[Mutant]] = {}
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments():
            continue
        found = (place for node in ast_nodes(tree) for place in kind().mutation_positions(node))
        for occurrence, (start, end) in enumerate(found):
            if not any(first <= start and end <= last for first, last in annotations):
                family = re.sub("(?<=Operator)_.*", "", name)
                places.setdefault((family, start, end), []).append(Mutant(module, name, occurrence))
    return list(places.values())


def _annotations(code: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where they begin and end: lines from 1, columns from 0."""
    for node in ast.walk(ast.parse(code)):
        for name in ("annotation", "returns"):
            if found := getattr(node, name, None):
                yield (
                    (found.lineno, found.col_offset),
                    (found.end_lineno, found.end_col_offset),
                )


def is_killed(mutant: Mutant, folder: Path) -> bool:
    path = folder / mutant.module
    original = path.read_text()
    path.write_text(mutant.code())
    try:
        return not _pass(mutant.module, folder)
    finally:
        path.write_text(original)


def _pass(module: str, folder: Path) -> bool:
    return do_pass(TESTS[module], folder, COMPILING.get(module, "kept"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="of mutants (default: 400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules whose path has this in it")
    options = parser.parse_args(arguments)
    if find_spec("cosmic_ray") is None:
        how = "pip install --target FOLDER cosmic-ray, with FOLDER in PYTHONPATH"
        print(f"cosmic-ray is missing: {how}", file=sys.stderr)
        return 2
    chance = random.Random(options.seed)
    places = [place for name in TESTS if options.only in name for place in places_of(name)]
    drawn = chance.sample(range(len(places)), min(options.count, len(places)))
    mutants = [chance.choice(places[number]) for number in sorted(drawn)]
    made, killed, unexplained = Counter[str](), Counter[str](), 0
    with copy_of_the_tree() as folder:
        for module in sorted({mutant.module for mutant in mutants}):
            if not _pass(module, folder):
                print(f"the tests of {module} fail without any mutant")
                return 2
        for number, mutant in enumerate(mutants):
            print(f"{number} of {len(mutants)}", end="\r", file=sys.stderr)
            made[mutant.module] += 1
            if is_killed(mutant, folder):
                killed[mutant.module] += 1
                continue
            reason = REASONS.get(mutant.module, {}).get(mutant.change())
            unexplained += reason is None
            print(f"survived: {mutant.module}: {mutant.change()}")
            print(f"  {reason or 'no reason yet'}", flush=True)
    for module, count in made.items():
        print(f"{module}: {killed[module]} of {count} killed")
    score = killed.total() / max(1, made.total())
    explained = made.total() - killed.total() - unexplained
    print(f"{made.total()} mutants, in {len(places)} places, seed {options.seed}")
    print(f"{score:.1%} killed; survivors: {explained} with a reason, {unexplained} without")
    return int(score < _LEAST_SCORE)


if __name__ == "__main__":
    sys.exit(main())
