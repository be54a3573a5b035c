"""Reports: what is written is what was measured."""

import csv
import json
import math

from sct.metrics import Row, summarize
from sct.report import markdown_table, read_cases_csv, write_report

ROWS = [
    Row("case1", "liver, left", 1 / 3, 0.1 + 0.2, False, False),
    Row("case1", "spleen", 0.0, 412.5, True, False),
    Row("case2", "liver, left", 0.9, 2.0, False, False),
    Row("case2", "spleen", math.nan, math.nan, False, False),
]


def test_rows_survive_the_file(tmp_path):
    write_report(tmp_path / "eval" / "val", ROWS, title="val", meta={"ckpt": "run/last.pt"})
    back = read_cases_csv(tmp_path / "eval" / "val" / "cases.csv")
    assert repr(back) == repr(ROWS)
    assert summarize(back) == summarize(ROWS)
    with (tmp_path / "eval" / "val" / "cases.csv").open(newline="") as file:
        assert next(csv.reader(file))[:5] == ["case_id", "class", "dice", "hd95_mm", "missed"]


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
    rows = [Row("a", "liver", math.nan, math.nan, False, False)]
    summary = write_report(tmp_path, rows, title="empty")
    assert summary["dice"]["mean"] is None
    assert markdown_table(summary).splitlines()[2].replace(" ", "") == "|liver|-|-|1|0|0|1|"
