"""Reports over made-up run folders: which runs belong together, and figures computed by hand."""

import csv
import json
import math
from functools import cache
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from commands import run_command
from omegaconf import OmegaConf

from sct import report
from sct.config.check import to_dict
from sct.config.command import compose_config
from sct.errors import UserError
from sct.evaluation.metrics import Row
from sct.evaluation.scores import write_report
from sct.reports.collect import EvaluatedRun, find_runs, labels, paired_p_value, settings
from sct.reports.tables import Cell, build_table, latex
from sct.runs.identity import identity

NAMES = ("liver", "spleen")


def row(case: str, name: str, dice: float) -> Row:
    return Row(
        case_id=case, class_name=name, dice=dice, hd95_mm=10 * (1 - dice), missed=dice == 0, false_positive=False
    )


@cache
def config(*overrides: str) -> dict[str, Any]:
    """The demo's config; composed once, which takes long."""
    return to_dict(compose_config("train", overrides=["+experiment=demo", *overrides]))


def make_run(folder: Path, *overrides: str, dice: float, macs: float | None = None, speed: float = 1.0) -> Path:
    """An evaluated run of 8 cases: liver has `dice` plus a little by case, spleen a tenth less, missed in case 0."""
    cfg = config(*overrides)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(cfg)))
    (folder / "overrides.json").write_text(json.dumps(["+experiment=demo", *overrides]))
    rows = [row(str(case), "liver", dice + case / 1000) for case in range(8)]
    rows += [row(str(case), "spleen", dice - 0.1 if case else 0.0) for case in range(8)]
    write_report(folder / "eval/test", rows, title="t", meta={"seed": cfg["seed"]})
    if macs is not None:
        profile = {
            "params": 2_000_000,
            "macs": {"total": macs, "encoder": macs / 2},
            "throughput": {"inference": speed, "training": speed / 3},
            "peak_memory_mb": {"training": 100.0},
        }
        (folder / "profile.json").write_text(json.dumps(profile))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, dice in ((0, 0.8), (1, 0.84)):
        make_run(tmp_path / f"dense{seed}", "encoder=dense", "completion=scatter", f"seed={seed}", dice=dice, macs=4e9)
    make_run(tmp_path / "half", "pruning.ratio=0.5", "seed=0", dice=0.75, macs=2e9, speed=1.5)
    make_run(tmp_path / "most", "pruning.ratio=0.75", "seed=0", dice=0.7)
    return tmp_path


def test_runs_of_one_setting_come_together(runs):
    found, left_out = find_runs([str(runs)], split="test")
    assert left_out == []
    rows = settings(found)
    assert [setting.label for setting in rows] == [
        "demo encoder=dense completion=scatter",
        "demo pruning.ratio=0.5",
        "demo pruning.ratio=0.75",
    ]
    assert [len(setting.runs) for setting in rows] == [2, 1, 1]


def asked(*overrides: str, folder: str = "f") -> EvaluatedRun:
    return EvaluatedRun(Path(folder), {"name": "a"}, list(overrides), {}, [], None, None)


def test_labels_tell_what_differs():
    two = [asked("x=1", "y=2", "seed=0"), asked("x=1", "y=3", "seed=1", "data.root=/d", "init=r")]
    assert labels("a", two) == ["a y=2", "a y=3"]
    assert labels("a", [asked("x=1")]) == ["a"]
    assert labels("a", [asked("x=1", folder="f"), asked("x=1", folder="g")]) == ["a (f)", "a (g)"]


def test_runs_on_other_data_are_no_repetitions(tmp_path):
    for number in range(2):
        make_run(tmp_path / f"r{number}", f"seed={number}", f"data.root=/set{number}", dice=0.8)
    rows = settings(find_runs([str(tmp_path)], split="test")[0])
    assert [len(setting.runs) for setting in rows] == [1, 1]
    # with cards, the cases tell: the same set in two places
    for number in range(2):
        card = {"format": 1, "split": {"train": ["a"], "val": ["b"], "test": ["c"]}}
        (tmp_path / f"r{number}/card.json").write_text(json.dumps(card))
    assert [len(setting.runs) for setting in settings(find_runs([str(tmp_path)], split="test")[0])] == [2]


def test_folds_and_the_runs_they_start_from_are_repetitions(tmp_path):
    for fold, cases in enumerate((("a", "b", "c"), ("b", "c", "a"))):
        run = make_run(tmp_path / f"r{fold}", "data.folds=2", f"data.fold={fold}", f"init=dense{fold}", dice=0.8)
        split = dict(zip(("train", "val", "test"), ([case] for case in cases), strict=True))
        (run / "card.json").write_text(json.dumps({"format": 1, "split": split}))
    assert [len(setting.runs) for setting in settings(find_runs([str(tmp_path)], split="test")[0])] == [2]


def test_rows_of_different_data_sets_share_a_table(runs, tmp_path):
    rows = [Row(case_id="1", class_name="lesion", dice=0.9, hd95_voxel=3.0, missed=False, false_positive=False)]
    other = make_run(tmp_path / "other", "name=EPM_large", dice=0.9)
    write_report(other / "eval/test", rows, title="t")
    found = settings(find_runs([str(runs / "half"), str(other)], split="test")[0])
    table = build_table(found, baseline=None, scores=["dice", "hd95"], classes=True, papers={})
    heads = list(table[0])
    assert {"Dice liver", "Dice lesion", "HD95 (mm)", "HD95 (voxels)"} <= set(heads)
    assert table[0]["Dice lesion"] == Cell(None)
    assert table[1]["HD95 (voxels)"].value == 3.0
    assert r"EPM\_large" in latex(table)


