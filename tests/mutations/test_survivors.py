"""The table of mutants stays one of today's code; `tests.mutations.survivors` runs it."""

import pytest

from tests.mutations.running import ROOT
from tests.mutations.survivors import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_changes_one_place_and_has_tests(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert all((ROOT / tests).is_file() for tests in mutant.tests)
