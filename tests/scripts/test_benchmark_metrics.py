"""The comparison with MONAI's metrics, on a small image."""

import re
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_metrics.py"


def test_the_scores_are_equal_and_every_organ_has_a_line(capsys):
    script = runpy.run_path(str(SCRIPT))
    script["main"](["--shape", "96", "96", "40", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r".+, one thread; \[96, 96, 40\] voxels", lines[0])
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| liver", "| adrenal", "| far"]


def test_other_scores_end_with_an_error():
    script = runpy.run_path(str(SCRIPT))
    script["main"].__globals__["surface_pair"] = lambda *masks, **settings: (1.0, 0.5)
    with pytest.raises(SystemExit, match="differ from MONAI"):
        script["main"](["--shape", "96", "96", "40", "--repeats", "1"])
