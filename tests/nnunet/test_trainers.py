"""The trainers in nnU-Net's own pipeline: planned, trained for some steps, predicted. Needs the extra nnunet."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import sct.nnunet
from sct.nnunet.network import Described

pytest.importorskip("nnunetv2", reason="the extra nnunet is not installed")

SHORT = """
import torch
from sct.nnunet.trainers.sct_trainers import nnUNetTrainerSCT


class nnUNetTrainerShort(nnUNetTrainerSCT):
    overrides = (
        "encoder=stp_taught", "completion=mta", "decoder=thin", "encoder.dim=48", "encoder.depth=3",
        "encoder.num_heads=2", "pruning.blocks=[1,2]", "pruning.ratio=0.5", "optimizer.lr=3e-3",
        "schedule.warmup_steps=0",
    )

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 25, 2
"""


def test_the_trainer_of_the_page_makes_a_network():
    page = Path(__file__).parents[2] / "docs/getting-started/from-nnunet.md"
    code = page.read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, page.name, "exec"), names)
    described = Described(names["nnUNetTrainerMine"].overrides, image_size=(16, 16, 16), overlapping=False)
    assert described.network(in_channels=1, num_classes=2).encoder.spec.dim == 384


def write_set(root: Path) -> None:
    """Bright balls in noise, in nnU-Net's layout; the last case is to be predicted."""
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"))
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    for number in range(7):
        centre = rng.uniform(8, 16, 3).reshape(3, 1, 1, 1)
        ball = (((place - centre) ** 2).sum(axis=0) < 36).astype(np.uint8)
        image = rng.normal(0, 0.3, ball.shape) + 2 * ball
        part = "Tr" if number < 6 else "Ts"
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), root / f"images{part}/ball{number}_0000.nii.gz")
        if part == "Tr":
            nib.save(nib.Nifti1Image(ball, np.eye(4)), root / f"labelsTr/ball{number}.nii.gz")
        else:
            nib.save(nib.Nifti1Image(ball, np.eye(4)), root / "truth.nii.gz")
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))


@pytest.mark.long
def test_a_network_is_planned_trained_and_predicts(tmp_path):
    root = tmp_path / "raw/Dataset001_Balls"
    write_set(root)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/short.py").write_text(SHORT)
    environment = {
        **os.environ,
        "nnUNet_raw": str(tmp_path / "raw"),
        "nnUNet_preprocessed": str(tmp_path / "preprocessed"),
        "nnUNet_results": str(tmp_path / "results"),
        "nnUNet_extTrainer": os.pathsep.join([str(sct.nnunet.FOLDER), str(tmp_path / "mine")]),
        "nnUNet_n_proc_DA": "1",
    }
    trainer = ("-tr", "nnUNetTrainerShort", "-device", "cpu")
    for command in (
        ("nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "3d_fullres", "-np", "1", "-npfp", "1"),
        ("nnUNetv2_train", "1", "3d_fullres", "0", *trainer),
        ("nnUNetv2_predict", "-i", str(root / "imagesTs"), "-o", str(tmp_path / "out"), "-d", "1", "-c", "3d_fullres",
         "-f", "0", "-npp", "1", "-nps", "1", *trainer),
    ):  # fmt: skip
        program = Path(sys.executable).with_name(command[0])
        done = subprocess.run([program, *command[1:]], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    predicted, truth = (
        np.asarray(nib.load(path).dataobj) > 0 for path in (tmp_path / "out/ball6.nii.gz", root / "truth.nii.gz")
    )
    assert 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()) > 0.8
