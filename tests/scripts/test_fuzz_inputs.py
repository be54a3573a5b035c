"""The fuzzer, in short: mutated files of every kind end in the right result or in one error."""

import importlib
import sys
from pathlib import Path

import pytest

from sct.data.formats import nifti, nifti_header

SCRIPTS = Path(__file__).parents[2] / "scripts"
# a few dear ones, and many of the others
CASES = {"dicom": 10, "h5": 15, "decathlon": 10, "nnunet": 10, "pair": 15}
FIRST = 7000


@pytest.fixture(scope="module")
def fuzzer():
    sys.path.insert(0, str(SCRIPTS))
    for package in ("h5py", "SimpleITK"):
        pytest.importorskip(package)
    yield importlib.import_module("fuzzing.kinds"), importlib.import_module("fuzzing.runner")
    sys.path.remove(str(SCRIPTS))


def outcomes(fuzzer, name: str, folder: Path, *, cases: int) -> dict[str, int]:
    """The first seed of every outcome, in this process."""
    kinds, runner = fuzzer
    found: dict[str, int] = {}
    for seed in range(FIRST, FIRST + cases):
        base, changes = runner.drawn_case(name, kinds.KINDS[name], seed)
        found.setdefault(runner.outcome_of(kinds.KINDS[name], folder, base, changes), seed)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux")
def test_mutated_files_end_well(fuzzer, tmp_path):
    wrong = {}
    for name in fuzzer[0].KINDS:
        found = outcomes(fuzzer, name, tmp_path / name, cases=CASES.get(name, 30))
        wrong |= {f"{name}:{seed}": outcome for outcome, seed in found.items() if outcome not in fuzzer[1].GOOD}
        assert "ok" in found, f"{name} is never read"
    assert not wrong


@pytest.mark.parametrize(
    ("spoil", "outcome"),
    [
        ("read_header", "crash: KeyError"),
        ("_check_scaling", "SILENT: accepted, but scl_"),
        ("is_packed", "HONEST: "),
    ],
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux")
def test_a_reader_that_is_wrong_is_seen(fuzzer, tmp_path, monkeypatch, spoil, outcome):
    if spoil == "read_header":
        monkeypatch.setattr(nifti, spoil, lambda path: {}["nothing"])
    else:
        monkeypatch.setattr(nifti_header, spoil, lambda *args, **kwargs: False)
    assert any(found.startswith(outcome) for found in outcomes(fuzzer, "nifti", tmp_path, cases=200))


def test_a_case_is_a_function_of_its_seed_and_is_minimised(fuzzer, tmp_path):
    kinds, runner = fuzzer
    kind = kinds.KINDS["nifti"]
    assert runner.drawn_case("nifti", kind, 5) == runner.drawn_case("nifti", kind, 5)
    base, _ = runner.drawn_case("nifti", kind, 5)
    changes = [("intent_code", 0, 1007), ("magic", 0, b"xxxx"), ("zeros", 0, 3)]
    outcome, fewer = runner.minimised(kind, tmp_path / "case", {**base, "code": 4, "shape": [5, 5, 5]}, changes)
    assert (outcome, fewer) == ("refused", [("magic", 0, b"xxxx")])
