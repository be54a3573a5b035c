"""Cross-validation and patients: nobody is in two parts, and every case is tested exactly once."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from sct.config.check import build, check_config
from sct.config.command import compose_config
from sct.config.folders import options
from sct.data.cases import Case
from sct.data.splits import SPLITS, by_patient, split_at_random, split_in_folds
from sct.errors import UserError

PATTERN = "^(p[0-9]+)_"


def scans(num_patients: int, *, seed: int = 0) -> list[Case]:
    """One to four scans of every patient, in no order: p7_0, p7_1, ..."""
    rng = random.Random(seed)
    names = [f"p{i}_{j}" for i in range(num_patients) for j in range(rng.randint(1, 4))]
    rng.shuffle(names)
    return [Case(name, Path(name), Path(name)) for name in names]


def ids(cases: list[Case]) -> list[str]:
    return [case.id for case in cases]


def patients(cases: list[Case]) -> set[str]:
    return {case.id.split("_")[0] for case in cases}


def all_folds(cases: list[Case], *, folds: int, **settings: object) -> list[dict[str, list[Case]]]:
    return [split_in_folds(cases, folds=folds, fold=fold, **settings) for fold in range(folds)]


@pytest.mark.parametrize(("num_patients", "folds"), [(4, 2), (4, 4), (10, 3), (23, 2), (23, 5)])
@pytest.mark.parametrize("pattern", [None, PATTERN])
def test_every_case_is_tested_once_and_no_patient_is_in_two_parts(num_patients, folds, pattern):
    cases = scans(num_patients)
    unit = patients if pattern else lambda part: set(ids(part))
    splits = all_folds(cases, folds=folds, val_share=0.2, seed=0, patient_pattern=pattern)
    tested = [case.id for split in splits for case in split["test"]]
    assert sorted(tested) == sorted(ids(cases))
    sizes = [len(unit(split["test"])) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        assert sorted(ids([case for name in SPLITS for case in split[name]])) == sorted(ids(cases))
        parts = [unit(split[name]) for name in SPLITS]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert len(parts[1]) == max(1, round(0.2 * len(parts[0] | parts[1])))


def test_folds_follow_seed_and_ids_only():
    cases = scans(12)
    settings = {"folds": 4, "val_share": 0.2, "patient_pattern": PATTERN}
    one = all_folds(cases, seed=0, **settings)
    assert one == all_folds(cases[::-1], seed=0, **settings)
    assert one != all_folds(cases, seed=1, **settings)
    # folds that validate on the same cases would not be independent
    assert len({tuple(ids(split["val"])) for split in one}) == 4


@pytest.mark.parametrize(
    ("folds", "fold", "words"),
    [
        (4, 4, ["data.fold=4", "0 to 3"]),
        (4, -1, ["data.fold=-1"]),
        (1, 0, ["data.folds=1", "at least 2"]),
        (6, 0, ["of 5 patient(s)", "data.folds=6"]),
    ],
)
def test_folds_that_there_are_not(folds, fold, words):
    with pytest.raises(UserError) as caught:
        split_in_folds(scans(5), folds=folds, fold=fold, val_share=0.2, seed=0, patient_pattern=PATTERN)
    assert all(word in str(caught.value) for word in words), caught.value


def test_two_patients_in_two_folds_leave_none_to_validate_on():
    with pytest.raises(UserError, match="too few"):
        split_in_folds(scans(2), folds=2, fold=0, val_share=0.2, seed=0, patient_pattern=PATTERN)


def test_the_random_split_keeps_patients_together():
    cases = scans(20)
    split = split_at_random(cases, val_share=0.1, test_share=0.2, seed=0, patient_pattern=PATTERN)
    assert [len(patients(split[name])) for name in SPLITS] == [14, 2, 4]
    assert len(set.union(*(patients(split[name]) for name in SPLITS))) == 20
    assert sum(len(split[name]) for name in SPLITS) == len(cases)


def test_patients_by_a_pattern():
    cases = [Case(name, Path(name), None) for name in ("b_2", "a_1", "b_1")]
    assert [ids(group) for group in by_patient(cases, pattern="^(.)")] == [["a_1"], ["b_1", "b_2"]]
    assert [ids(group) for group in by_patient(cases, pattern=None)] == [["a_1"], ["b_1"], ["b_2"]]
    for pattern, word in (("(", "regular expression"), ("^.", "no group"), ("^(a)", "case id b_1")):
        with pytest.raises(UserError, match=word):
            by_patient(cases, pattern=pattern)


def test_a_data_set_in_folds(make_btcv: Callable):
    tested = [case.id for fold in range(3) for case in make_btcv(folds=3, fold=fold).cases("test")]
    assert sorted(tested) == ["0001", "0002", "0003", "0021", "0022", "0023"]
    for fields, word in (
        ({"folds": 3}, "data.fold=None go together"),
        ({"fold": 3}, "data.folds=None and"),
        ({"folds": 3, "fold": 0, "split": "same"}, "data.split=null"),
    ):
        with pytest.raises(UserError, match=word):
            make_btcv(**fields)


# Synapse has its own split; images to pretrain on are not tested, so that there are no folds
@pytest.mark.parametrize("name", [name for name in options("data") if "synapse" not in name and name != "images"])
def test_every_data_set_has_the_keys(name: str):
    settings = ["data.split=null", "data.folds=4", "data.fold=1", "data.patient_pattern='^(..)'", "data.root=nowhere"]
    settings += ["data.values={mole: 255}"] * (name == "pictures")
    cfg = compose_config("train", overrides=[f"data={name}", *settings])
    check_config(cfg)
    data = build(cfg.data, key="data")
    assert (data.folds, data.fold, data.patient_pattern, data.split) == (4, 1, "^(..)", None)


def test_a_split_file_that_parts_a_patient_is_told(make_btcv: Callable, tmp_path: Path, caplog):
    own = tmp_path / "own.json"
    own.write_text('{"train": ["0001", "0021"], "val": ["0002"], "test": ["0022"]}')
    make_btcv(split=str(own)).prepare()
    assert "patient" not in caplog.text
    make_btcv(split=str(own), patient_pattern="^(...)").prepare()
    assert "2 patient(s) have cases in more than one of train, val and test, such as 0001, 0002:" in caplog.text
