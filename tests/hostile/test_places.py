"""Folders, environment and sizes that saved files name: a command writes, reads and tells what it names itself."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hostile_files import LEAK, change_config, changed_card, put

from sct import eval as evaluation
from sct import export, predict, profile, report, train, verify
from sct.config.check import build, check_composed
from sct.config.command import compose_config
from sct.config.trust import Trust
from sct.data.sets.btcv import listed_cases
from sct.data.sets.described import inside
from sct.data.sets.msd import MSD
from sct.errors import UserError
from sct.plots.curves import read_curve
from sct.runtime.plain import read_yaml_config

# --- where is written


def test_no_command_writes_into_folders_of_a_saved_config(stage, run, image):
    """The cache of the config is never made; what the commands name is."""
    change_config(run, lambda config: put(config, "data.cache_dir", str(stage.here / "victim")))
    change_config(run, lambda config: put(config, "data.cache", "disk"))
    change_config(run, lambda config: put(config, "paths.outputs", str(stage.here / "victim")))
    change_config(run, lambda config: put(config, "run_dir", str(stage.here / "victim")))
    for main, *arguments in (
        (predict.main, f"input={image}", "output=out/labels"),
        (evaluation.main, "output=out/scores", "figures=0"),
        (export.main, "format=bundle", "output=out/bundle", "windows=1", "agreement=0"),
    ):
        assert stage.run(main, "ckpt=run", *arguments).status == 0
    writes = (run, stage.here / "outputs")
    outcome = stage.run(train.main, "resume=run", "trainer.max_steps=5", writes=writes)
    assert outcome.status == 0, outcome
    assert "the cache is in outputs/cache, not in" in outcome.out
    assert (stage.here / "outputs/cache/volumes").is_dir()
    # the config of the run stays what it was: with its original command the run goes on as before
    assert read_yaml_config(run / "config.yaml")["data"]["cache_dir"].endswith("victim")


def test_a_profile_writes_into_the_run_alone(stage, run):
    change_config(run, lambda config: put(config, "data.cache_dir", str(stage.here / "victim")))
    outcome = stage.run(profile.main, "ckpt=run", "profile.latency=false", writes=(run / "profile.json",))
    assert outcome.status == 0, outcome


def test_phantoms_are_not_drawn_where_a_saved_config_says(stage, run):
    change_config(run, lambda config: put(config, "data.root", str(stage.here / "victim")))
    stage.refused(evaluation.main, "ckpt=run", "output=out", words=("victim", "does not exist"))
    outcome = stage.run(evaluation.main, "ckpt=run", "data.root=out/own", "output=out", "figures=0")
    assert outcome.status == 0, outcome


@pytest.mark.parametrize("kind", ["phantom", "phantom_brats", "phantom_isic", "phantom_synapse"])
def test_every_kind_of_phantom_asks_whether_it_may_be_drawn(kind, stage):
    cfg = compose_config("train", overrides=["+experiment=demo", f"data={kind}", "data.root=victim"])
    data = build(cfg.data, key="data", trust=Trust())
    data.may_write = ("cache_dir",)
    with pytest.raises(UserError, match=r"victim.* does not exist"):
        data.find_cases()
    assert not (stage.here / "victim").exists()


def test_a_training_from_a_card_writes_beside_its_output_alone(stage, scored):
    victim = str(stage.here / "victim")
    for key in ("data.root", "data.cache_dir", "paths.outputs", "paths.cache", "run_dir"):
        changed_card(scored, f"training.config.{key}", victim)
    card = changed_card(scored, "evaluation.data", {"cache_dir": victim})
    shutil.copy(card, stage.here / "card.json")
    outcome = stage.run(verify.main, "card=card.json", "retrain=true", "output=out")
    # drawn again, and equal: the card is confirmed
    assert outcome.status == 0, outcome
    assert {path.name for path in stage.out.iterdir()} == {"run", "data", "cache"}


@pytest.mark.parametrize("key", ["root", "cache_dir"])
def test_what_a_training_found_is_no_folder(key, stage, scored, image):
    """It would take the place of the folder that the command names."""
    victim = str(stage.here / "victim")
    card = changed_card(scored, f"training.config.found.{key}", victim)
    shutil.copy(card, stage.here / "card.json")
    change_config(scored, lambda config: put(config, f"found.{key}", victim))
    for main, *arguments in (
        (verify.main, "card=card.json", "retrain=true", "output=out"),
        (train.main, "resume=run", "data.root=out/data", "data.cache_dir=out/cache"),
        (evaluation.main, "ckpt=run", "data.root=out/data", "output=out"),
        (predict.main, "ckpt=run", f"input={image}", "output=out"),
    ):
        stage.refused(main, *arguments, words=(f"found.{key}", "victim"))


def test_a_card_names_no_output_of_its_own(stage, scored):
    for key, value in (("output", "victim"), ("plugins", ["os"]), ("shard", "0/2"), ("save_predictions", True)):
        changed_card(scored, f"evaluation.{key}", value)
    assert stage.run(verify.main, "ckpt=run").status == 0


def test_a_card_downloads_no_weights(stage, scored):
    card = changed_card(scored, "training.config.pretrained", "timm:vit_tiny_patch16_224")
    words = ("would be downloaded", "sct.train")
    stage.refused(verify.main, f"card={card}", "retrain=true", "output=out", words=words)


# --- the environment


@pytest.mark.parametrize("text", [LEAK, "\\${oc.env:X}"])
def test_a_saved_config_looks_nothing_up(text, stage, run, image):
    change_config(run, lambda config: put(config, "data.patient_pattern", "PLACE"))
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("PLACE", f"'{text}'"))
    for path in (run / "checkpoints").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        state["config"]["data"]["patient_pattern"] = text
        torch.save(state, path)
    words = ("data.patient_pattern", "refers to something else")
    stage.refused(predict.main, "ckpt=run", f"input={image}", "output=out", words=words)
    stage.refused(train.main, "resume=run", words=words)


def test_no_report_and_no_card_shows_the_environment(stage, scored):
    for place in ("training.config.name", "training.config.data.names"):
        card = changed_card(scored, place, LEAK)
    stage.refused(verify.main, "ckpt=run", words=("refers to something else",))
    stage.refused(verify.main, f"card={card}", "retrain=true", "output=out", words=("refers to something else",))
    text = (scored / "config.yaml").read_text()
    (scored / "config.yaml").write_text(f"{text}loose: {LEAK}\n")
    stage.refused(report.main, "runs=run", "output=out", words=("refers to something else",))
    with pytest.raises(UserError, match="refers to something else"):
        read_curve(scored, "train/loss")


def test_a_command_saves_no_variable_of_the_environment_either(stage):
    cfg = compose_config("train", overrides=["+experiment=demo", f"name={LEAK}"])
    with pytest.raises(UserError, match=r'name=.* takes a value from the environment.*name="\$SCT_SECRET"'):
        check_composed(cfg)


def test_a_data_set_names_no_variable(stage, workplace):
    """The names of labels are kept in the config of the run."""
    root = decathlon(stage.here / "set")
    described = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**described, "labels": {"0": "background", "1": LEAK}}))
    settings = ["data=msd", f"data.root={root}", "data.split=same", "data.roi_size=[16,16,16]", "data.spacing=[1,1,1]"]
    demo = ["+experiment=demo", "encoder=dense", "decoder=thin", "trainer.max_steps=1"]
    words = ("labels.1", "refers to something else")
    stage.refused(train.main, *demo, *settings, "paths.outputs=out", "run_dir=out/run", words=words)


# --- data sets

OUTSIDE = [
    "../outside.nii.gz",
    "/etc/passwd",
    "imagesTr/../../outside.nii.gz",
    "..\\outside.nii.gz",
    "C:\\x.nii.gz",
    "\\\\host\\share\\x.nii.gz",
    "//host/share/x.nii.gz",
    "a\0b",
]


def decathlon(root: Path) -> Path:
    """A data set of one case in the Decathlon's layout."""
    (root / "imagesTr").mkdir(parents=True)
    for name, high in (("image", 100), ("label", 2)):
        voxels = np.random.default_rng(0).integers(0, high, (16, 16, 16)).astype(np.uint8)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / f"imagesTr/{name}.nii.gz")
    entry = {"image": "./imagesTr/image.nii.gz", "label": "./imagesTr/label.nii.gz"}
    described = {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"}, "training": [entry]}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


@pytest.mark.parametrize("listed", OUTSIDE)
def test_a_list_names_files_of_its_data_set_alone(listed, stage):
    root = decathlon(stage.here / "set")
    with pytest.raises(UserError, match="outside of the data set"):
        inside(root, listed, file=root / "dataset.json")
    described = json.loads((root / "dataset.json").read_text())
    described["training"][0]["image"] = listed
    (root / "dataset.json").write_text(json.dumps(described))
    (root / "dataset_0.json").write_text(json.dumps(described))
    data = MSD(root=str(root), roi_size=[16, 16, 16], intensity=lambda x: x, cache_dir="cache")
    with pytest.raises(UserError, match="outside of the data set"):
        data.find_cases()
    with pytest.raises(UserError, match="outside of the data set"):
        listed_cases(root / "dataset_0.json")


def test_links_that_the_user_made_are_followed(stage):
    root = decathlon(stage.here / "set")
    shutil.move(root / "imagesTr", stage.here / "elsewhere")
    (root / "imagesTr").symlink_to(stage.here / "elsewhere")
    data = MSD(root=str(root), roi_size=[16, 16, 16], intensity=lambda x: x, cache_dir="cache")
    assert [case.image.exists() for case in data.find_cases()] == [True]
    assert inside(root, str(root.absolute() / "imagesTr/a.nii.gz"), file=root) == root / "imagesTr/a.nii.gz"


# --- a run of today and of earlier versions


def test_a_run_is_opened_as_before(stage, run, image):
    """Also one whose config has less than today's, as of earlier versions."""

    def change(config):
        del config["found"]
        config["trainer"]["speed"] = "safe"

    change_config(run, change)
    outcome = stage.run(predict.main, "ckpt=run", f"input={image}", "output=out")
    assert outcome.status == 0, outcome
    assert list(stage.out.rglob("*.nii.gz"))


def test_the_card_of_an_evaluation_with_another_inferer_can_be_verified(stage, run):
    """Its file refers to a setting of the data set: the card has the value."""
    assert (
        stage.run(
            evaluation.main, "ckpt=run", "inferer=fast", "output=run/eval/test", "figures=0", writes=(run,)
        ).status
        == 0
    )
    card = run / "eval/test/card.json"
    assert "${" not in card.read_text()
    assert stage.run(verify.main, "ckpt=run").status == 0
    changed_card(run, "evaluation.inferer.skip_below", "${oc.select:data.crop_above,null}")  # of earlier versions
    assert stage.run(verify.main, "ckpt=run").status == 0