def test_the_tolerance_of_a_score_is_no_part_of_a_setting():
    config = {"data": {"root": "a", "tolerance": 1.0}, "seed": 0}
    assert identity(config) == identity({"data": {"root": "a"}, "seed": 0})
    assert identity(config) != identity({"data": {"root": "b"}, "seed": 0})


def test_runs_of_earlier_versions_have_a_dash_for_a_new_score(runs, tmp_path):
    rows = [Row(case_id="1", class_name="liver", dice=0.9, nsd=0.75, hd95_mm=3.0, missed=False, false_positive=False)]
    other = make_run(tmp_path / "other", "name=new", dice=0.9)
    write_report(other / "eval/test", rows, title="t")
    found = settings(find_runs([str(runs / "half"), str(other)], split="test")[0])
    table = build_table(found, baseline=None, scores=["dice", "nsd", "hd95"], classes=True, papers={})
    assert [table[number]["NSD"] for number in (0, 1)] == [Cell(None), Cell(0.75, digits=4)]
    assert table[1]["NSD liver"].text() == "0.7500"


def test_the_same_run_twice_is_refused(runs):
    make_run(runs / "again", "pruning.ratio=0.5", "seed=0", dice=0.75)
    found, _ = find_runs([str(runs)], split="test")
    with pytest.raises(UserError, match="same config, seed and fold"):
        settings(found)


def test_scores_by_hand(runs):
    dense = settings(find_runs([f"{runs}/dense*"], split="test")[0])[0]
    liver = [0.8 + 0.0035, 0.84 + 0.0035]
    spleen = [0.7 * 7 / 8, 0.74 * 7 / 8]
    assert dense.scores("dice")["liver"] == pytest.approx(liver)
    assert dense.scores("dice")["spleen"] == pytest.approx(spleen)
    assert dense.scores("dice")["mean"] == pytest.approx([(a + b) / 2 for a, b in zip(liver, spleen, strict=True)])
    assert dense.count("n_missed") == 1
    assert dense.cost("macs", "total") == 4e9
    # case 3: mean over classes, then over seeds
    assert dense.by_case()["3"] == pytest.approx(((0.803 + 0.7) / 2 + (0.843 + 0.74) / 2) / 2)


def test_paired_test_over_cases(runs):
    dense, half, _ = settings(find_runs([str(runs)], split="test")[0])
    # all 8 differences have one sign: 2 / 2^8
    assert paired_p_value(half, dense) == pytest.approx(2 / 2**8)
    assert paired_p_value(dense, dense) is None
    few = settings(find_runs([f"{runs}/most"], split="test")[0])[0]
    few.runs[0].cases[:] = [r for r in few.runs[0].cases if r.case_id in "01234"]
    assert paired_p_value(few, dense) is None


def test_the_command_writes_three_tables(runs, tmp_path):
    papers = tmp_path / "papers.yaml"
    papers.write_text("demo pruning.ratio=0.5: {Dice: 0.8195}\n")
    settings = ("baseline=dense", f"papers={papers}", "classes=true", f"output={tmp_path}/out")
    outcome = run_command(report.main, f"runs={runs}", *settings)
    assert outcome.status == 0, outcome.err
    assert "no costs of" in outcome.out
    assert str(runs / "most") in outcome.out
    text = (tmp_path / "out/table.md").read_text()
    assert "Dice (paper, not ours)" in text
    assert "missed organs count" in text
    with (tmp_path / "out/table.csv").open() as file:
        rows = list(csv.DictReader(file))
    means = [(0.8035 + 0.7 * 7 / 8) / 2, (0.8435 + 0.74 * 7 / 8) / 2]
    assert float(rows[0]["Dice"]) == pytest.approx(sum(means) / 2)
    assert float(rows[0]["Dice std"]) == pytest.approx(stdev(means))
    assert float(rows[1]["MACs saved"]) == 2.0
    assert float(rows[1]["inference speed"]) == 1.5
    assert rows[1]["Dice (paper, not ours)"] == "0.8195"
    assert rows[2]["MACs G"] == ""
    assert math.isclose(float(rows[1]["p"]), 2 / 2**8)
    tex = (tmp_path / "out/table.tex").read_text()
    assert tex.count(r"\\") == 4
    assert r"$\pm$" in tex
    assert r"\_" not in text


@pytest.mark.parametrize(("value", "text"), [(0.0004, "< 0.001"), (0.001, "0.001"), (0.32, "0.320"), (None, "-")])
def test_no_probability_is_shown_as_zero(value, text):
    cell = Cell(value, digits=3, is_probability=True)
    assert cell.text() == text
    assert Cell(0.0, digits=3).text() == "0.000"
    assert latex([{"setting": "a", "p": cell}]).count("$<$") == text.count("<")


def test_the_plot_lies_beside_the_tables(runs, tmp_path):
    outcome = run_command(report.main, f"runs={runs}", "plot=true", "baseline=dense", f"output={tmp_path}/out")
    assert outcome.status == 0, outcome.err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["table.csv", "table.md", "table.tex", "tradeoff.pdf", "tradeoff.png"]
    assert "not in the plot" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cost=flops"], "cost=flops is unknown: choose one of macs, inference"),
        (["runs=nowhere*"], "matches nothing"),
        (["split=val"], "was evaluated on split=val"),
        (["baseline=dance"], "baseline=dance is in no label"),
        (["baseline=ratio"], "baseline=ratio is part of several labels"),
    ],
)
def test_mistakes_are_told(arguments, words, runs, tmp_path):
    given = [f"runs={runs}"] if not arguments[0].startswith("runs") else []
    outcome = run_command(report.main, *given, *arguments, f"output={tmp_path}/out")
    assert outcome.status == 1
    assert words in outcome.err
    assert not (tmp_path / "out").exists()
