"""From raw BTCV to Synapse's files: where every voxel goes, what it becomes, and what is refused."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from commands import files_of, own_settings
from little_data import save

from sct.data.sets import btcv, synapse_conversion
from sct.data.sets.synapse import ORGANS
from sct.data.sets.synapse_conversion import (
    TEST_PATIENTS,
    TRAIN_PATIENTS,
    convert,
    label_table,
    prepare,
    shared_out,
    slices_first,
    windowed,
)
from sct.data.splits import split_by_file
from sct.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_synapse.py"
# BTCV's value of every organ and Synapse's, written down by hand
VALUES = {0: 0, 1: 7, 2: 4, 3: 3, 4: 2, 5: 0, 6: 5, 7: 8, 8: 1, 9: 0, 10: 0, 11: 6, 12: 0, 13: 0}


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS", "SLA", "PIR"])
def test_slices_run_up_rows_back_and_columns_left(tmp_path: Path, orientation: str) -> None:
    voxels = np.arange(24, dtype=np.float32).reshape(4, 3, 2)  # to the right, front and head
    ras = nib.Nifti1Image(voxels, np.diag([2.0, 3.0, 5.0, 1.0]) + 7 * np.eye(4, k=3))
    to_there = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    image = ras.as_reoriented(to_there)
    assert "".join(nib.aff2axcodes(image.affine)) == orientation
    turned, spacing = slices_first(np.asarray(image.dataobj), affine=image.affine)
    assert turned.shape == (2, 3, 4)
    np.testing.assert_allclose(spacing, [5.0, 3.0, 2.0])
    # the lowest slice, its frontmost row, the patient's right: voxel (3, 2, 0)
    assert turned[0, 0, 0] == voxels[3, 2, 0]
    for x, y, z in np.ndindex(4, 3, 2):
        assert turned[z, 2 - y, 3 - x] == voxels[x, y, z]


def test_intensities_are_clipped_and_scaled_exactly() -> None:
    found = windowed(np.array([-1024, -125.5, -125, -25, 75, 175, 275, 276, 3000]))
    np.testing.assert_array_equal(found, np.array([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1], dtype=np.float32))
    assert found.dtype == np.float32


def test_every_label_becomes_the_right_organ() -> None:
    names = ("background", *btcv.ORGANS)
    assert dict(enumerate(label_table(names).tolist())) == VALUES
    label = np.arange(14.0).reshape(14, 1, 1)
    scan = convert(np.zeros((14, 1, 1)), label, affine=np.diag([-1.0, -1.0, 1.0, 1.0]), names=names, patient="1")
    assert scan.label.dtype == np.uint8
    np.testing.assert_array_equal(scan.label, np.array(list(VALUES.values())).reshape(1, 1, 14))
    assert {names[old]: ORGANS[new - 1] for old, new in VALUES.items() if new} == {name: name for name in ORGANS}


def test_the_published_split_is_that_of_btcv() -> None:
    cases = [btcv.Case(i, Path("i"), None) for i in (*TRAIN_PATIENTS, *TEST_PATIENTS)]
    parts = split_by_file(cases, split="btcv_18_12")
    assert [case.id for case in parts["test"]] == list(TEST_PATIENTS)
    assert sorted(case.id for case in (*parts["train"], *parts["val"])) == list(TRAIN_PATIENTS)
    assert (len(TRAIN_PATIENTS), len(TEST_PATIENTS)) == (18, 12)
    assert shared_out([case.id for case in cases], split="published") == (list(TRAIN_PATIENTS), list(TEST_PATIENTS))


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_synapse.py", *map(str, arguments)])
    with own_settings():
        runpy.run_path(str(SCRIPT))["main"]()


def test_the_script_writes_slices_volumes_and_lists(
    btcv_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The CTs are 20 x 18 x 12 voxels to the left, back and head, with organs in known boxes."""
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"train": ["0001", "0002", "0021"], "test": ["0003"]}))
    with caplog.at_level("INFO"):
        run_script(monkeypatch, btcv_root, tmp_path / "out", "--split", own)
    out = tmp_path / "out"
    slices = [f"case{patient}_slice{index:03d}" for patient in ("0001", "0002", "0021") for index in range(12)]
    assert (out / "train.txt").read_text().split() == slices
    assert (out / "test_vol.txt").read_text() == "case0003\n"
    assert sorted(path.name for path in (out / "train_npz").iterdir()) == [f"{name}.npz" for name in slices]
    assert [path.name for path in (out / "test_vol_h5").iterdir()] == ["case0003.npy.h5"]
    assert not list(tmp_path.glob(".part-*"))

    def wanted(number: int) -> tuple[np.ndarray, np.ndarray]:
        hu = np.random.default_rng(number).normal(0, 100, (20, 18, 12)).astype(np.int16)
        label = np.zeros((12, 18, 20))
        label[2:5, 4:8, 3:6], label[6:9, 10:14, 12:16] = 7, 5  # spleen and liver
        return (np.clip(hu.transpose(2, 1, 0), -125, 275) + 125) / 400, label

    image, label = wanted(3)
    with h5py.File(out / "test_vol_h5" / "case0003.npy.h5") as file:
        np.testing.assert_allclose(file["image"], image, atol=1e-7)
        np.testing.assert_array_equal(file["label"], label)
        np.testing.assert_allclose(file.attrs["spacing"], [3.0, 2.0, 2.0])
    image, label = wanted(21)
    for index in (0, 3, 11):
        with np.load(out / "train_npz" / f"case0021_slice{index:03d}.npz") as file:
            np.testing.assert_allclose(file["image"], image[index], atol=1e-7)
            np.testing.assert_array_equal(file["label"], label[index])
            np.testing.assert_allclose(file["spacing"], [3.0, 2.0, 2.0])
    assert "case0003: 12x18x20 voxels of 3 x 2 x 2 mm" in caplog.text
    assert "slices of 3 patient(s) to train on, volumes of 1 to test on" in caplog.text


