"""The list of deliberate faults: each fits the program, its tests exist, and one of them is told from no fault."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "mutants.py"
ROOT = SCRIPT.parents[1]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_every_fault_fits_the_program_and_its_tests_exist(script):
    mutants = script["load"](script["LISTS"], only="")
    assert len(mutants) > 200
    script["check"](mutants)
    assert all(mutant.old != mutant.new for mutant in mutants)
    assert [path for mutant in mutants for path in mutant.tests.split() if not (ROOT / path).exists()] == []


def test_a_block_of_a_list(script):
    text = "# about\n\na.py | tests/a tests/b\n- old\n-   line\n+ new\n? reason\n"
    (mutant,) = script["parse"](text)
    assert tuple(mutant) == ("a.py", "old\n  line", "new", "tests/a tests/b", "reason")


def test_a_fault_that_does_not_fit_ends_the_script(script):
    stale = script["Mutant"]("scripts/mutants.py", "no such text", "", "tests")
    with pytest.raises(SystemExit, match="occurs 0 times"):
        script["check"]([stale])


def test_the_table_lists_what_survived(script):
    killed, survived = (script["Mutant"]("a.py", old, "new", "tests") for old in ("first", "second"))
    text = script["table"]([(killed, "killed"), (survived, "survived")])
    assert text.startswith("1 of 2 mutants are killed.")
    assert "| a.py | second | new | survived | a test is missing |" in text
    assert "first" not in text
