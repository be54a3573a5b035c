"""Runs of versions that had `trainer.speed`: they load, go on, are scored, predict and are confirmed."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import run_command
from omegaconf import OmegaConf

import sct
from sct import eval as evaluation
from sct import predict, train, verify
from sct.config.saved import saved_overrides
from sct.exporting.manifest import LAYOUT, read_manifest
from sct.runs import card
from sct.runs.folder import saved_config
from sct.runtime import checkpoint
from sct.runtime.migration import MOVED, card_of_today, config_of_today, evaluation_of_today, overrides_of_today


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"precision": "fp32", "speed": "fast"}, {"precision": "auto"}),
        ({"precision": "bf16", "speed": "safe"}, {"precision": "bf16"}),
        ({"precision": "bf16"}, {"precision": "bf16"}),
    ],
)
def test_a_config(trainer, expected):
    config = {"name": "run", "trainer": {**trainer, "max_steps": 4}}
    before = json.dumps(config)
    assert config_of_today(config) == {"name": "run", "trainer": {**expected, "max_steps": 4}}
    assert json.dumps(config) == before


def test_targets_are_found_where_they_are_now():
    moved = {"data": {"_target_": "sct.data.msd.MSD", "intensity": {"_target_": "monai.transforms.Identityd"}}}
    moved |= {"optimizer": {"_target_": "sct.optim.adamw", "betas": [0.9, 0.95]}, "name": "sct.optim.adamw"}
    today = config_of_today(moved)
    assert today["data"] == {**moved["data"], "_target_": "sct.data.sets.msd.MSD"}
    assert today["optimizer"] == {"_target_": "sct.training.optim.adamw", "betas": [0.9, 0.95]}
    assert today["name"] == "sct.optim.adamw"
    assert overrides_of_today(["data._target_=sct.data.btcv.BTCV"]) == ["data._target_=sct.data.sets.btcv.BTCV"]


@pytest.mark.parametrize("module", MOVED)
def test_a_module_that_moved_is_nowhere_else(module):
    assert importlib.util.find_spec(MOVED[module]) is not None
    assert not (Path(sct.__file__).parents[1] / (module.replace(".", "/") + ".py")).exists()


def test_overrides():
    asked = ["+experiment=demo", "trainer.precision=bf16", "trainer.speed=fast", "seed=1"]
    assert overrides_of_today(asked) == ["+experiment=demo", "seed=1", "trainer.precision=auto"]
    assert overrides_of_today(["trainer.precision=bf16", "trainer.speed=safe"]) == ["trainer.precision=bf16"]
    assert overrides_of_today(["trainer.precision=bf16"]) == ["trainer.precision=bf16"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"precision": None, "speed": None}, None),
        ({"precision": None, "speed": "fast"}, "auto"),
        ({"precision": "bf16", "speed": "fast"}, "bf16"),
        ({"precision": None, "speed": "safe"}, "fp32"),
        ({"precision": None}, None),
    ],
)
def test_an_evaluation(settings, expected):
    training = {"config": {"trainer": {"precision": "fp32", "speed": "fast"}}}
    found = evaluation_of_today({"split": "test", **settings}, training=training)
    assert found == {"split": "test", "precision": expected}
    whole = card_of_today({"evaluation": settings, "training": training, "scores": {}})
    assert whole["evaluation"] == {"precision": expected}
    assert whole["training"]["config"]["trainer"] == {"precision": "auto"}


@pytest.fixture(scope="module")
def old_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run as a version with `trainer.speed` would have left it: precision=fp32, speed=fast."""
    run = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("old") / "run"))

    def aged(config: dict) -> dict:
        return {**config, "trainer": {**config["trainer"], "speed": "fast"}}

    for file in (run / "checkpoints").glob("*.pt"):
        state = torch.load(file, weights_only=True)
        state.pop("number_format", None)
        torch.save({**state, "config": aged(state["config"])}, file)
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    OmegaConf.save(OmegaConf.create(aged(config)), run / "config.yaml")
    written = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps({**written, "config": aged(written["config"])}))
    asked = json.loads((run / "overrides.json").read_text())
    (run / "overrides.json").write_text(json.dumps([*asked, "trainer.speed=fast"]))
    return run


def test_an_old_run_is_read_as_today(old_run):
    assert saved_config(old_run)["trainer"]["precision"] == "auto"
    assert "trainer.precision=auto" in saved_overrides(old_run)
    assert checkpoint.load(old_run / "checkpoints/best.pt")["config"] == saved_config(old_run)
    assert card.read_card(old_run)["config"] == saved_config(old_run)


def test_an_old_run_goes_on(old_run, tmp_path):
    run = Path(shutil.copytree(old_run, tmp_path / "run"))
    outcome = run_command(train.main, f"resume={run}", "trainer.max_steps=5")
    assert outcome.status == 0, outcome.err
    assert "was trained in" not in outcome.out
    assert "speed" not in (run / "config.yaml").read_text() + (run / "overrides.json").read_text()


def test_an_old_run_is_scored_predicts_and_is_confirmed(old_run, workplace, tmp_path):
    run = Path(shutil.copytree(old_run, tmp_path / "run"))
    outcome = run_command(evaluation.main, f"ckpt={run}")
    assert outcome.status == 0, outcome.err
    file = run / "eval/test/card.json"
    content = json.loads(file.read_text())
    content["evaluation"]["speed"] = "fast"
    content["training"]["config"]["trainer"] |= {"precision": "fp32", "speed": "fast"}
    file.write_text(json.dumps(content))
    outcome = run_command(verify.main, f"ckpt={run}")
    assert outcome.status == 0, outcome.err
    image = next((workplace / "data/phantom_smoke/organs").rglob("img0004.nii.gz"))
    outcome = run_command(predict.main, f"ckpt={run}", f"input={image}", f"output={tmp_path}/labels")
    assert outcome.status == 0, outcome.err


def test_an_old_export_is_read(tmp_path):
    texts = dict.fromkeys(("format", "precision", "weights", "checkpoint"), "a")
    lists = {key: [] for key in ("roi_size", "labels", "channels_out")}
    dicts = {key: {} for key in ("inputs", "outputs", "versions", "check")}
    others = {"channels": 1, "step": 1, "batch": None, "card": None, "overlapping": False}
    config = {"name": "run", "trainer": {"precision": "bf16", "speed": "safe"}}
    (tmp_path / "export.json").write_text(
        json.dumps({**texts, **lists, **dicts, **others, "layout": LAYOUT, "config": config})
    )
    assert read_manifest(tmp_path).config == {"name": "run", "trainer": {"precision": "bf16"}}
