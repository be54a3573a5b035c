"""Synapse in TransUNet's layout: lists, who validates, and one message for every bad file."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from monai.transforms import Identityd

from sct.data.sets.synapse import LIST_FOLDERS, ORGANS, Synapse
from sct.data.sets.synapse_conversion import Scan, write_set
from sct.errors import UserError

TRAIN, TEST = ("0005", "0006", "0007"), ("0001", "0002")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three patients of two slices to train on, and two of three to test on, of 12 x 10 voxels."""
    rng = np.random.default_rng(0)
    spacing = np.array([3.0, 0.8, 0.8])
    scans = []
    for patient in (*TRAIN, *TEST):
        shape = (2 if patient in TRAIN else 3, 12, 10)
        label = rng.integers(0, 9, shape).astype(np.uint8)
        scans.append(Scan(patient, rng.uniform(size=shape).astype(np.float32), label, spacing))
    write_set(tmp_path / "synapse", scans, train=TRAIN, test=TEST)
    return tmp_path / "synapse"


@pytest.fixture
def make_synapse(root: Path, tmp_path: Path) -> Callable[..., Synapse]:
    def make(**fields: object) -> Synapse:
        settings = {
            "root": str(root),
            "cache_dir": str(tmp_path / "cache"),
            "roi_size": [8, 8],
            "resize_to": [8, 8],
            "intensity": Identityd(keys=["image"]),
            "val_patients": ["0006"],
        }
        return Synapse(**(settings | fields))

    return make


def ids(data: Synapse, split: str) -> list[str]:
    return [case.id for case in data.cases(split)]


def test_classes_are_numbered_as_transunet_does(make_synapse: Callable) -> None:
    names = make_synapse().label_map.names
    wanted = ["aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach"]
    assert names == ("background", *wanted) == ("background", *ORGANS)


@pytest.mark.parametrize("folder", LIST_FOLDERS)
def test_lists_say_what_trains_and_tests(make_synapse: Callable, root: Path, folder: str) -> None:
    for name in ("train.txt", "test_vol.txt"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / folder / name)
    (root / folder / "test_vol.txt").write_text("case0002 \r\n\n")
    data = make_synapse()
    assert ids(data, "train") == ["case0005_slice000", "case0005_slice001", "case0007_slice000", "case0007_slice001"]
    assert ids(data, "val") == ["case0006_slice000", "case0006_slice001"]
    assert ids(data, "test") == ["case0002"]


def test_slices_train_and_volumes_are_tested(make_synapse: Callable) -> None:
    data = make_synapse(batch_size=3)
    (batch,) = data.train_loader(seed=0, start_step=0, num_steps=1)
    assert batch["image"].shape == (3, 1, 8, 8)
    assert batch["label"].shape == (3, 8, 8)
    volume = data.load_case(data.cases("test")[0])
    assert volume.image.shape == (1, 3, 8, 8)
    assert volume.label.shape == (3, 8, 8)
    assert volume.source_shape == (3, 12, 10)
    assert volume.spacing == pytest.approx([3.0, 0.8 * 12 / 8, 0.8 * 10 / 8])


def test_test_volumes_can_validate(make_synapse: Callable, caplog: pytest.LogCaptureFixture) -> None:
    data = make_synapse(val_patients=None)
    assert ids(data, "val") == ids(data, "test") == ["case0001", "case0002"]
    assert len(ids(data, "train")) == 6
    assert "chosen on them" in caplog.text


@pytest.mark.parametrize("patients", [[], ["0001"], ["6"], ["0005", "0006", "0007"]])
def test_who_validates_must_be_some_of_those_who_train(make_synapse: Callable, patients: list[str]) -> None:
    with pytest.raises(UserError, match=r"data\.val_patients=.*0005, 0006, 0007.*val_patients=null"):
        make_synapse(val_patients=patients).prepare()


