"""A training that starts with published weights: read once, at the start of a new run."""

import json
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import assert_one_message, run_command

from sct import train
from sct.models.encoder import ViTEncoder
from sct.models.weights.pretrained import find_weights
from sct.runtime import checkpoint

SIZES = {"patch_size": 4, "dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture
def flat(tmp_path):
    """The arguments of a 2-D training of 2 steps on four images of noise."""
    root, generator, pairs = tmp_path / "data", np.random.default_rng(0), []
    for number in range(4):
        label = np.zeros((20, 20), np.uint8)
        label[5:12, 6:15] = 1
        image = label + generator.normal(size=(20, 20)).astype(np.float32)
        for folder, voxels in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / folder / f"{number}.nii.gz")
        pairs.append({"image": f"imagesTr/{number}.nii.gz", "label": f"labelsTr/{number}.nii.gz"})
    description = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "square"}, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(description))
    return [
        *("data=msd", "encoder=dense", "completion=scatter", "decoder=fcn", f"data.root={root}"),
        *("data.roi_size=[16,16]", "data.val_share=0.25", "data.test_share=0.25", "data.batch_size=1"),
        *(f"encoder.{name}={value}" for name, value in SIZES.items()),
        *("trainer.max_steps=2", "trainer.save_every=1", "trainer.tensorboard=false", "schedule.warmup_steps=0"),
        f"paths.outputs={tmp_path}/runs",
    ]


@pytest.fixture
def published_file(tmp_path):
    torch.manual_seed(7)
    encoder = ViTEncoder(image_size=(16, 16), in_channels=1, **SIZES)
    names = {"class_token": "cls_token", "position": "pos_embed"}
    weights = {names.get(name, name).replace("embed.", "embed.proj."): v for name, v in encoder.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


def last(folder):
    return checkpoint.load(checkpoint.find(str(folder), weights="last"))


def test_a_run_starts_with_the_file_and_its_average_too(flat, published_file, tmp_path):
    folder = tmp_path / "run"
    outcome = run_command(
        train.main,
        *flat,
        f"pretrained={published_file}",
        "optimizer.lr=0",
        "trainer.ema_decay=0.5",
        f"run_dir={folder}",
    )
    assert outcome.status == 0, outcome
    assert "of the encoder's 30 tensors, 100.0 % of its parameters" in outcome.out
    weights = find_weights(torch.load(published_file, weights_only=True))
    for network in ("model", "ema"):
        now = last(folder)[network]
        assert torch.equal(now["encoder.position"], weights["pos_embed"]), "with a learning rate of 0 it stays"
        assert torch.equal(now["encoder.patch_embed.weight"], weights["patch_embed.proj.weight"])
        assert torch.equal(now["encoder.blocks.1.mlp.fc2.weight"], weights["blocks.1.mlp.fc2.weight"])


def test_a_resumed_run_does_not_read_the_file_again(flat, published_file, tmp_path):
    arguments = [*flat, f"pretrained={published_file}"]
    assert run_command(train.main, *arguments, f"run_dir={tmp_path / 'whole'}").status == 0
    folder = tmp_path / "cut"
    assert run_command(train.main, *arguments, f"run_dir={folder}").status == 0
    checkpoint.step_files(folder)[0].unlink()
    published_file.unlink()
    outcome = run_command(train.main, f"resume={folder}")
    assert outcome.status == 0, outcome
    assert last(folder)["step"] == 2
    whole, resumed = last(tmp_path / "whole")["model"], last(folder)["model"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_mistakes_are_one_message_and_leave_no_folder(flat, finished_run, published_file, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    outcome = run_command(train.main, *flat, "pretrained=nowhere.pth", f"run_dir={folder}")
    assert_one_message(outcome, "pretrained=nowhere.pth is not a file")
    both = (f"pretrained={published_file}", f"init={finished_run}")
    assert_one_message(run_command(train.main, *flat, *both, f"run_dir={folder}"), "both give the first weights")
    monkeypatch.setitem(sys.modules, "timm", None)
    outcome = run_command(train.main, *flat, "pretrained=timm:vit_tiny_patch16_224", f"run_dir={folder}")
    assert_one_message(outcome, "needs the package timm", "pip install")
    assert not folder.exists()


def test_a_3d_training_refuses_them(smoke, published_file, tmp_path):
    outcome = run_command(train.main, *smoke, f"pretrained={published_file}", f"run_dir={tmp_path / 'run'}")
    assert_one_message(outcome, "weights of 2-D networks", "[16, 16, 16]")
