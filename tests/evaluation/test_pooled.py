"""IoU of all cases together: sums of voxels before the division, by hand."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, Regions, numbered
from sct.evaluation.metrics import Row, score_case, summarize
from sct.evaluation.pooled import Voxels, pooled_iou
from sct.evaluation.scores import markdown_table, read_cases_csv, write_report
from sct.reports.collect import EvaluatedRun, Setting
from sct.reports.tables import score_cells


def rows_of(pred: list[int], truth: list[int], *, case_id: str) -> list[Row]:
    maps = (np.array(labels, np.uint8).reshape(2, -1) for labels in (pred, truth))
    return score_case(*maps, outputs=numbered(3), spacing=[1, 1], case_id=case_id)


@pytest.fixture
def rows() -> list[Row]:
    """Of class 1: 3 hits, 2 wrong, 1 lost; missed with 4; predicted in vain with 2; absent. Class 2 only in case d."""
    return [
        *rows_of([1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 1, 0, 0], case_id="a"),
        *rows_of([0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], case_id="b"),
        *rows_of([0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0], case_id="c"),
        *rows_of([0, 2, 2, 0], [2, 2, 0, 0], case_id="d"),
    ]


def counts(row: Row) -> tuple[float, float, float]:
    return row.voxels_hit, row.voxels_wrong, row.voxels_lost


def test_counts_and_pooled_iou_by_hand(rows: list[Row]) -> None:
    assert [counts(row) for row in rows if row.class_name == "1"] == [(3, 2, 1), (0, 0, 4), (0, 2, 0), (0, 0, 0)]
    summary = summarize(rows, groups={"first": ["1"]})
    assert summary["pooled_iou"]["per_class"] == {"1": 3 / 12, "2": 1 / 3}
    assert summary["pooled_iou"]["mean"] == pytest.approx((3 / 12 + 1 / 3) / 2)
    assert summary["pooled_iou"]["groups"] == {"first": 3 / 12}
    # the mean over cases is another number
    assert summary["iou"]["per_class"]["1"] == pytest.approx((3 / 6 + 0 + 0) / 3)


def test_a_case_that_comes_twice_counts_once(rows: list[Row]) -> None:
    assert summarize([*rows, *rows]) == summarize(rows)


def test_regions_and_voxels_to_ignore() -> None:
    pred, truth = np.array([[1, 2, 2, 1, 2]], np.uint8), np.array([[1, 1, 2, 3, 3]], np.uint8)
    names = LabelMap(("background", "a", "b"), has_ignored=True)
    settings = {"spacing": [1, 1], "case_id": "x"}
    assert [counts(row) for row in score_case(pred, truth, outputs=Classes(names), **settings)] == [
        (1, 0, 1),
        (1, 1, 0),
    ]
    regions = Regions.from_settings(names, {"all": [1, 2], "inner": [2]})
    assert [counts(row) for row in score_case(pred, truth, outputs=regions, **settings)] == [(3, 0, 0), (1, 1, 0)]


def test_a_class_that_is_nowhere_has_none() -> None:
    assert pooled_iou([Voxels(0, 0, 0), Voxels(0, 0, 0)]) is None
    assert summarize(rows_of([0, 0, 0, 1], [0, 0, 1, 1], case_id="a"))["pooled_iou"]["per_class"] == {
        "1": 0.5,
        "2": None,
    }


def test_files_keep_the_counts_and_evaluations_of_earlier_versions_have_none(rows: list[Row], tmp_path: Path) -> None:
    written = write_report(tmp_path, rows, title="t", scores=("dice", "pooled_iou"))
    assert json.loads((tmp_path / "summary.json").read_text())["pooled_iou"] == written["pooled_iou"]
    assert "IoU pooled" in (tmp_path / "table.md").read_text()
    path = tmp_path / "cases.csv"
    assert summarize(read_cases_csv(path)) == summarize(rows)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    kept = [name for name in lines[0] if not name.startswith("voxels")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    old = read_cases_csv(path)
    assert all(map(math.isnan, counts(old[0])))
    summary = summarize(old)
    assert "pooled_iou" not in summary
    assert "pooled" not in markdown_table(summary, scores=("dice", "pooled_iou"))
    # one case without counts: the sum is not known
    assert summarize([*rows[:2], *old[2:]])["pooled_iou"]["mean"] is None


def test_a_report_shows_it_where_it_is_asked_for(rows: list[Row], tmp_path: Path) -> None:
    run = EvaluatedRun(tmp_path, {}, [], summarize(rows), rows, None, None, {})
    cells = score_cells(Setting("run", [run]), "pooled_iou", classes=True)
    assert cells["IoU pooled"].text() == "0.2917"
    assert cells["IoU pooled 1"].text() == "0.2500"
