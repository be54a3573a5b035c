"""The comparison table does nothing twice, takes no run for another, and can be made end to end."""

import json
import subprocess
import sys

import pytest

from sct.compare.__main__ import main
from sct.compare.cells import Cell, check_same
from sct.compare.results import markdown
from sct.errors import UserError


def test_a_run_that_was_asked_for_otherwise_is_not_taken(tmp_path):
    cell = Cell("fcn", "stp", ("encoder=stp",), 0, tmp_path)
    check_same(cell, overrides=["+experiment=demo"])
    record = ["+experiment=demo", "decoder=fcn", "encoder=stp", "seed=0", "name=fcn_stp"]
    (tmp_path / "overrides.json").write_text(json.dumps(record))
    check_same(cell, overrides=["+experiment=demo"])
    with pytest.raises(UserError, match=r"other settings: trainer.max_steps=5"):
        check_same(cell, overrides=["+experiment=demo", "trainer.max_steps=5"])


def test_markdown_shows_the_scores_that_are_there():
    row = {
        "decoder": "fcn", "method": "stp", "training": "drops", "seeds": 2, "missed": 1, "selection": 0.0125,
        "foreground_kept": 0.5, "tokens_kept": None, "patches_kept": 0.5,
        "macs_g": 1.0, "encoder_macs_g": 0.5, "inference_speed": 1.5, "training_speed": 2.0,
        "scores": {"dice": 0.5, "iou": 0.4, "hd95_mm": 3.0}, "scores_std": {"dice": 0.01},
    }  # fmt: skip
    head, _, line = markdown([row], scores=("dice", "hd95")).splitlines()
    assert "| dice | hd95_mm |" in head
    scores = "0.5000 ± 0.0100 | 3.00 | 1"
    assert line == f"| fcn | stp | drops | {scores} | +0.0125 | - | 50% | 50% | 1.000 | 0.500 | 1.50 | 2.00 |"


def test_help_comes_without_importing_torch():
    program = "import sys; from sct.compare import __main__; print(__main__.__doc__, 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "sct-compare +experiment=" in told
    assert told.endswith("False\n")


def test_a_failed_training_is_one_message_that_names_its_log(tmp_path):
    with pytest.raises(
        SystemExit, match=r"^Error: python -m sct\.train failed\. See .* the end of .*fcn_stp_seed0\.log"
    ):
        main(["--decoders", "fcn", "--methods", "stp", "--output", str(tmp_path), "+experiment=nothing"])


@pytest.mark.long
def test_the_whole_table_on_phantoms(tmp_path):
    settings = ["+experiment=isic_small_apformer", "+debug=smoke_isic", f"paths.data={tmp_path}/data"]
    rows = ["--table", "apformer", "--methods", "baseline", "apformer", "--windows", "1", "--repeats", "1"]
    for _ in range(2):
        main([*rows, "--output", str(tmp_path / "out"), *settings, f"paths.outputs={tmp_path}"])
        table = json.loads((tmp_path / "out/table.json").read_text())
        assert [row["method"] for row in table] == ["baseline", "apformer"]
        assert {"dice", "iou", "accuracy", "sensitivity", "specificity"} <= set(table[0]["scores"])
    finished = [(tmp_path / f"out/unet_{row}_seed0/finished").stat().st_mtime for row in ("baseline", "apformer")]
    assert all(finished)
