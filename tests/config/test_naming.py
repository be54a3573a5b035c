"""A run is named after what ran: an experiment's name holds for its own groups alone."""

import shutil

import pytest
from commands import run_command
from omegaconf import OmegaConf

from sct import train
from sct.tasks import train as training

STP = "+experiment=hippocampus_stp_mta"
NAMES = {
    (): "run",
    ("encoder=evit",): "phantom_evit_mta_unetr",
    (STP,): "hippocampus_stp_mta",
    (STP, "encoder=stp", "pruning.ratio=0.25", "loss=dice_ce"): "hippocampus_stp_mta",
    (STP, "encoder=evit"): "hippocampus_evit_mta_unetr",
    (STP, "+variant=dense"): "hippocampus_dense_scatter_unetr",
    (STP, "+variant=stp_mta"): "hippocampus_stp_mta",
    (STP, "+variant=ratio_25"): "hippocampus_stp_mta",
    (STP, "model=monai_unet"): "hippocampus_monai_unet",
    (STP, "data=msd", "data.root=x"): "msd_stp_mta_unetr",
    (STP, "encoder=evit", "name=mine"): "mine",
    (STP, "encoder=evit", "name=hippocampus_stp_mta"): "hippocampus_stp_mta",
    (STP, "encoder=evit", "+debug=smoke"): "smoke",
    (STP, "+variant=dense", "+sweep=stp_ratio", "hydra.mode=RUN"): "stp_ratio",
}


@pytest.mark.parametrize("arguments", NAMES, ids=" ".join)
def test_name(arguments, monkeypatch):
    names = []
    monkeypatch.setattr(training, "train", lambda cfg: names.append(cfg.name))
    outcome = run_command(train.main, *arguments)
    assert outcome.status == 0, outcome
    assert names == [NAMES[arguments]]


def test_a_run_of_another_encoder_is_found_again_also_below_the_name_that_earlier_versions_gave(
    smoke, tmp_path, monkeypatch
):
    (tmp_path / "own/experiment").mkdir(parents=True)
    (tmp_path / "own/experiment/mine_stp.yaml").write_text(
        "# @package _global_\ndefaults:\n  - demo\n  - /debug/smoke\n  - _self_\nname: mine_stp\n"
    )
    command = ["--config-dir", tmp_path / "own", "+experiment=mine_stp", *smoke[2:], f"paths.outputs={tmp_path}/out"]
    command += ["encoder=random", "resume=once"]
    assert run_command(train.main, *command).status == 0
    (run,) = (tmp_path / "out").glob("*/*/config.yaml")
    assert run.parent.parent.name == "phantom_random_mta_unetr_thin"
    assert "done already" in run_command(train.main, *command).out
    shutil.move(run.parent.parent, tmp_path / "out/mine_stp")
    saved = tmp_path / "out/mine_stp" / run.parent.name / "config.yaml"
    saved.write_text(saved.read_text().replace("phantom_random_mta_unetr_thin", "mine_stp"))
    assert OmegaConf.load(saved).name == "mine_stp"
    assert "done already" in run_command(train.main, *command).out
    assert "done already" not in run_command(train.main, *command, "name=other").out
