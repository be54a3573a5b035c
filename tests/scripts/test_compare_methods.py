"""The comparison table does nothing twice, takes no run for another, and can be made end to end."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_methods.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_a_run_that_was_asked_for_otherwise_is_not_taken(script, tmp_path):
    cell = script["Cell"]("fcn", "stp", ("encoder=stp",), 0, tmp_path)
    script["check_same"](cell, overrides=["+experiment=demo"])
    record = ["+experiment=demo", "decoder=fcn", "encoder=stp", "seed=0", "name=fcn_stp"]
    (tmp_path / "overrides.json").write_text(json.dumps(record))
    script["check_same"](cell, overrides=["+experiment=demo"])
    with pytest.raises(SystemExit, match=r"differ in: trainer.max_steps=5"):
        script["check_same"](cell, overrides=["+experiment=demo", "trainer.max_steps=5"])


def test_markdown_shows_the_scores_that_are_there(script):
    row = {
        "decoder": "fcn", "method": "stp", "training": "drops", "seeds": 2, "missed": 1, "foreground_kept": 0.5,
        "tokens_kept": None, "macs_g": 1.0, "encoder_macs_g": 0.5, "inference_speed": 1.5, "training_speed": 2.0,
        "scores": {"dice": 0.5, "iou": 0.4, "hd95_mm": 3.0}, "scores_std": {"dice": 0.01},
    }  # fmt: skip
    head, _, line = script["markdown"]([row], scores=("dice", "hd95")).splitlines()
    assert "| dice | hd95_mm |" in head
    assert line == "| fcn | stp | drops | 0.5000 ± 0.0100 | 3.00 | 1 | 50% | - | 1.000 | 0.500 | 1.50 | 2.00 |"


@pytest.mark.long
def test_the_whole_table_on_phantoms(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare"])
    settings = ["+experiment=isic_small_apformer", "+debug=smoke_isic", f"paths.data={tmp_path}/data"]
    rows = ["--table", "apformer", "--methods", "baseline", "apformer", "--windows", "1", "--repeats", "1"]
    for _ in range(2):
        script["main"]([*rows, "--output", str(tmp_path / "out"), *settings, f"paths.outputs={tmp_path}"])
        table = json.loads((tmp_path / "out/table.json").read_text())
        assert [row["method"] for row in table] == ["baseline", "apformer"]
        assert {"dice", "iou", "accuracy", "sensitivity", "specificity"} <= set(table[0]["scores"])
    finished = [(tmp_path / f"out/unet_{row}_seed0/finished").stat().st_mtime for row in ("baseline", "apformer")]
    assert all(finished)
