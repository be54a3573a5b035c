"""Runs on a GPU: trained, gone on with, predicted with and exported."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import run_command
from exported_runs import exported, trained

from sct import predict, train
from sct.exporting import FORMATS
from sct.exporting.agreement import compare
from sct.exporting.manifest import read_manifest
from sct.profiling.windows import sample_windows
from sct.runs import card
from sct.runs.run import open_run
from sct.runtime import checkpoint

pytestmark = pytest.mark.gpu


def weights(run: Path) -> str:
    """Digest of the newest weights of a run."""
    return card.weights_digest(checkpoint.load(checkpoint.find(str(run), weights="last"))["model"])


def run_on(device: torch.device, smoke: list[str], run: Path, *settings: str) -> Path:
    outcome = run_command(train.main, *smoke, f"trainer.device={device}", f"run_dir={run}", *settings)
    assert outcome.status == 0, outcome
    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_ends_as_an_undisturbed_one(precision, gpu, smoke, tmp_path):
    settings = [f"trainer.precision={precision}", "encoder.patch_size=4", "encoder.drop_path=0.1"]
    whole = run_on(gpu, smoke, tmp_path / "whole", *settings)
    broken = Path(shutil.copytree(whole, tmp_path / "broken"))
    *_, last = sorted((broken / checkpoint.FOLDER).glob("step_*.pt"))
    last.unlink()
    assert run_command(train.main, f"resume={broken}").status == 0
    assert weights(broken) == weights(whole)


@pytest.mark.parametrize("inferer", ["sliding_window", "fast"])
def test_a_prediction_is_the_processors(inferer, gpu, smoke, workplace, tmp_path):
    run = trained(tmp_path / "run", *smoke, "trainer.device=cpu")
    image = sorted((workplace / "data" / "phantom_smoke").rglob("img/*.nii.gz"))[-1]
    found = {}
    for device in ("cpu", gpu.type):
        folder = tmp_path / f"labels_{device}"
        settings = [f"ckpt={run}", f"input={image}", f"output={folder}", f"device={device}", f"inferer={inferer}"]
        outcome = run_command(predict.main, *settings, "precision=fp32")
        assert outcome.status == 0, outcome
        found[device] = np.asarray(nib.load(folder / image.name).dataobj)
    assert len(np.unique(found["cpu"])) > 2
    assert (found[gpu.type] == found["cpu"]).mean() > 0.999


def test_an_export_agrees_with_the_original(gpu, smoke, tmp_path):
    run = trained(tmp_path / "run", *smoke, "trainer.device=cpu")
    folder = exported(run, "torch")
    opened = open_run(str(run), device=str(gpu), precision="fp32")
    data, network = opened.data, opened.network
    manifest = read_manifest(folder)
    model = FORMATS["torch"].load(folder, device=gpu, precision=manifest.precision, batch=manifest.batch)
    agreement = compare(model, network, sample_windows(data, count=4).to(gpu), outputs=data.outputs)
    assert agreement.equal_labels > 0.999, agreement
