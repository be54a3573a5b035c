"""The table of accuracy: what is planned, how runs are paired, and two tiny contestants from end to end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from commands import run_command

from sct import eval as evaluation
from sct import profile, train
from sct.config.check import check_config
from sct.config.command import compose_config
from sct.errors import UserError
from sct.evaluation.metrics import Row
from sct.reports.collect import EvaluatedRun

SCRIPTS = Path(__file__).parents[2] / "scripts"
COMMANDS = {"train": train.main, "eval": evaluation.main, "profile": profile.main}
TINY = {
    "reference": "dense",
    "contestants": {
        "dense": {"what": "dense ViT", "overrides": ["encoder=dense", "completion=scatter", "encoder.taps=0"]},
        "identity": {"what": "no transformer", "overrides": ["encoder=identity", "completion=scatter"]},
    },
    "tasks": {
        "little": {
            "what": "little phantoms",
            "minutes": 0.01,
            "base": ["+experiment=demo", "+debug=smoke", "decoder=unetr_thin", "data.num_test=7"],
            "last": ["encoder.depth=1", "encoder.taps=0", "encoder.patch_size=4"],
        },
        "folded": {"what": "folds", "minutes": 3, "folds": 2, "folder": "sets/folded", "base": ["+experiment=demo"]},
    },
}


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        import accuracy_table

        yield accuracy_table


@pytest.fixture(scope="module")
def parts(script):
    from accuracy import plan, runs, table

    return {"plan": plan, "runs": runs, "table": table}


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(TINY, sort_keys=False))
    return path


def test_every_run_of_the_shipped_list_has_a_valid_config(script, parts):
    field = parts["plan"].Field.read(script.CONTESTANTS)
    assert len(field.contestants) == 10
    assert list(field.tasks) == ["hippocampus", "brats", "ph2", "phantoms"]
    for task in field.tasks.values():
        cells = parts["plan"].cells_of(task, field.contestants.values(), seeds=[0])
        for cell in cells[: len(field.contestants)]:
            overrides = [*cell.overrides(data=Path("/data")), *parts["plan"].length(100)]
            cfg = compose_config("train", overrides=overrides)
            check_config(cfg)
            assert (cfg.trainer.max_steps, cfg.trainer.validate_every, cfg.schedule.warmup_steps) == (100, 25, 5)
            assert (cfg.trainer.ema_warmup, cfg.trainer.deep_supervision, cfg.loss.pixel.batch) == (True, True, True)
            if cell.contestant.name.startswith("primus"):
                assert (cfg.encoder.dim, cfg.encoder.depth, cfg.encoder.rotary) == (396, 12, True)


def test_seeds_and_folds_of_a_task(parts, listed):
    field = parts["plan"].Field.read(listed)
    cells = parts["plan"].cells_of(field.tasks["folded"], field.contestants.values(), seeds=[0, 1])
    assert [cell.name for cell in cells[:3]] == ["dense_seed0_fold0", "identity_seed0_fold0", "dense_seed0_fold1"]
    assert len({cell.name for cell in cells}) == len(cells) == 8
    some = parts["plan"].cells_of(field.tasks["folded"], field.contestants.values(), seeds=[0], only=[1])
    assert [cell.name for cell in some] == ["dense_seed0_fold1", "identity_seed0_fold1"]
    with pytest.raises(UserError, match="--folds 2: folded has the folds 0 to 1"):
        parts["plan"].cells_of(field.tasks["folded"], field.contestants.values(), seeds=[0], only=[0, 2])
    overrides = cells[2].overrides(data=Path("/data"))
    assert {"data.root=/data/sets/folded", "data.folds=2", "data.fold=1", "seed=0"} <= set(overrides)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reference": "nobody"}, "reference nobody"),
        ({"contestants": {"dense": {"what": "w", "overrides": [], "by_task": {"x": []}}}}, "settings on x"),
        ({"contestants": {"dense": {"what": "no overrides"}}}, "no list of contestants"),
        ({"contestants": {"dense": {"what": "w", "overrides": [], "tsak": 1}}}, "tsak"),
    ],
)
def test_a_list_with_a_mistake_is_one_message(parts, tmp_path, change, told):
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump({**TINY, **change}))
    with pytest.raises(UserError, match=told):
        parts["plan"].Field.read(path)


def test_steps_of_the_same_minutes(parts):
    assert parts["plan"].steps_within([0.5, 0.4, 9.0], minutes=10) == 1200
    assert parts["plan"].steps_within([100.0], minutes=1) == parts["plan"].VALIDATIONS


def test_a_folder_keeps_its_length(parts, tmp_path):
    Lengths = parts["plan"].Lengths
    Lengths(2.0, {"a": 70}, {"a": [1.0]}).write(tmp_path / "steps.json")
    found = Lengths.read(tmp_path / "steps.json")
    assert found == Lengths(2.0, {"a": 70}, {"a": [1.0]})
    found.check(minutes=2.0, steps=None, path=tmp_path)
    for minutes, steps in ((3.0, None), (None, 70)):
        with pytest.raises(UserError, match="--minutes 2"):
            found.check(minutes=minutes, steps=steps, path=tmp_path)
    with pytest.raises(UserError, match="--steps 5"):
        Lengths(None, {"a": 5}, {}).check(minutes=None, steps=6, path=tmp_path)


def test_holm(parts):
    found = parts["table"].holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    # times 4, 3, 2, 1, in the order of the values, and never below the one before
    assert found == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5})


def evaluated(split, cases):
    rows = [Row(case_id=case, **dict.fromkeys(list(Row.__dataclass_fields__)[1:], 0)) for case in cases]
    return EvaluatedRun(Path("run"), {}, [], {}, rows, None, {"split": split})


def test_cases_that_were_seen_in_training_or_differ_are_refused(parts):
    check = parts["table"].check_cases
    split = {"train": ["1"], "val": ["2"], "test": ["3", "4"]}
    check({"a": [evaluated(split, ["3", "4"])], "b": [evaluated(split, ["4", "3"])]})
    for seen in ("1", "2"):
        with pytest.raises(UserError, match=f"scored on {seen}"):
            check({"a": [evaluated(split, ["3", seen])]})
    with pytest.raises(UserError, match="different cases"):
        check({"a": [evaluated(split, ["3", "4"])], "b": [evaluated(split, ["4"])]})


@pytest.mark.parametrize("length", [{}, {"minutes": 3, "steps": 60}])
def test_a_task_has_either_minutes_or_steps(parts, tmp_path, length):
    folded = {"what": "folds", "base": ["+experiment=demo"], **length}
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump({**TINY, "tasks": {"folded": folded}}))
    with pytest.raises(UserError, match="task folded needs either minutes or steps"):
        parts["plan"].Field.read(path)


def test_a_package_that_is_missing_is_told_first(parts, listed):
    (dense, _) = parts["plan"].Field.read(listed).contestants.values()
    with pytest.raises(UserError, match=r"dense needs the package no_such_package: pip install it.*--contestants"):
        parts["plan"].check_packages([replace(dense, package="no_such_package", remedy="pip install it")])


def test_two_tiny_contestants_from_end_to_end(script, parts, listed, tmp_path, workplace, monkeypatch, capsys):
    asked = []

    def run(name, *arguments, log, threads):
        asked.append((name, log.stem))
        outcome = run_command(COMMANDS[name], *arguments)
        assert outcome.status == 0, outcome

    monkeypatch.setattr(parts["runs"], "run", run)
    monkeypatch.setattr(parts["runs"].Place, "each", lambda self, function, items: list(map(function, items)))
    settings = [f"paths.data={workplace}/accuracy", f"paths.cache={workplace}/cache", "trainer.tensorboard=false"]
    folder = tmp_path / "table"
    arguments = ["--list", str(listed), "--task", "little", "--folder", str(folder), "--settings", *settings]
    script.main([*arguments, "--rounds", "1", "--cases", "1"])
    names = ("dense_seed0", "identity_seed0")
    assert asked[:2] == [("train", name) for name in names], "timed first"
    assert asked[2:] == [(command, name) for name in names for command in ("train", "eval", "profile")]
    assert not (folder / "little/timed/dense_seed0").exists()
    lengths = json.loads((folder / "little/steps.json").read_text())
    assert lengths["minutes"] == 0.01
    for name, seconds in lengths["seconds"].items():
        assert len(seconds) == 2, "the first of three is left out"
        assert lengths["steps"][name] == max(4, int(0.6 / (sum(seconds) / 2)))
        assert int((folder / "little" / f"{name}_seed0" / "finished").read_text()) == lengths["steps"][name]
    found = json.loads((folder / "table.json").read_text())
    dense, identity = found["tasks"]["little"]["rows"]
    assert (dense["cases"], identity["cases"], dense["difference"], dense["p"]) == (7, 7, 0, None)
    assert identity["difference"] == pytest.approx(identity["dice"] - dense["dice"])
    assert identity["p_holm"] == identity["p"], "one comparison"
    assert identity["params_m"] < dense["params_m"]
    assert dense["predict_seconds"] > 0
    text = (folder / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert "## little phantoms\n\n7 unseen cases, 1 run(s) a contestant, 0.01 minutes of training each." in text
    # again: nothing is repeated but what was removed
    asked.clear()
    shutil.rmtree(folder / "little/identity_seed0/eval")
    script.main([*arguments, "--cases", "1"])
    assert asked == [("eval", "identity_seed0")]
    asked.clear()
    with pytest.raises(
        SystemExit, match=r"dense_seed0 holds a run with other settings: optimizer\.lr=0\.5\. Give another"
    ):
        script.main([*arguments, "optimizer.lr=0.5"])
    assert asked == []
    with pytest.raises(SystemExit, match=r"--minutes 0\.01"):
        script.main([*arguments, "--minutes", "1"])


def test_the_plan_tells_what_it_costs(script, listed, capsys):
    script.main(["--list", str(listed), "--plan", "--seeds", "0", "1", "--jobs", "2"])
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["little: 4 runs of 0.01 minutes", "folded: 8 runs of 3 minutes"]
    assert said[2] == "0.2 hours of training, 2 run(s) at a time"
    script.main(["--list", str(listed), "--plan", "--task", "folded", "--steps", "7"])
    assert capsys.readouterr().err.splitlines() == ["folded: 4 runs of 7 steps"]
    listed.write_text(listed.read_text().replace("minutes: 3", "steps: 60"))
    script.main(["--list", str(listed), "--plan", "--task", "folded"])
    assert capsys.readouterr().err.splitlines() == ["folded: 4 runs of 60 steps"]
    with pytest.raises(SystemExit, match=r"--task x is unknown\. There are little, folded"):
        script.main(["--list", str(listed), "--task", "x"])
