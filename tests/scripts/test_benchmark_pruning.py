"""The benchmark of dense against pruned, shrunk."""

import json
import runpy
from pathlib import Path

import pytest


@pytest.mark.parametrize("blocks", [[], ["--primus"]], ids=["plain", "primus"])
def test_benchmark_script(blocks, tmp_path, capsys):
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "benchmark_pruning.py"))
    size = "--size 32 --dim 12 --depth 4 --heads 2 --stages 1 2 --ratio 0.5 --classes 3 --feature-size 4"
    script["main"]([*blocks, *size.split(), "--repeats", "3", "--no-memory", "--json", str(tmp_path / "out.json")])
    assert "training step ms" in capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())["results"]["encoder ms"]
    assert result["ratio"] == pytest.approx(result["median"]["dense"] / result["median"]["stp"])
    assert result["ratio_min"] <= result["ratio_max"]