def test_a_patient_on_both_sides_is_told(make_synapse: Callable, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_synapse().prepare()
    assert "trains on" not in caplog.text
    scan = Scan("0005", np.zeros((1, 9, 9), np.float32), np.zeros((1, 9, 9), np.uint8), np.ones(3))
    write_set(root.parent / "other", [scan], train=[], test=["0005"])
    (root.parent / "other" / "test_vol_h5" / "case0005.npy.h5").rename(root / "test_vol_h5" / "case0005.npy.h5")
    (root / "test_vol.txt").write_text("case0005")
    make_synapse().prepare()
    assert "patient(s) it trains on, 0005" in caplog.text


def test_windows_of_three_numbers_are_refused(make_synapse: Callable) -> None:
    with pytest.raises(UserError, match=r"data\.roi_size=\[8, 8, 8\] must be 2 numbers"):
        make_synapse(roi_size=[8, 8, 8], resize_to=None)


@pytest.mark.parametrize("absent", ["train.txt", "test_vol.txt", "root"])
def test_what_is_missing_is_told_with_the_layout(make_synapse: Callable, root: Path, absent: str) -> None:
    if absent == "root":
        root.rename(root.parent / "moved")
    else:
        (root / absent).unlink()
    with pytest.raises(UserError) as caught:
        make_synapse().prepare()
    state = "does not exist" if absent == "root" else f"has no {absent}"
    for part in (str(root), "data.root", state, "lists/lists_Synapse", "prepare_synapse.py", "syn3193805"):
        assert part in str(caught.value)


def change(path: Path, **arrays: np.ndarray | None) -> None:
    """Replaces arrays of a file, or takes those away that are None; the spacing stays."""
    if path.suffix == ".npz":
        kept = {name: array for name, array in {**np.load(path), **arrays}.items() if array is not None}
        np.savez(path, **kept)
        return
    with h5py.File(path, "a") as file:
        for name, array in arrays.items():
            del file[name]
            if array is not None:
                file[name] = array


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


SLICE, VOLUME = "case0005_slice001.npz", "case0002.npy.h5"
FAULTS = {
    "slice absent": (SLICE, lambda p: p.unlink(), "does not exist", "out of the list"),
    "volume absent": (VOLUME, lambda p: p.unlink(), "does not exist", "out of the list"),
    "slice empty": (SLICE, lambda p: p.write_bytes(b""), "cannot be read as npz", "prepare it again"),
    "volume empty": (VOLUME, lambda p: p.write_bytes(b""), "cannot be read as h5", "prepare it again"),
    "slice truncated": (SLICE, truncate, "cannot be read as npz", "prepare it again"),
    "volume truncated": (VOLUME, truncate, "cannot be read as h5", "prepare it again"),
    "another format": (SLICE, lambda p: p.write_bytes(b"no archive"), "cannot be read as npz", "prepare it again"),
    "no image": (SLICE, lambda p: change(p, image=None), "no array `image` (it has label, spacing)", "Prepare"),
    "no label": (SLICE, lambda p: change(p, label=None), "no array `label` (it has image, spacing)", "Prepare"),
    "no dataset": (VOLUME, lambda p: change(p, label=None), "no array `label` (it has image)", "Prepare"),
    "three axes": (SLICE, lambda p: change(p, image=np.ones((3, 12, 10))), "(3, 12, 10)", "2 axes (rows, columns)"),
    "two axes": (VOLUME, lambda p: change(p, label=np.ones((12, 10))), "`label` has shape (12, 10)", "3 axes"),
    "no voxels": (VOLUME, lambda p: change(p, image=np.ones((0, 12, 10))), "(0, 12, 10)", "3 axes"),
    "text": (SLICE, lambda p: change(p, image=np.full((12, 10), "a")), "cannot be read as npz", "prepare it again"),
    "other shape": (SLICE, lambda p: change(p, label=np.ones((12, 9))), "the label has shape (12, 9)", "Resample"),
    "unknown label": (
        VOLUME,
        lambda p: change(p, label=np.full((3, 12, 10), 9)),
        "unknown label value(s) [9]",
        "8 stomach",
    ),
    "not a number": (VOLUME, lambda p: change(p, image=np.full((3, 12, 10), np.nan)), "NaN", "Replace"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_bad_file_is_told_once(make_synapse: Callable, root: Path, kind: str) -> None:
    name, spoil, reason, remedy = FAULTS[kind]
    (path,) = root.rglob(name)
    spoil(path)
    with pytest.raises(UserError, match=r"1 fault\(s\) in 8 cases") as caught:
        make_synapse().prepare()
    message = str(caught.value)
    assert message.count(str(path)) == 1
    assert reason in message
    assert remedy in message
