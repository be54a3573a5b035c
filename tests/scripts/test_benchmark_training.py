"""The benchmark of training: a small one end to end, and its table."""

import json
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_training.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_a_small_benchmark(script, workplace, smoke, tmp_path, capsys):
    # the smoke network against the same with wider tokens
    sparse = " ".join(smoke)
    script["main"]([
        "--contestants", f"a={sparse}", f"wide={sparse} encoder.dim=96",
        "--rounds", "1", "--steps", "1", "--warmup", "1", "--loader-steps", "2", "--loader-turns", "2",
        "--threads", "1", "--data", str(workplace / "data" / "phantom_smoke"), "--output", str(tmp_path),
    ])  # fmt: skip
    found = json.loads((tmp_path / "training.json").read_text())
    (a,), (wide,) = found["costs"]["a"], found["costs"]["wide"]
    assert a["seconds"] > 0
    assert wide["activations_mb"] > 0
    loader = found["loader"]
    assert loader["stall"] == pytest.approx(1 - loader["alone"] / loader["fed"])
    assert "| wide | " in capsys.readouterr().out


def test_ratios_are_of_the_first_round_by_round(script):
    costs = {
        "a": [{"seconds": s, "activations_mb": m} for s, m in ((1.0, 100.0), (2.0, 100.0), (1.0, 100.0))],
        "b": [{"seconds": s, "activations_mb": m} for s, m in ((4.0, 300.0), (6.0, 300.0), (5.0, 300.0))],
    }
    lines = script["table"](costs).splitlines()
    assert lines[2] == "| a | 1.000 | 100 | 1.00 | 1.00 to 1.00 | 1.00 |"
    assert lines[3] == "| b | 5.000 | 300 | 4.00 | 3.00 to 5.00 | 3.00 |"


def test_a_figure_that_the_system_does_not_tell_is_no_number(script):
    costs = {"a": [{"seconds": 1.0, "activations_mb": None}]}
    assert script["table"](costs).splitlines()[2] == "| a | 1.000 | nan | 1.00 | 1.00 to 1.00 | nan |"


def test_a_contestant_without_a_name_is_told(script, tmp_path):
    with pytest.raises(SystemExit, match=r"error: --contestants \+experiment"):
        script["main"](["--contestants", "+experiment", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
