"""Reports: what is written is what was measured."""

import csv
import json
import math

import pytest

from sct.errors import UserError
from sct.evaluation.metrics import Row, summarize
from sct.evaluation.scores import markdown_table, read_cases_csv, write_report


def row(case_id, class_name, *, missed=False, **scores):
    return Row(case_id=case_id, class_name=class_name, missed=missed, false_positive=False, **scores)


ROWS = [
    row("case1", "liver, left", dice=1 / 3, hd95_mm=0.1 + 0.2, missed=False),
    row("case1", "spleen", dice=0.0, hd95_mm=412.5, missed=True),
    row("case2", "liver, left", dice=0.9, hd95_mm=2.0, missed=False),
    row("case2", "spleen", dice=math.nan, hd95_mm=math.nan, missed=False),
]


def test_rows_survive_the_file(tmp_path):
    write_report(tmp_path / "eval" / "val", ROWS, title="val", meta={"ckpt": "run/last.pt"})
    back = read_cases_csv(tmp_path / "eval" / "val" / "cases.csv")
    assert repr(back) == repr(ROWS)
    assert summarize(back) == summarize(ROWS)
    with (tmp_path / "eval" / "val" / "cases.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header[:3] == ["case_id", "class", "dice"]
    assert {"iou", "accuracy", "sensitivity", "specificity", "hd95_mm", "hd95_voxel", "missed"} < set(header)


def test_summary_and_table_are_complete(tmp_path):
    summary = write_report(
        tmp_path, ROWS * 2, title="BTCV test", meta={"split": "test"}, groups={"of the papers": ["spleen"]}
    )
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["n_missed"] == 1
    assert summary["n_cases"] == 2
    assert summary["meta"] == {"split": "test"}
    text = (tmp_path / "table.md").read_text()
    assert markdown_table(summary) in text
    assert "# BTCV test" in text
    assert "- split: test" in text
    assert "missed organ counts" in text
    assert "mean of the papers" in text
    assert "**0.3083**" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "summary.json", "table.md"]


def test_table_lines_are_aligned():
    lines = markdown_table(summarize(ROWS)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].replace(" ", "") == "|liver,left|0.6167|1.15|2|0|0|0|"


def test_nothing_to_measure_is_null(tmp_path):
    rows = [row("a", "liver", dice=math.nan, hd95_mm=math.nan)]
    summary = write_report(tmp_path, rows, title="empty")
    assert summary["dice"]["mean"] is None
    assert markdown_table(summary).splitlines()[2].replace(" ", "") == "|liver|-|-|1|0|0|1|"


def test_a_data_set_chooses_the_columns():
    worst = dict.fromkeys(("dice", "iou", "accuracy", "sensitivity", "specificity"), 0.0)
    rows = [
        row("a", "lesion", dice=0.5, iou=1 / 3, accuracy=0.9, sensitivity=0.4, specificity=0.95, hd95_voxel=12.5),
        row("b", "lesion", **worst, hd95_voxel=50.0, missed=True),
    ]
    lines = markdown_table(summarize(rows), scores=tuple(worst)).splitlines()
    heads = [head.strip() for head in lines[0].split("|")[2:7]]
    assert heads == ["Dice", "IoU", "accuracy", "sensitivity", "specificity"]
    assert lines[2].replace(" ", "") == "|lesion|0.2500|0.1667|0.4500|0.2000|0.4750|2|1|0|0|"
    usual = markdown_table(summarize(rows))
    assert "HD95 (voxels)" in usual
    assert "31.25" in usual
    assert "mm" not in usual


def test_nsd_stands_between_dice_and_hd95():
    rows = [row("a", "liver", dice=0.5, nsd=0.25, hd95_mm=3.0), row("b", "liver", dice=0.0, nsd=0.0, hd95_mm=9.0)]
    lines = markdown_table(summarize(rows)).splitlines()
    assert [head.strip() for head in lines[0].split("|")[2:5]] == ["Dice", "NSD", "HD95 (mm)"]
    assert lines[2].replace(" ", "") == "|liver|0.2500|0.1250|6.00|2|0|0|0|"


def test_a_score_that_is_new_is_read_as_not_measured(tmp_path):
    """A report of evaluations of earlier versions loses nothing."""
    rows = [row("a", "liver", dice=0.5, nsd=0.25, hd95_mm=3.0)]
    write_report(tmp_path, rows, title="t")
    path = tmp_path / "cases.csv"
    assert read_cases_csv(path)[0].nsd == 0.25
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    column = lines[0].index("nsd")
    path.write_text("".join(",".join(line[:column] + line[column + 1 :]) + "\n" for line in lines))
    (back,) = read_cases_csv(path)
    assert (back.dice, back.hd95_mm) == (0.5, 3.0)
    assert math.isnan(back.nsd)


def test_a_table_of_an_older_version_is_told(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("case_id,class,dice,hd95_mm,missed,false_positive\n1,liver,0.5,1.0,0,0\n")
    with pytest.raises(UserError, match=r"lacks the column.*iou.*sct.eval again"):
        read_cases_csv(path)
