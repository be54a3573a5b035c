"""The same data in nnU-Net's and in the Decathlon's layout: the same weights, scores and label maps."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import run_command
from nnunet_layout import as_nnunet, write_msd

from sct import eval as evaluation
from sct import predict, train
from sct.runtime.checkpoint import load

# what makes a training take seconds, and the one transform that both layouts get
SMALL = (
    *("encoder=stp", "completion=mta", "decoder=unetr_thin", "encoder.dim=24", "encoder.depth=4"),
    *("encoder.num_heads=2", "pruning.blocks=[2,3]", "pruning.ratio=0.5", "data.roi_size=[16,16,16]"),
    *("encoder.patch_size=8", "data.batch_size=1", "data.crops_per_volume=1", "schedule.warmup_steps=0"),
    *("trainer.max_steps=2", "trainer.precision=fp32", "trainer.log_every=1", "trainer.validate_every=2"),
    *("trainer.save_every=2", "trainer.tensorboard=false", "trainer.device=cpu", "name=small"),
)
SAME_INTENSITY = (
    "data.intensity={_target_: monai.transforms.NormalizeIntensityd, keys: [image], nonzero: true, channel_wise: true}"
)


def trained(folder: Path, *settings: str) -> Path:
    outcome = run_command(train.main, *SMALL, f"paths.cache={folder}-cache", f"run_dir={folder}", *settings)
    assert outcome.status == 0, outcome
    outcome = run_command(evaluation.main, f"ckpt={folder}", "figures=1")
    assert outcome.status == 0, outcome
    return folder


def assert_same_run(run: Path, other: Path) -> None:
    """Losses of every step, weights, scores of every case and predicted label maps, to the last digit."""
    ours, theirs = (load(folder / "checkpoints" / "best.pt")["model"] for folder in (run, other))
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    scores = [json.loads((folder / "eval/test/summary.json").read_text()) for folder in (run, other)]
    for score in scores:
        del score["meta"]  # says where the data are
    assert scores[0] == scores[1]
    assert (run / "eval/test/cases.csv").read_text() == (other / "eval/test/cases.csv").read_text()
    losses = [measured(folder) for folder in (run, other)]
    assert losses[0] == losses[1]
    assert "train/loss" in losses[0][0]
    maps = sorted((run / "eval/test/predictions").iterdir())
    assert maps
    for path in maps:
        np.testing.assert_array_equal(
            nib.load(path).get_fdata(), nib.load(other / "eval/test/predictions" / path.name).get_fdata()
        )


def measured(run: Path) -> list[dict[str, float]]:
    """What was logged at every step, without times and memory."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if not name.startswith(("time/", "memory/"))} for row in rows]


def test_classes_with_ignore(tmp_path: Path) -> None:
    """Two channels resampled, a label to ignore in both layouts; then a prediction without the training folder."""
    source = write_msd(tmp_path / "msd", channels=("MR", "T1"), ignored=True)
    root = as_nnunet(source, tmp_path / "Dataset001_Mine")
    same = (SAME_INTENSITY, "data.spacing=[1.7,1.6,1.9]")
    run = trained(tmp_path / "ours", "data=nnunet", f"data.root={root}", *same)
    assert_same_run(run, trained(tmp_path / "theirs", "data=msd", f"data.root={source}", *same))
    inputs = tmp_path / "new"
    inputs.mkdir()
    for channel in range(2):
        shutil.copy(root / f"imagesTr/case_000_{channel:04d}.nii.gz", inputs / f"a_{channel:04d}.nii.gz")
        shutil.copy(root / f"imagesTr/case_001_{channel:04d}.nii.gz", inputs / f"b_{channel:04d}.nii.gz")
    shutil.rmtree(root)
    outcome = run_command(predict.main, f"ckpt={run}", f"input={inputs}", f"output={tmp_path}/out", "device=cpu")
    assert outcome.status == 0, outcome
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.nii.gz", "b.nii.gz"]
    first = nib.load(tmp_path / "out" / "a.nii.gz")
    assert set(np.unique(first.get_fdata())) <= {0, 1, 2}
    outcome = run_command(
        predict.main, f"ckpt={run}", f"input={inputs}/a_0000.nii.gz", f"output={tmp_path}/one", "device=cpu"
    )
    assert outcome.status == 0, outcome
    np.testing.assert_array_equal(nib.load(tmp_path / "one" / "a.nii.gz").get_fdata(), first.get_fdata())


def test_ct_with_regions_by_data_root_alone(tmp_path: Path) -> None:
    """The folder says all: CT is normalised by what the run keeps, regions are scored by their names."""
    source = write_msd(tmp_path / "msd", channels=("CT",), ignored=True)
    labels = {"background": 0, "whole": [1, 2], "inner": [2], "ignore": 3}
    root = as_nnunet(source, tmp_path / "Dataset001_Mine", labels=labels, regions_class_order=[1, 2])
    run = trained(tmp_path / "run", "data=nnunet", f"data.root={root}", "loss=dice_bce")
    summary = json.loads((run / "eval/test/summary.json").read_text())
    assert list(summary["dice"]["per_class"]) == ["whole", "inner"]
    found = json.loads((run / "card.json").read_text())["config"]["found"]
    assert found["statistics"][0][1] > 0
    assert (found["regions"], found["regions_class_order"]) == ({"whole": [1, 2], "inner": [2]}, [1, 2])
    assert found["labels"][-1] == "ignore"


def subset(source: Path, target: Path, *, num_cases: int, ignored: bool = False) -> Path:
    """The first cases of a Decathlon folder; `ignored`: a label more, of the last fifth of the slices."""
    about = json.loads((source / "dataset.json").read_text())
    about["training"] = about["training"][:num_cases]
    for entry in about["training"]:
        for path in entry.values():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, target / path)
        if ignored:
            label = nib.load(target / entry["label"])
            voxels = np.asarray(label.dataobj).astype(np.uint8)
            voxels[:, :, -voxels.shape[2] // 5 :] = 4
            nib.save(nib.Nifti1Image(voxels, label.affine), target / entry["label"])
    if ignored:
        about["labels"] = {**about["labels"], "4": "ignore"}
    (target / "dataset.json").write_text(json.dumps(about))
    return target


@pytest.mark.long
def test_hippocampus_in_both_layouts(real_data: Callable, tmp_path: Path) -> None:
    source = subset(real_data("Task04_Hippocampus"), tmp_path / "msd", num_cases=10)
    root = as_nnunet(source, tmp_path / "Dataset004_Hippocampus")
    run = trained(tmp_path / "ours", "data=nnunet", f"data.root={root}", SAME_INTENSITY)
    assert_same_run(run, trained(tmp_path / "theirs", "data=msd", f"data.root={source}", SAME_INTENSITY))


@pytest.mark.long
def test_brain_tumours_with_regions_and_ignore_in_both_layouts(real_data: Callable, tmp_path: Path) -> None:
    source = subset(real_data("Task01_BrainTumour_2mm"), tmp_path / "msd", num_cases=6, ignored=True)
    regions = {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}
    root = as_nnunet(
        source,
        tmp_path / "Dataset001_BrainTumour",
        labels={"background": 0, **regions, "ignore": 4},
        regions_class_order=[1, 2, 3],
    )
    both = ("loss=dice_bce", SAME_INTENSITY)
    run = trained(tmp_path / "ours", "data=nnunet", f"data.root={root}", *both)
    given = "data.regions={WT: [1, 2, 3], TC: [2, 3], ET: [3]}"
    assert_same_run(run, trained(tmp_path / "theirs", "data=msd", f"data.root={source}", given, *both))
