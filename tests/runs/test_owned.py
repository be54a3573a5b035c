"""A run owns what it needs: it predicts without its training folder, and knows names of other data to be others."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import run_command

import sct
from sct import eval as evaluation
from sct import export, predict, train
from sct.exporting.manifest import read_manifest
from sct.runs import card
from sct.runs.folder import saved_config
from sct.runtime import checkpoint

NAMES = ["background", "liver", "spleen"]
SETTINGS = [
    *("data=msd", "encoder=stp", "completion=mta", "decoder=unetr_thin", "encoder.dim=24", "encoder.depth=3"),
    *("encoder.num_heads=2", "pruning.blocks=[2]", "encoder.patch_size=8", "data.roi_size=[16,16,16]", "name=owned"),
    *("data.batch_size=1", "data.crops_per_volume=1", "schedule.warmup_steps=0", "trainer.max_steps=2"),
    *("trainer.precision=fp32", "trainer.validate_every=2", "trainer.save_every=2", "trainer.tensorboard=false"),
]


def write_set(root: Path, *, labels: list[str] = NAMES, channel: str = "MRI") -> Path:
    """Five volumes in the Decathlon's layout with two organs."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(5):
        image, label = rng.normal(100, 10, (16, 16, 16)).astype(np.float32), np.zeros((16, 16, 16), np.uint8)
        label[2:8, 2:8, 2:8], label[9:14, 9:14, 9:14] = 1, 2
        image += 80 * label
        for folder, voxels in (("imagesTr", image), ("labelsTr", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / folder / f"case_{number}.nii.gz")
        entries.append({part: f"./{part}sTr/case_{number}.nii.gz" for part in ("image", "label")})
    content = {"labels": dict(enumerate(labels)), "modality": {"0": channel}, "training": entries}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and the folder of its data."""
    folder = tmp_path_factory.mktemp("owned")
    root = write_set(folder / "data")
    places = [f"data.root={root}", f"paths.cache={folder}/cache", f"run_dir={folder}/run"]
    outcome = run_command(train.main, *SETTINGS, *places)
    assert outcome.status == 0, outcome.err
    return folder / "run", root


def test_names_are_in_config_checkpoint_and_card(trained):
    run, _ = trained
    found = {"labels": NAMES, "channels": ["MRI"]}
    assert saved_config(run)["found"] == found
    assert checkpoint.load(run / "checkpoints/best.pt")["config"]["found"] == found
    assert card.read_card(run)["config"]["found"] == found
    # the config itself stays as it was composed, so that resume=auto finds the run again
    assert saved_config(run)["data"]["labels"] is None


def test_without_the_training_folder_a_run_and_its_export_predict_and_write_nothing_else(
    trained, tmp_path, monkeypatch
):
    run, root = trained
    shutil.copytree(run, tmp_path / "moved")
    image = tmp_path / "scan.nii.gz"
    shutil.copy(root / "imagesTr/case_0.nii.gz", image)
    away = root.rename(root.with_name("away"))
    monkeypatch.chdir(tmp_path)
    try:
        expected = {Path("moved"), Path("scan.nii.gz"), Path("labels"), Path("exported"), Path("again")}
        outcome = run_command(predict.main, "ckpt=moved", "input=scan.nii.gz", "output=labels")
        assert outcome.status == 0, outcome.err
        outcome = run_command(export.main, "ckpt=moved", "format=torch", "input=scan.nii.gz", "output=exported")
        assert outcome.status == 0, outcome.err
        assert read_manifest(Path("exported")).config["found"]["labels"] == NAMES
        outcome = run_command(predict.main, "ckpt=exported", "input=scan.nii.gz", "output=again")
        assert outcome.status == 0, outcome.err
        assert set(map(Path, os.listdir())) == expected
        assert sct.load("moved", device="cpu").predict(image).names == tuple(NAMES)
    finally:
        away.rename(root)
    same = [np.asarray(nib.load(folder + "/scan.nii.gz").dataobj) for folder in ("labels", "again")]
    np.testing.assert_array_equal(*same)


AS_NOBODY = """
import os, sys
# the user may not be allowed to read where packages are
import importlib.readers, monai.inferers, monai.networks.blocks, sct.tasks.predict, scipy.ndimage
from sct import predict
os.setgid(65534)
os.setuid(65534)
os.chdir({folder!r})
sys.argv[1:] = ["ckpt=run", "input=scan.nii.gz", {output!r}]
predict.main()
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_another_user_predicts_in_a_folder_that_can_not_be_written(trained):
    run, root = trained
    # pytest's own folders are closed to others
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        shutil.copytree(run, place / "work/run")
        shutil.copy(root / "imagesTr/case_0.nii.gz", place / "work/scan.nii.gz")
        (place / "output").mkdir()
        for path in (place, *place.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        (place / "output").chmod(0o777)
        before = sorted(place.rglob("*"))
        code = AS_NOBODY.format(folder=str(place / "work"), output=f"output={place}/output")
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
        )
        assert done.returncode == 0, done.stderr
        assert set(place.rglob("*")) - set(before) == {place / "output/scan.nii.gz"}


OTHERS = [({"labels": ["background", "spleen", "liver"]}, "spleen, liver"), ({"channel": "CT"}, "CT")]


@pytest.mark.parametrize(("change", "theirs"), OTHERS)
def test_other_names_are_refused_wherever_data_meets_a_run(trained, tmp_path, change, theirs):
    run = Path(shutil.copytree(trained[0], tmp_path / "run"))
    other = write_set(tmp_path / "other", **change)
    ours = "background, liver, spleen" if "labels" in change else "MRI"
    before = sorted(run.rglob("*"))
    for main, arguments in (
        (evaluation.main, [f"ckpt={run}", f"data.root={other}"]),
        (train.main, [f"resume={run}", f"data.root={other}", "trainer.max_steps=4"]),
    ):
        outcome = run_command(main, *arguments)
        assert outcome.status == 1
        assert ours in outcome.err
        assert theirs in outcome.err
        assert str(other / "dataset.json") in outcome.err
    assert sorted(run.rglob("*")) == before


def test_a_run_goes_on_by_itself_with_the_names_it_has(trained, tmp_path):
    run, root = trained
    run = Path(shutil.copytree(run, tmp_path / "run"))
    before = (root / "dataset.json").read_text()
    content = json.loads(before)
    content["labels"] = {"0": "background", "1": "spleen", "2": "liver"}
    cache = saved_config(run)["paths"]["cache"]
    places = [f"run_dir={run}", f"paths.cache={cache}", f"data.root={root}", "resume=auto"]
    (run / "finished").unlink(missing_ok=True)
    try:
        (root / "dataset.json").write_text(json.dumps(content))
        outcome = run_command(train.main, *SETTINGS, *places)
    finally:
        (root / "dataset.json").write_text(before)
    assert outcome.status == 1
    assert "The names of the labels differ" in outcome.err
    assert run_command(train.main, *SETTINGS, *places).status == 0
