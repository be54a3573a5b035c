"""Lesions by hand, and what is left of them in files."""

import csv
import math

import numpy as np
import pytest

from sct.data.outputs import numbered
from sct.evaluation.lesions import Lesions, count_lesions
from sct.evaluation.metrics import score_case, summarize
from sct.evaluation.scores import markdown_table, read_cases_csv, write_report

TRUTH = """
11...1
1.....
......
1.....
.....1
"""
# the first is touched at a corner, one part covers two true lesions, and one part touches none
PRED = """
1.....
.1....
.1..1.
1.....
...1..
"""


def drawn(text):
    return np.array([[int(letter) for letter in row.replace(".", "0")] for row in text.split()], dtype=np.uint8)


def test_lesions_by_hand():
    pred, truth = drawn(PRED), drawn(TRUTH)
    assert count_lesions(pred == 1, truth == 1) == Lesions(found=2, missed=2, false=2)
    found = count_lesions(pred == 1, truth == 1)
    assert (found.sensitivity, found.precision, found.f1) == (0.5, 0.5, 0.5)
    assert Lesions(3, 1, 2).sensitivity == 0.75
    assert Lesions(3, 1, 2).precision == 0.6
    assert Lesions(3, 1, 2).f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)


def test_corners_connect_in_three_dimensions():
    truth = np.zeros((3, 3, 3), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True
    assert count_lesions(truth, truth) == Lesions(1, 0, 0)
    apart = np.zeros((5, 3, 3), bool)
    apart[0, 0, 0] = apart[2, 1, 1] = True
    assert count_lesions(apart, apart) == Lesions(2, 0, 0)


def test_nothing_has_the_worst_value_and_neither_has_none():
    for lesions in (Lesions(0, 2, 0), Lesions(0, 0, 3), Lesions(0, 1, 1)):
        assert (lesions.sensitivity, lesions.precision, lesions.f1) == (0.0, 0.0, 0.0)
    assert math.isnan(Lesions(0, 0, 0).f1)


def rows_of(pred, truth, case_id):
    return score_case(pred, truth, outputs=numbered(3), spacing=(1, 1), case_id=case_id, lesions=True)


def test_the_counts_are_in_every_file(tmp_path):
    pred, truth = drawn(PRED), drawn(TRUTH)
    empty = np.zeros_like(truth)
    rows = [*rows_of(pred, truth, "a"), *rows_of(empty, truth, "b"), *rows_of(pred, empty, "c")]
    first = [row for row in rows if row.class_name == "1"]
    assert [row.lesions for row in first] == [Lesions(2, 2, 2), Lesions(0, 4, 0), Lesions(0, 0, 3)]
    assert [row.lesion_f1 for row in first] == [0.5, 0.0, 0.0]
    other = next(row for row in rows if row.class_name == "2")
    assert other.lesions == Lesions(0, 0, 0)
    assert math.isnan(other.lesion_f1)
    summary = write_report(tmp_path, rows, title="t")
    assert summary["lesions"]["1"] == {
        "found": 2, "missed": 6, "false": 5, "sensitivity": 0.25, "precision": 2 / 7, "f1": 4 / 15,
    }  # fmt: skip
    assert summary["lesions"]["2"]["f1"] is None
    assert summary["lesion_f1"]["per_class"] == {"1": pytest.approx(0.5 / 3), "2": None}
    back = read_cases_csv(tmp_path / "cases.csv")
    assert repr(back) == repr(sorted(rows, key=lambda row: row.case_id))
    assert summarize(back) == summarize(rows)
    text = (tmp_path / "table.md").read_text()
    assert "| 1     |            8 |     2 |      6 |     5 |      0.2500 |    0.2857 | 0.2667 |" in text
    assert "at least one of its voxels is predicted" in text
    assert "lesion F1" in markdown_table(summary, scores=("dice", "lesion_f1"))


def test_nobody_asks_and_nothing_is_counted(tmp_path):
    pred, truth = drawn(PRED), drawn(TRUTH)
    rows = score_case(pred, truth, outputs=numbered(3), spacing=(1, 1), case_id="a")
    assert rows[0].lesions is None
    summary = write_report(tmp_path, rows, title="t")
    assert not {"lesions", "lesion_f1"} & set(summary)
    with (tmp_path / "cases.csv").open() as file:
        assert not any(name.startswith("lesion") for name in next(csv.reader(file)))
    assert "lesion" not in (tmp_path / "table.md").read_text()
