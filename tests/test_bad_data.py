"""Bad data through the real commands: one message with file and remedy, exit status 1, and nothing written over."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import assert_one_message, files_of, run_command

from sct import eval as evaluation
from sct import predict, train
from sct.runtime import checkpoint


def rewrite(path: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    """Replaces a NIfTI file by `change(voxels, affine)`."""
    image = nib.load(path)
    voxels, affine = change(np.asarray(image.dataobj), image.affine.copy())
    nib.save(nib.Nifti1Image(voxels, affine), path)


def with_value(voxels: np.ndarray, value: float) -> np.ndarray:
    voxels = voxels.copy()
    voxels[3, 3, 3] = value
    return voxels


def shift(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    affine[:3, 3] += 20.0
    return voxels, affine


# what is done to one case (image, label), which of its files the message names, and what else it says
FAULTS = {
    "image without label": (lambda image, label: label.unlink(), "image", "no label", "remove the image"),
    "other shape": (
        lambda image, label: rewrite(label, lambda v, a: (v[:-2], a)),
        "label",
        "has shape",
        "Resample",
    ),
    "other affine": (lambda image, label: rewrite(label, shift), "label", "affines differ", "resample the label"),
    "unknown label": (
        lambda image, label: rewrite(label, lambda v, a: (with_value(v, 99), a)),
        "label",
        "unknown label value(s) [99]",
        "data.labels",
    ),
    "not a number": (
        lambda image, label: rewrite(image, lambda v, a: (with_value(v.astype(np.float32), np.nan), a)),
        "image",
        "NaN",
        "Replace them",
    ),
    "truncated": (
        lambda image, label: image.write_bytes(image.read_bytes()[:-2000]),
        "image",
        "truncated",
        "copy or download it",
    ),
    "wrong channels": (
        lambda image, label: rewrite(image, lambda v, a: (np.stack([v, v], axis=-1), a)),
        "image",
        "2 channel(s), expected 1",
        "data.channels",
    ),
    "empty": (lambda image, label: image.write_bytes(b""), "image", "empty", "copy or download it"),
    "no image at all": (lambda image, label: image.write_bytes(gzip.compress(b"x" * 999)), "image", "NIfTI", "format"),
}
OF_AN_IMAGE = ("not a number", "truncated", "wrong channels", "empty", "no image at all")


@pytest.fixture
def data_copy(finished_run: Path, workplace: Path, tmp_path: Path) -> Path:
    """A copy of the phantoms to spoil."""
    return Path(shutil.copytree(workplace / "data" / "phantom_smoke", tmp_path / "data"))


def case_files(root: Path) -> tuple[Path, Path]:
    """Image and label of one training case."""
    training = root / "organs" / "RawData" / "Training"
    return training / "img" / "img0002.nii.gz", training / "label" / "label0002.nii.gz"


@pytest.fixture
def told(request: pytest.FixtureRequest, data_copy: Path) -> list[str]:
    """What the messages say of the fault, after it was done to the copy."""
    spoil, named, *words = FAULTS[request.param]
    files = dict(zip(("image", "label"), case_files(data_copy), strict=True))
    spoil(files["image"], files["label"])
    return [*words, str(files[named])]


@pytest.mark.parametrize("told", FAULTS, indirect=True)
def test_a_bad_case_stops_training(told, smoke, data_copy, tmp_path):
    run = tmp_path / "run"
    assert_one_message(run_command(train.main, *smoke, f"data.root={data_copy}", f"run_dir={run}"), *told)
    assert not run.exists()


@pytest.mark.parametrize("told", ["truncated"], indirect=True)
def test_a_network_that_cannot_be_built_is_told_before_the_files_are_read(told, smoke, data_copy, tmp_path):
    """Reading takes minutes where there are many files."""
    settings = (*smoke, f"data.root={data_copy}", f"run_dir={tmp_path}/run", "pruning.blocks=[99]")
    assert_one_message(run_command(train.main, *settings), "blocks", "99")


# cases are read by the same code as in training: one fault of an image and one of a label
AGAIN = [pytest.param(name, marks=() if name in ("truncated", "other affine") else pytest.mark.long) for name in FAULTS]


@pytest.mark.parametrize("told", AGAIN, indirect=True)
def test_a_bad_case_stops_evaluation_and_resuming(told, finished_run, data_copy):
    before = files_of(finished_run)
    assert_one_message(run_command(evaluation.main, f"ckpt={finished_run}", f"data.root={data_copy}"), *told)
    assert_one_message(run_command(train.main, f"resume={finished_run}", f"data.root={data_copy}"), *told)
    assert files_of(finished_run) == before


@pytest.mark.parametrize("fault", OF_AN_IMAGE)
def test_a_bad_input_stops_prediction(fault, finished_run, data_copy, tmp_path):
    spoil, _, *words = FAULTS[fault]
    image, label = case_files(data_copy)
    spoil(image, label)
    arguments = (f"ckpt={finished_run}", f"input={image}", f"output={tmp_path}/out")
    assert_one_message(run_command(predict.main, *arguments), str(image), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("btcv_stp_mta", ["RawData/Training/img", "syn3193805"]),
        ("hippocampus_stp_mta", ["dataset.json", "medicaldecathlon.com"]),
    ],
)
def test_missing_data_tell_where_they_were_looked_for(experiment, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run_command(train.main, f"+experiment={experiment}", f"data.root={tmp_path}/none")
    assert_one_message(outcome, f"{tmp_path}/none", "data.root", *words)
    assert not list(tmp_path.iterdir())


def test_missing_inputs_stop_a_prediction(finished_run, tmp_path):
    for name in ("nothing", "nothing.nii.gz"):
        arguments = (f"ckpt={finished_run}", f"input={tmp_path}/{name}", f"output={tmp_path}/out")
        assert_one_message(run_command(predict.main, *arguments), f"{tmp_path}/{name}", "does not exist")
    assert not list(tmp_path.iterdir())


def test_settings_that_do_not_fit_the_data(smoke, run_copy, tmp_path):
    before = files_of(run_copy)
    for settings, words in (
        (["data.roi_size=[16,16,20]"], ["data.roi_size=[16, 16, 20]", "encoder.patch_size=8"]),
        (["pruning.ratio=-0.1"], ["encoder.reducer.ratio=-0.1", "at least 0"]),
        (["data.split=/nowhere.json"], ["data.split=/nowhere.json", "shipped splits"]),
        (["data.num_train=3"], ["phantoms of other parameters", "data.num_train", "data.root"]),
    ):
        new = run_command(train.main, *smoke, f"run_dir={tmp_path}/new", *settings)
        assert_one_message(new, *words)
        assert_one_message(run_command(train.main, f"resume={run_copy}", *settings), *words)
    assert not (tmp_path / "new").exists()
    assert files_of(run_copy) == before


def test_the_checkpoint_of_another_model(smoke, run_copy, data_copy, tmp_path):
    before = files_of(run_copy)
    words = ["another model", "encoder.class_token is (1, 1, 24) in the file, (1, 1, 48) in this model"]
    assert_one_message(run_command(train.main, f"resume={run_copy}", "encoder.dim=48"), *words, str(run_copy))
    assert files_of(run_copy) == before
    # weights that their own config does not describe
    path = run_copy / checkpoint.FOLDER / "best.pt"
    state = torch.load(path, weights_only=True)
    state["config"]["encoder"]["dim"] = 48
    torch.save(state, path)
    before = files_of(run_copy)
    image, _ = case_files(data_copy)
    assert_one_message(run_command(evaluation.main, f"ckpt={path}"), *words, str(path))
    arguments = (f"ckpt={run_copy}", f"input={image}", f"output={tmp_path}/out")
    assert_one_message(run_command(predict.main, *arguments), *words, str(path))
    assert files_of(run_copy) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half of one"])
def test_a_damaged_checkpoint_is_named(content, run_copy, tmp_path):
    path = run_copy / checkpoint.FOLDER / "best.pt"
    path.write_bytes(content)
    before = files_of(run_copy)
    assert_one_message(run_command(evaluation.main, f"ckpt={run_copy}"), str(path), "can't be read")
    foreign = tmp_path / "foreign.pt"
    torch.save({"state_dict": {}}, foreign)
    assert_one_message(run_command(evaluation.main, f"ckpt={foreign}"), str(foreign), "not a checkpoint of sct")
    assert files_of(run_copy) == before
