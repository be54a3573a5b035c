"""Settings of the pruning method after training: many values of one checkpoint, marked on cards and in the report."""

import csv
import json
import shutil
from inspect import signature
from pathlib import Path

import pytest
import torch
from commands import assert_one_message, run_command
from hydra.utils import get_class

import sct
from sct import eval as evaluation
from sct import export, profile, report, train, verify
from sct.config.command import compose_config
from sct.config.folders import options
from sct.errors import UserError
from sct.models.reducers.base import Reducer

DTOP = ("encoder=dtop", "encoder.reducer.head=fcn", "decoder=fcn", "completion=scatter")
QUICK = ("figures=0", "save_predictions=false")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("changed")


@pytest.fixture(scope="module")
def runs(smoke, finished_run, place) -> dict[str, Path]:
    """Trained runs of three methods: STP's is a copy of the finished run."""
    others = {
        "dtop": (*DTOP, "encoder.reducer.context=remove", "encoder.taps=0"),
        "asvit": ("encoder=asvit", "encoder.reducer.budget=0.95"),
    }
    folders = {"stp": Path(shutil.copytree(finished_run, place / "stp"))}
    for name, settings in others.items():
        folders[name] = place / name
        outcome = run_command(train.main, *smoke, *settings, f"name={name}", f"run_dir={folders[name]}")
        assert outcome.status == 0, outcome
    return folders


SWEEPS = {
    "stp": ("ratio", ("0.1", "0.3", "0.6", "0.8", "0.9")),
    "dtop": ("p0", ("0.15", "0.16", "0.164", "0.17", "1.0")),
    "asvit": ("threshold_scale", ("0.5", "2.0", "8.0")),
}


def kept(folder: Path) -> float:
    meta = json.loads((folder / "eval/test/summary.json").read_text())["meta"]
    return [value for name, value in meta.items() if name.startswith("tokens/kept_")][-1]


def test_two_ratios_of_one_checkpoint(run_copy, tmp_path, monkeypatch):
    """The short form of the sweep below."""
    monkeypatch.chdir(tmp_path)
    for command, more in ((evaluation, QUICK), (profile, ("profile.latency=false", "profile.training=false"))):
        outcome = run_command(command.main, "-m", f"ckpt={run_copy}", "encoder.reducer.ratio=0.1,0.9", *more)
        assert outcome.status == 0, outcome
    folders = [run_copy / f"changed/ratio={value}" for value in (0.1, 0.9)]
    assert kept(folders[0]) > 2 * kept(folders[1])
    costs = [json.loads((folder / "profile.json").read_text())["macs"]["encoder"] for folder in folders]
    assert costs[0] > costs[1]
    card = json.loads((folders[1] / "eval/test/card.json").read_text())
    assert card["evaluation"]["encoder"] == {"reducer": {"ratio": 0.9}}
    assert not (run_copy / "eval").exists(), "the run's own evaluation is another one"
    assert not (run_copy / "profile.json").exists()
    assert run_command(report.main, f"runs={run_copy}", f"output={tmp_path}/report").status == 0
    rows = list(csv.DictReader((tmp_path / "report/table.csv").open()))
    assert [row["setting"] for row in rows] == ["smoke ratio=0.1 after training", "smoke ratio=0.9 after training"]
    assert "`SETTING=VALUE after training`" in (tmp_path / "report/table.md").read_text()


@pytest.mark.long
def test_one_sweep_runs_many_values_over_one_checkpoint_and_one_report_shows_them(runs, place, monkeypatch):
    monkeypatch.chdir(place)
    shares = {}
    for name, (setting, values) in SWEEPS.items():
        override = f"encoder.reducer.{setting}={','.join(values)}"
        outcome = run_command(evaluation.main, "-m", f"ckpt={runs[name]}", override, *QUICK)
        assert outcome.status == 0, outcome
        folders = [runs[name] / f"changed/{setting}={value}" for value in values]
        shares[name] = [kept(folder) for folder in folders]
        for folder, value in zip(folders, values, strict=True):
            card = json.loads((folder / "eval/test/card.json").read_text())
            assert card["evaluation"]["encoder"] == {"reducer": {setting: float(value)}}
            assert card["training"]["config"]["encoder"]["reducer"].get(setting) != float(value)
        assert not (runs[name] / "eval").exists(), "the run's own evaluation is another one"
    # a higher ratio keeps fewer, a higher confidence more, a higher threshold fewer
    assert shares["stp"] == sorted(shares["stp"], reverse=True)
    assert shares["stp"][0] > 2 * shares["stp"][-1]
    assert shares["dtop"] == sorted(shares["dtop"])
    assert shares["dtop"][0] < shares["dtop"][-1] == 1
    assert shares["asvit"] == sorted(shares["asvit"], reverse=True)
    assert shares["asvit"][0] > shares["asvit"][-1]
    assert run_command(evaluation.main, f"ckpt={runs['stp']}", *QUICK).status == 0
    runs_of_report = f"runs=[{','.join(map(str, runs.values()))}]"
    outcome = run_command(report.main, runs_of_report, f"output={place}/report")
    assert outcome.status == 0, outcome
    rows = list(csv.DictReader((place / "report/table.csv").open()))
    labels = [row["setting"] for row in rows]
    marks = [f"{setting}={value} after training" for setting, values in SWEEPS.values() for value in values]
    assert len(labels) == len(set(labels)) == 1 + len(marks)
    assert labels[0] == "smoke", "the run as it was trained"
    for label, mark in zip(labels[1:], marks, strict=True):
        assert label.endswith(mark)


