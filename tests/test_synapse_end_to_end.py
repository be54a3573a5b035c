"""A 2-D network on phantom CTs in Synapse's layout: trained on slices, scored on volumes as they are written."""

import json
import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from commands import assert_one_message, run_command

from sct import eval as evaluation
from sct import predict, train
from sct.data.cases import LabelMap
from sct.data.outputs import Classes
from sct.data.sets.synapse import ORGANS
from sct.evaluation.metrics import score_case

# of the demo's settings only optimizer and schedule are left
NETWORK = (
    *("+experiment=demo", "+debug=smoke_synapse", "encoder=dense", "completion=scatter", "decoder=unetr_thin"),
    *("encoder.depth=2", "trainer.tensorboard=false"),
)
# until it finds some organs
LONGER = ("trainer.max_steps=40", "trainer.validate_every=40", "trainer.save_every=40", "data.batch_size=4")
PRESENT = [name for name in ORGANS if name not in ("pancreas", "stomach")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("synapse")


@pytest.fixture(scope="module")
def paths(place: Path) -> list[str]:
    return [f"paths.data={place}/data", f"paths.cache={place}/cache", f"paths.outputs={place}/runs"]


@pytest.fixture(scope="module")
def run(place: Path, paths: list[str]) -> Path:
    outcome = run_command(train.main, *NETWORK, *paths, *LONGER, f"run_dir={place}/run")
    assert outcome.status == 0, outcome
    return place / "run"


@pytest.fixture(scope="module")
def volume(run: Path, place: Path) -> Path:
    """The one test volume."""
    (path,) = (place / "data").rglob("*.h5")
    return path


def head_of(folder: Path) -> str:
    (head,) = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("| class")]
    return head


def test_the_written_volume_scores_as_in_memory_and_in_mm(evaluated: Path, volume: Path) -> None:
    assert "HD95 (mm)" in head_of(evaluated)
    summary = json.loads((evaluated / "summary.json").read_text())
    assert summary["n_cases"] == 1
    written = nib.load(evaluated / "predictions" / "case0004.nii.gz")
    with h5py.File(volume) as file:
        truth, spacing = file["label"][:], file.attrs["spacing"]
    assert truth.shape == (8, 32, 32)
    np.testing.assert_allclose(written.header.get_zooms()[::-1], spacing)
    labels = np.asarray(written.dataobj).T
    assert len(np.unique(labels)) > 1, "the scores below would say nothing"
    rows = score_case(
        np.ascontiguousarray(labels),
        truth,
        spacing=spacing,
        outputs=Classes(LabelMap(("background", *ORGANS))),
        case_id="case0004",
    )
    for row in rows:
        if row.class_name in PRESENT:
            assert summary["dice"]["per_class"][row.class_name] == pytest.approx(row.dice)
            assert summary["hd95_mm"]["per_class"][row.class_name] == pytest.approx(row.hd95_mm)


def test_without_spacing_distances_are_in_voxels(run: Path, volume: Path, place: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(volume.parents[1], tmp_path / "bare"))
    with h5py.File(bare / "test_vol_h5" / volume.name, "a") as file:
        del file.attrs["spacing"]
    (bare / "phantom.json").unlink()
    # the same network, on the files as real ones
    settings = ("data._target_=sct.data.sets.synapse.Synapse", f"data.root={bare}")
    keys = ("num_train", "num_test", "shape", "voxel_size", "seed")
    outcome = run_command(
        train.main,
        *NETWORK,
        *settings,
        *(f"~data.{key}" for key in keys),
        f"paths.cache={tmp_path}/cache",
        "trainer.max_steps=1",
        f"run_dir={tmp_path}/run",
    )
    assert outcome.status == 0, outcome
    outcome = run_command(evaluation.main, f"ckpt={tmp_path}/run", f"output={tmp_path}/scores")
    assert outcome.status == 0, outcome
    assert "HD95 (voxels)" in head_of(tmp_path / "scores")
    assert "HD95 (mm)" not in head_of(tmp_path / "scores")


def test_prediction_of_volumes_and_slices(run: Path, evaluated: Path, volume: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    shutil.copy(volume, inputs)
    with h5py.File(volume) as file:
        np.savez(inputs / "slice.npz", image=file["image"][4])  # of no label is asked
    outcome = run_command(predict.main, f"ckpt={run}", f"input={inputs}", f"output={tmp_path}/out")
    assert outcome.status == 0, outcome
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["case0004.nii.gz", "slice.nii.gz"]
    predicted = np.asarray(nib.load(tmp_path / "out" / "case0004.nii.gz").dataobj)
    scored = np.asarray(nib.load(evaluated / "predictions" / "case0004.nii.gz").dataobj)
    np.testing.assert_array_equal(predicted, scored)
    alone = np.asarray(nib.load(tmp_path / "out" / "slice.nii.gz").dataobj)
    np.testing.assert_array_equal(alone, predicted[:, :, 4])


def test_bad_inputs_and_data_are_told(run: Path, volume: Path, place: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(volume.parents[1], tmp_path / "data"))
    spoilt = data / "test_vol_h5" / volume.name
    with h5py.File(spoilt, "a") as file:
        del file["image"]
    words = (str(spoilt), "no array `image` (it has label)", "Prepare the file again")
    outcome = run_command(predict.main, f"ckpt={run}", f"input={spoilt}", f"output={tmp_path}/out")
    assert_one_message(outcome, *words)
    assert_one_message(run_command(evaluation.main, f"ckpt={run}", f"data.root={data}"), *words)
    outcome = run_command(predict.main, f"ckpt={run}", f"input={data}", f"output={tmp_path}/out")
    assert_one_message(outcome, "no Synapse npz or h5 file", ".npy.h5 or .h5 or .npz")


@pytest.mark.parametrize("encoder", ["stp", "evit"])
def test_sparse_encoders_run_on_slices(paths: list[str], tmp_path: Path, encoder: str) -> None:
    swap = (f"encoder={encoder}", "completion=mta", "pruning.blocks=[1,2]")
    outcome = run_command(train.main, *NETWORK, *swap, *paths, "trainer.max_steps=2", f"run_dir={tmp_path}/run")
    assert outcome.status == 0, outcome
