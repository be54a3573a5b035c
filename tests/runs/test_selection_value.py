"""What the choice of tokens of a trained run is worth: by the command, in its file, and in the report."""

import csv
import json

import numpy as np
import pytest
from commands import assert_one_message, run_command

from sct import eval as evaluation
from sct import report
from sct.errors import UserError
from sct.runs.run import open_run
from sct.runs.selection import FILE, measure_selection, read_value

QUICK = ("figures=0", "save_predictions=false")


@pytest.fixture
def measured(run_copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run_command(evaluation.main, f"ckpt={run_copy}", "selection=true", *QUICK)
    assert outcome.status == 0, outcome
    return run_copy


def test_each_ranking_keeps_as_many_tokens_and_the_report_shows_the_value(measured, tmp_path):
    found = json.loads((measured / "eval/test" / FILE).read_text())
    rankings = found["rankings"]
    assert list(rankings) == ["learned", "random", "inverted", "truth"]
    shares = [ranking["kept"]["all"] for ranking in rankings.values()]
    assert all(share == pytest.approx(shares[0]) for share in shares)
    assert rankings["truth"]["kept"]["foreground"][0] >= rankings["inverted"]["kept"]["foreground"][0]
    assert found["value"] == pytest.approx(rankings["learned"]["dice"] - rankings["random"]["dice"])
    outcome = run_command(report.main, f"runs=[{measured}]", f"output={tmp_path}/report", "plot=false")
    assert outcome.status == 0, outcome
    with (tmp_path / "report/table.csv").open() as file:
        assert float(next(csv.DictReader(file))["selection"]) == pytest.approx(found["value"])


def test_the_learned_ranking_is_that_of_the_evaluation(run_copy, tmp_path):
    run = open_run(run_copy, device="cpu", precision="fp32")
    selection = measure_selection(run, split="test", folder=tmp_path, count=1)
    assert len(selection.outcomes["learned"].dice) == 1
    scored = run.evaluate(split="test", save_predictions=False, figures=0)
    first = run.data.cases("test")[0].name
    dice = np.nanmean([row.dice for row in scored.rows if row.case_id == first])
    assert selection.outcomes["learned"].dice[0] == pytest.approx(dice, abs=1e-6)


@pytest.mark.parametrize("text", ["{", "[]", '{"value": "high"}'])
def test_a_damaged_file_is_told(text, tmp_path):
    assert read_value(tmp_path) is None
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=r"selection\.json.*sct\.eval ckpt=RUN selection=true"):
        read_value(tmp_path)


def test_it_is_measured_by_one_process(run_copy):
    outcome = run_command(evaluation.main, f"ckpt={run_copy}", "selection=true", "shard=0/2")
    assert_one_message(outcome, "selection=true is measured by one process: leave out shard")