@pytest.mark.long
def test_three_temperatures_are_three_rows_with_the_same_scores(runs, place, monkeypatch):
    """AS-ViT's temperature: three values give three rows of one report, with the same scores."""
    monkeypatch.chdir(place)
    folder = Path(shutil.copytree(runs["asvit"], place / "temperatures", ignore=shutil.ignore_patterns("changed")))
    outcome = run_command(evaluation.main, "-m", f"ckpt={folder}", "encoder.reducer.temperature=100,1e4,1e5", *QUICK)
    assert outcome.status == 0, outcome
    assert outcome.out.count("has no effect on a trained run: it acts in training alone") == 3
    found = [(path / "eval/test/cases.csv").read_text() for path in (folder / "changed").iterdir()]
    assert len(found) == 3
    assert len(set(found)) == 1
    assert run_command(report.main, f"runs={folder}", f"output={place}/temperatures_report").status == 0
    assert len((place / "temperatures_report/table.csv").read_text().splitlines()) == 4


def test_the_value_of_the_training_is_no_change(run_copy):
    opened = sct.load(run_copy, overrides=["encoder.reducer.ratio=0.5", "encoder.reducer.rounding=floor"])
    trained = sct.load(run_copy).config.encoder.reducer.ratio
    assert opened.changed == ({"rounding": "floor"} if trained == 0.5 else {"ratio": 0.5, "rounding": "floor"})
    assert opened.network.encoder.reducer.rounding == "floor"
    assert sct.load(run_copy).network.encoder.reducer.rounding == "nearest"
    assert "encoder" not in sct.load(run_copy).settings


def test_a_setting_of_training_alone_has_no_effect(run_copy, caplog):
    opened = sct.load(run_copy, overrides=["encoder.reducer.tau=0.1"])
    assert opened.changed == {"tau": 0.1}
    assert "encoder.reducer.tau=0.1 has no effect on a trained run: it acts in training alone" in caplog.text


@torch.no_grad()
def test_the_weights_are_the_same_and_the_tokens_are_others(run_copy):
    opened = {ratio: sct.load(run_copy, overrides=[f"encoder.reducer.ratio={ratio}"]) for ratio in (0.1, 0.9)}
    first, second = (run.network.state_dict() for run in opened.values())
    assert all(torch.equal(first[name], second[name]) for name in first)
    image = torch.zeros(1, 1, 16, 16, 16)
    alive = [run.network.encoder(image).alive[0].item() for run in opened.values()]
    assert alive[0] > alive[1]


REFUSED = [
    (("encoder.depth=3",), ("encoder.depth belongs to the weights",)),
    (("encoder.reducer=null",), ("change single settings: encoder.reducer.KEY=VALUE",)),
    (("encoder.reducer.blocks=[1]",), ("encoder.reducer.blocks of a trained STP can't be changed",)),
    (("encoder.reducer.rati=0.3",), ("encoder.reducer.rati", "Did you mean 'ratio'?")),
    (("encoder.reducer.ratio=1.5",), ("encoder.reducer.ratio=1.5",)),
    (("encoder.reducer.ratio=0.3", "postprocess=choose"), ("encoder.reducer.ratio differ",)),
    (("encoder.reducer.ratio=0.3", "inferer.overlap=0.75"), ("inferer.overlap differ", "output=FOLDER")),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED)
def test_what_cannot_be_changed(run_copy, settings, words):
    assert_one_message(run_command(evaluation.main, f"ckpt={run_copy}", *settings), *words)


def test_a_run_without_a_pruning_method_has_nothing_to_change(smoke, tmp_path):
    settings = ("encoder=dense", "completion=scatter", f"run_dir={tmp_path}/dense")
    assert run_command(train.main, *smoke, *settings).status == 0
    outcome = run_command(profile.main, f"ckpt={tmp_path}/dense", "encoder.reducer.ratio=0.3")
    assert_one_message(outcome, "this run has no pruning method")


def test_an_evaluation_with_changed_settings_is_verified(run_copy):
    assert run_command(evaluation.main, f"ckpt={run_copy}", "encoder.reducer.ratio=0.7", *QUICK).status == 0
    folder = run_copy / "changed/ratio=0.7"
    outcome = run_command(verify.main, f"ckpt={folder}")
    assert outcome.status == 0, outcome
    card = folder / "eval/test/card.json"
    card.write_text(card.read_text().replace('"ratio": 0.7', '"ratio": 0.1'))
    assert run_command(verify.main, f"ckpt={folder}").status == 1


@pytest.mark.parametrize("encoder", options("encoder"))
def test_the_names_are_settings_of_the_method(encoder):
    """Every reducer of a shipped config says which of its settings carry no weights; the names are its own."""
    reducer = compose_config("train", overrides=[f"encoder={encoder}"]).encoder.get("reducer")
    if reducer is None:
        return
    method = get_class(reducer["_target_"])
    assert issubclass(method, Reducer)
    assert method.changeable
    assert not set(method.changeable) & set(method.training_only)
    assert {*method.changeable, *method.training_only} <= set(signature(method).parameters)


@pytest.mark.long
def test_an_export_has_its_pruning_fixed(run_copy):
    assert run_command(export.main, f"ckpt={run_copy}", "format=torch").status == 0
    with pytest.raises(UserError, match=r"the pruning of the exported graph in .* is fixed"):
        sct.load(run_copy / "export/torch", overrides=["encoder.reducer.ratio=0.3"])
