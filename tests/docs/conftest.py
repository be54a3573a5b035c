"""A folder that looks like a user's: a trained demo, images, a data set of its own, data in nnU-Net's layout."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from doc_pages import DOCS, blocks
from exported_runs import add_noise
from shrunk import NNUNET, OWN_DATA, RUN, small, succeed

from sct import eval as evaluation
from sct import profile, train
from sct.config.command import compose_config
from sct.data import __main__ as data
from sct.runtime import checkpoint

DESCRIPTION = '{{"{channels}": {{"0": "CT"}}, "labels": {{"background": 0, "organ": 1}}, "training": [{cases}]}}'


def volume(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), path)


def write_decathlon(folder: Path, *, num_cases: int = 6) -> None:
    """Cases of one channel and one organ in the Decathlon's layout."""
    generator = np.random.default_rng(0)
    for case in range(num_cases):
        label = np.zeros((12, 12, 10), np.uint8)
        label[3:7, 3:7, 3:7] = 1
        volume(folder / f"imagesTr/case{case}.nii.gz", generator.normal(size=label.shape).astype(np.float32) + label)
        volume(folder / f"labelsTr/case{case}.nii.gz", label)
    names = [f"case{case}.nii.gz" for case in range(num_cases)]
    pairs = ", ".join(f'{{"image": "./imagesTr/{name}", "label": "./labelsTr/{name}"}}' for name in names)
    (folder / "dataset.json").write_text(DESCRIPTION.format(channels="modality", cases=pairs))


def write_nnunet(folder: Path) -> None:
    """The same cases in nnU-Net's raw layout, of two channels."""
    generator = np.random.default_rng(0)
    for case in "abcdef":
        label = np.zeros((8, 9, 10), np.uint8)
        label[3:6, 3:6, 3:6] = 1
        for channel in range(2):
            voxels = generator.normal(size=label.shape).astype(np.float32)
            volume(folder / f"imagesTr/{case}_{channel:04d}.nii.gz", voxels)
        volume(folder / f"labelsTr/{case}.nii.gz", label)
    description = {
        "channel_names": {"0": "T1", "1": "CT"},
        "labels": {"background": 0, "organ": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a", "b", "c"], "val": ["d", "e", "f"]}]))


@pytest.fixture(scope="session")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # with all that a page may ask of a run
        demo = ["+experiment=demo", "look=first"]
        dense = ["+experiment=demo", "encoder=dense", "completion=scatter"]
        for overrides, run in ((demo, RUN), (dense, "outputs/runs/dense")):
            shrunk = small(overrides, cfg=compose_config("train", overrides=overrides))
            succeed(train.main, *shrunk, f"run_dir={run}")
        # scorers that have learnt nothing score all tokens alike, and rounding would choose between them
        for path in (Path(RUN) / checkpoint.FOLDER).glob("*.pt"):
            add_noise(path, seed=0)
        for run in (RUN, "outputs/runs/dense"):
            succeed(evaluation.main, f"ckpt={run}")
        succeed(profile.main, "ckpt=outputs/runs/dense", "profile.latency=false")
        shutil.copytree(RUN, "outputs/runs/stp")
        shutil.copytree("data/phantom_smoke", "data/phantom")
        raw = Path("data/phantom/organs/RawData/Training")
        image, label = (sorted((raw / kind).glob("*.nii.gz"))[-1] for kind in ("img", "label"))
        Path("scans").mkdir()
        shutil.copyfile(image, "scan.nii.gz")
        # the case of the whole demo that the README names
        shutil.copyfile(image, raw / "img/img0029.nii.gz")
        shutil.copyfile(label, raw / "label/label0029.nii.gz")
        shutil.copyfile(image, "scans/scan.nii.gz")
        shutil.copyfile(label, "labels.nii.gz")
        write_decathlon(Path(OWN_DATA))
        (config,) = blocks(DOCS / "getting-started/own-data.md", "yaml")
        Path("configs/data").mkdir(parents=True)
        Path("configs/data/by_hand.yaml").write_text(config.text)
        succeed(data.main, "plan", f"data.root={OWN_DATA}", "name=mine")
        write_nnunet(Path(NNUNET))
    return folder


@pytest.fixture
def place(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user, in which the test runs."""
    monkeypatch.chdir(user_folder)
    return user_folder
