"""Which cases train, select and test: shipped or own split files, a seeded random split, or folds.

A split file is JSON with the keys `train`, `val`, `test`, each a list of case ids or the word "all"; a key that is left
out has no cases.
What is drawn is shared out by patient, and follows from the seed and the ids alone.
"""

import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sct.data.cases import Case
from sct.errors import UserError
from sct.runtime.plain import read_json

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_SHOWN = 40  # ids in a message
_SHIPPED = Path(__file__).parent / "splits"


def shipped_splits() -> list[str]:
    """Names that `data.split` may have besides a path."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def split_by_file(cases: Sequence[Case], *, split: str) -> dict[str, list[Case]]:
    """Sort the cases as the shipped or own file `split` says; raises `UserError` if it names absent ones."""
    path = _SHIPPED / f"{split}.json" if split in shipped_splits() else Path(split)
    if not path.is_file():
        raise UserError(
            f"data.split={split} is neither a file nor one of the shipped splits {shipped_splits()}. "
            "Name one of these, or leave it null for a random split."
        )
    lists = _read_split(path)
    by_id: dict[str, list[Case]] = {}
    for case in cases:
        by_id.setdefault(case.id, []).append(case)
    named = {name: sorted(by_id) if ids == "all" else ids for name, ids in lists.items()}
    absent = sorted({i for ids in named.values() for i in ids} - by_id.keys())
    if absent:
        raise UserError(
            f"The split {path} names {len(absent)} case(s) that the data folder lacks: "
            f"{_some(absent)} (it has {_some(sorted(by_id))}). Complete the data, or set "
            "data.split=null for a random split or data.split=same to train, validate and test on the very "
            "same cases (overfitting on purpose)."
        )
    unused = sorted(by_id.keys() - {i for ids in named.values() for i in ids})
    if unused:
        logger.warning("split %s leaves %d case(s) of the folder out: %s", path.stem, len(unused), _some(unused))
    return {name: [case for i in ids for case in by_id[i]] for name, ids in named.items()}


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")


def _read_split(path: Path) -> dict[str, list[str] | str]:
    content = read_json(path, remedy="Give data.split another file.")
    lists = content if isinstance(content, dict) else {}
    given = [name for name in SPLITS if name in lists]
    wrong = [name for name in given if lists[name] != "all" and not isinstance(lists[name], list)]
    if wrong or not given:
        fault = f"a wrong {', '.join(wrong)}" if wrong else "none of train, val and test"
        raise UserError(
            f"data.split: {path} has {fault}: these keys must be there, each a list of case ids or "
            '"all"; a set that only tests needs test alone.'
        )
    for name in given:
        check_ids_of_list(lists[name] if lists[name] != "all" else [], what=f"data.split: {path}: `{name}`")
    return {name: lists.get(name, []) for name in SPLITS}


def check_ids_of_list(ids: list[Any], *, what: str) -> None:
    """UserError unless a list names cases, and none twice: it would count twice in every mean."""
    if wrong := [case for case in ids if not isinstance(case, str)]:
        raise UserError(f"{what} has {wrong[0]!r}; expected ids of cases, as text. Correct it.")
    if len(set(ids)) < len(ids):
        raise UserError(f"{what} names {next(case for case in ids if ids.count(case) > 1)} twice. Correct it.")


def by_patient(cases: Sequence[Case], *, pattern: str | None) -> list[list[Case]]:
    """The cases of every patient, both in order; the first group of `pattern`, found in an id, is its patient.

    None: every id is a patient of its own.
    """
    try:
        compiled = re.compile(pattern or "(.*)", re.DOTALL)
    except re.error as error:
        raise UserError(f"data.patient_pattern={pattern} is not a regular expression: {error}.") from error
    if compiled.groups < 1:
        raise UserError(
            f"data.patient_pattern={pattern} has no group: put the part of an id that names the patient into "
            "parentheses, as in '^(.*)_scan'."
        )
    patients: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        match = compiled.search(case.id)
        if match is None or match[1] is None:
            raise UserError(f"data.patient_pattern={pattern} finds no patient in the case id {case.id}. Correct it.")
        patients.setdefault(match[1], []).append(case)
    return [patients[name] for name in sorted(patients)]


def split_at_random(
    cases: Sequence[Case], *, val_share: float, test_share: float, seed: int, patient_pattern: str | None = None
) -> dict[str, list[Case]]:
    """Shares of the patients validate and test, the others train."""
    if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
        raise UserError(
            f"data.val_share={val_share} and data.test_share={test_share} must be positive and leave cases to train on."
        )
    patients = by_patient(cases, pattern=patient_pattern)
    num_test = max(1, round(test_share * len(patients)))
    num_val = max(1, round(val_share * len(patients)))
    if len(patients) < num_val + num_test + 1:
        raise UserError(
            f"{cases_and_patients(cases, patients)} are too few to train, validate and test on different ones. Add "
            "cases, or set data.split=same to use the very same cases for all three (overfitting on purpose)."
        )
    drawn = np.random.default_rng(seed).permutation(len(patients))
    parts = {
        "test": drawn[:num_test],
        "val": drawn[num_test : num_test + num_val],
        "train": drawn[num_test + num_val :],
    }
    return collect(patients, parts)


def split_in_two(
    cases: Sequence[Case], *, val_share: float, seed: int, patient_pattern: str | None = None
) -> dict[str, list[Case]]:
    """A share of the patients validates, the others train, where it is known already which cases test."""
    if not 0 < val_share < 1:
        raise UserError(f"data.val_share={val_share} must lie between 0 and 1: it is the share of what doesn't test.")
    patients = by_patient(cases, pattern=patient_pattern)
    num_val = max(1, round(val_share * len(patients)))
    if len(patients) < num_val + 1:
        raise UserError(
            f"{cases_and_patients(cases, patients)} are too few to train and validate on different ones. Add cases."
        )
    drawn = np.random.default_rng(seed).permutation(len(patients))
    return collect(patients, {"val": drawn[:num_val], "train": drawn[num_val:], "test": []})


def split_in_folds(
    cases: Sequence[Case], *, folds: int, fold: int, val_share: float, seed: int, patient_pattern: str | None = None
) -> dict[str, list[Case]]:
    """The patients of fold `fold`, counted from 0, test; `val_share` of the others validate and the rest train.

    Every patient is in one of the `folds` folds, whose sizes differ by one patient at most.
    """
    if folds < 2:
        raise UserError(f"data.folds={folds} must be at least 2, or null for no cross-validation.")
    if not 0 <= fold < folds:
        raise UserError(f"data.fold={fold} is not among data.folds={folds}: they are counted from 0 to {folds - 1}.")
    if not 0 < val_share < 1:
        raise UserError(f"data.val_share={val_share} must lie between 0 and 1: it is the share of what doesn't test.")
    patients = by_patient(cases, pattern=patient_pattern)
    drawn = np.random.default_rng(seed).permutation(len(patients))
    # from the fold on and round, so that every fold validates on other patients
    others = [i for shift in range(1, folds) for i in drawn[(fold + shift) % folds :: folds]]
    num_val = max(1, round(val_share * len(others)))
    if len(patients) < folds or len(others) < num_val + 1:
        raise UserError(
            f"{cases_and_patients(cases, patients)} are too few for data.folds={folds}: every fold needs one to test "
            "on, and the others one to validate and one to train on. Ask for fewer folds, or add cases."
        )
    return collect(patients, {"test": drawn[fold::folds], "val": others[:num_val], "train": others[num_val:]})


def cases_and_patients(cases: Sequence[Case], patients: Sequence[Sequence[Case]]) -> str:
    """How many cases there are, and of how many patients where that is another number."""
    known = f" of {len(patients)} patient(s)" if len(patients) < len(cases) else ""
    return f"{len(cases)} case(s){known}"


def collect(patients: Sequence[Sequence[Case]], parts: Mapping[str, Iterable[int]]) -> dict[str, list[Case]]:
    """The cases of the numbered patients of every part, in order."""
    return {name: [case for i in sorted(parts[name]) for case in patients[i]] for name in SPLITS}


def without_excluded(splits: Mapping[str, Sequence[Case]], *, exclude: Sequence[str]) -> dict[str, list[Case]]:
    """The parts without some cases, by their ids or names; UserError for what is none.

    The others stay in their parts: what is drawn is drawn with all.
    """
    cases = {case for part in splits.values() for case in part}
    known = {case.id for case in cases} | {case.name for case in cases}
    if unknown := [name for name in exclude if name not in known]:
        close = difflib.get_close_matches(unknown[0], sorted(known), n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]!r}?" if close else f"The data set has {_some(sorted(known))}."
        raise UserError(f"data.exclude names {_some(unknown)}, which no case of the data set is called. {hint}")
    return {
        name: [case for case in part if case.id not in exclude and case.name not in exclude]
        for name, part in splits.items()
    }


def without_labels(splits: Mapping[str, Sequence[Case]]) -> dict[str, list[Case]]:
    """The parts with the images of their cases alone."""
    return {name: [replace(case, label=None) for case in part] for name, part in splits.items()}


def warn_of_shared(splits: Mapping[str, Sequence[Case]], *, split: str | None, pattern: str | None) -> None:
    """A warning where cases that train also validate or test, and where cases of one patient are in several parts."""
    if set(splits["train"]) & {*splits["val"], *splits["test"]}:
        logger.warning(
            "split %s validates or tests on cases it trains on: its figures mean nothing", Path(split or "").stem
        )
    if pattern is None:
        return
    part_of = {case: name for name in SPLITS for case in splits[name]}
    shared = [cases for cases in by_patient(list(part_of), pattern=pattern) if len({part_of[c] for c in cases}) > 1]
    if shared:
        logger.warning(
            "%d patient(s) have cases in more than one of train, val and test, such as %s: figures mean nothing then",
            len(shared),
            _some([case.id for case in shared[0]]),
        )


def split_in_order(cases: list[Case], *, num_train: int, num_val: int) -> dict[str, list[Case]]:
    """The first cases train, the next validate, the rest test."""
    first_test = num_train + num_val
    return {"train": cases[:num_train], "val": cases[num_train:first_test], "test": cases[first_test:]}
