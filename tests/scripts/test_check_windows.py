"""The comparison of overlaps: a row for each, on the same cases, against the largest one."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_windows.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_each_overlap_has_two_rows_and_the_largest_is_the_reference(script, finished_run, capsys):
    script["main"]([f"ckpt={finished_run}", "split=val", "--cases", "1", "--overlaps", "0", "0.75"])
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:2] for row in rows] == [["0", "no"], ["0", "yes"], ["0.75", "no"], ["0.75", "yes"]]
    windows = [float(row[2]) for row in rows]
    assert windows[0] == windows[1] < windows[2] == windows[3]
    assert float(rows[2][5]) == 0
    assert all(0 <= float(row[3]) <= 1 and float(row[6]) > 0 for row in rows)


def test_mistakes_are_told(script, finished_run):
    with pytest.raises(SystemExit, match="only inferer=fast has these settings"):
        script["main"]([f"ckpt={finished_run}", "inferer=sliding_window"])
    with pytest.raises(SystemExit, match="ckpt=/nowhere"):
        script["main"](["ckpt=/nowhere"])
