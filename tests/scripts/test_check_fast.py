"""The check of inferer=fast: what it counts in skipped windows, and when it refuses."""

import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_fast.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[0] == "|"][2:]


def test_where_nothing_is_skipped_all_labels_agree(script, finished_run, capsys):
    script["main"]([f"ckpt={finished_run}", "split=val"])
    [(_, windows, *counts, agreement, of_foreground, reference, dice)] = rows(capsys.readouterr().out)
    assert int(windows) >= 1
    assert counts == ["0", "0", "0"]
    assert float(agreement) > 99.9
    assert float(agreement) >= float(of_foreground) > 99
    assert float(dice) == pytest.approx(float(reference), abs=0.01)


def test_windows_that_must_not_be_skipped_are_counted(script, finished_run, capsys):
    # above every intensity: all windows are skipped, those with organs too
    with pytest.raises(SystemExit, match="a skipped window has foreground"):
        script["main"]([f"ckpt={finished_run}", "split=val", "inferer.skip_below=5"])
    [(_, windows, skipped, with_truth, *_)] = rows(capsys.readouterr().out)
    assert windows == skipped
    assert int(with_truth) > 0


def test_foreground_at_the_edge_of_an_image_smaller_than_the_window(script):
    labels = torch.zeros(4, 6)
    labels[0, 5] = 2
    # 4 rows are padded to 8, two on either side: the voxel lies in row 2
    assert script["foreground_in"](labels, [(0, 0)], window=(8, 3)) == 0
    assert script["foreground_in"](labels, [(0, 3), (0, 0)], window=(8, 3)) == 1


def test_a_case_passes_by_labels_and_by_what_is_skipped(script):
    good = {"case": "a", "windows": 8, "skipped": 3, "with_truth": 0, "with_prediction": 0, "agreement": 0.9995}
    good |= {"of_foreground": 0.9, "dice": (0.5, 0.5)}
    assert script["Outcome"](**good).passes(0.999)
    for change in ({"agreement": 0.9989}, {"with_truth": 1}, {"with_prediction": 1}):
        assert not script["Outcome"](**good | change).passes(0.999)


def test_mistakes_are_told(script, finished_run):
    with pytest.raises(SystemExit, match="only inferer=fast can be checked"):
        script["main"]([f"ckpt={finished_run}", "inferer=sliding_window"])
    with pytest.raises(SystemExit, match="ckpt=/nowhere"):
        script["main"](["ckpt=/nowhere"])