def test_the_script_tells_mistakes_in_one_line(
    btcv_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"^Error: No BTCV data: looked in .*/nothing \(RAW\), which does not exist"):
        run_script(monkeypatch, tmp_path / "nothing", tmp_path / "out")


@pytest.mark.parametrize(("split", "sizes"), [("all", (6, 6)), ("train", (6, 0)), ("test", (0, 6))])
def test_small_sets_have_splits_of_their_own(btcv_root: Path, tmp_path: Path, split: str, sizes: tuple) -> None:
    prepare(btcv_root, tmp_path / "out", split=split)
    found = [len((tmp_path / "out" / name).read_text().split()) for name in ("train.txt", "test_vol.txt")]
    assert found == [12 * sizes[0], sizes[1]]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("published", ["RAW lacks 24 patient(s) of the split published: 0004, 0005", "it has 0001", "--split all"]),
        ("half", ["--split half", "neither published, all, train nor test, nor a JSON file"]),
        ('{"train": ["0001"], "test": ["0009"]}', ["RAW lacks 1 patient(s)", "0009"]),
        ('{"train": ["0001"]}', ["own.json", "KeyError"]),
        ('{"train": "0001", "test": []}', ["own.json", "lists of patients"]),
        ('["0001"]', ["own.json", "TypeError"]),
    ],
)
def test_bad_splits(btcv_root: Path, tmp_path: Path, split: str, words: list[str]) -> None:
    if split.startswith(("{", "[")):
        (tmp_path / "own.json").write_text(split)
        split = str(tmp_path / "own.json")
    with pytest.raises(UserError) as caught:
        prepare(btcv_root, tmp_path / "out", split=split)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_set_is_never_written_over(btcv_root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    prepare(btcv_root, tmp_path / "out", split="test")
    before = files_of(tmp_path / "out")
    with pytest.raises(UserError, match="out exists and is not empty"):
        prepare(btcv_root, tmp_path / "out", split="test")
    assert files_of(tmp_path / "out") == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file exists and is not empty"):
        prepare(btcv_root, tmp_path / "file", split="test")


def test_bad_raw_files_are_all_told_before_anything_is_written(btcv_root: Path, tmp_path: Path) -> None:
    training = btcv_root / "RawData" / "Training"
    (training / "img" / "img0002.nii.gz").write_bytes(b"")
    label = np.full((20, 18, 12), 14, dtype=np.uint8)
    save(training / "label" / "label0021.nii.gz", label, affine=np.diag([-2.0, -2.0, 3.0, 1.0]))
    with pytest.raises(UserError, match=r"2 fault\(s\) in 6 cases") as caught:
        prepare(btcv_root, tmp_path / "out", split="all")
    assert "img0002" in str(caught.value)
    assert "label0021" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_breaks_off_leaves_nothing(btcv_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full_disk(path: Path, **arrays: np.ndarray) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError("no space left")

    monkeypatch.setattr(synapse_conversion, "write_volume", full_disk)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match="no space"):
        prepare(btcv_root, tmp_path / "out", split="all")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_the_real_ct_shows_its_organs_where_they_lie(real_data: Callable, tmp_path: Path) -> None:
    """Liver on the patient's right and so on the left of the picture, spleen opposite, the aorta before no kidney."""
    prepare(real_data("ct_btcv_layout"), tmp_path / "out", split="test")
    with h5py.File(tmp_path / "out" / "test_vol_h5" / "case0001.npy.h5") as file:
        image, label = file["image"][:], file["label"][:]
        np.testing.assert_allclose(file.attrs["spacing"], 1.5)
    assert image.shape == (185, 119, 119)
    assert (image.min(), image.max()) == (0, 1)
    place = {name: np.argwhere(label == value).mean(axis=0) for value, name in enumerate(ORGANS, start=1)}
    for right, left in (("liver", "spleen"), ("right_kidney", "left_kidney"), ("gallbladder", "stomach")):
        assert place[right][2] < place[left][2] - 50
    assert place["pancreas"][1] < place["left_kidney"][1] - 20  # the kidneys lie at the back
    assert place["liver"][0] > place["right_kidney"][0] + 20
