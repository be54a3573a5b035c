"""A folder of images without labels, and crops of a case that has none."""

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Identityd

from sct.data.cases import Grid
from sct.data.loading.transforms import Foreground, Prepared, TrainingCrops
from sct.data.sets.images import Images
from sct.errors import UserError


def images_at(root, **settings):
    settings = {
        "roi_size": [4, 4, 4],
        "intensity": Identityd(keys=["image"]),
        "cache_dir": str(root / "cache"),
    } | settings
    return Images(root=str(root / "scans"), **settings)


@pytest.fixture
def root(tmp_path):
    """Images of all numbers 0, 1, ... in folders, beside files that are no images."""
    for number, name in enumerate(("a.nii.gz", "deep/b.nii.gz", "deep/c.nii", "d.nii.gz", ".hidden.nii.gz")):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.arange(5 * 4 * 4, dtype=np.float32).reshape(5, 4, 4) + 100 * number
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    (tmp_path / "scans" / "notes.txt").write_text("no image")
    return tmp_path


def test_all_images_below_the_folder_are_found_and_shared_out(root):
    data = images_at(root, val_share=0.25)
    data.prepare()
    ids = {split: [case.id for case in data.cases(split)] for split in ("train", "val", "test")}
    assert sorted(ids["train"] + ids["val"]) == ["a", "b", "c", "d"]
    assert len(ids["val"]) == 1
    assert ids["test"] == []
    assert all(case.label is None for case in data.cases("train"))
    assert data.num_outputs == data.num_channels == 1


def test_images_of_one_name_are_told_apart_by_their_folder(root):
    (root / "scans" / "deep" / "b.nii.gz").rename(root / "scans" / "deep" / "a.nii.gz")
    assert sorted(case.id for case in images_at(root).find_cases()) == ["a", "d", "deep/a", "deep/c"]


def test_two_channels_are_found_by_the_check(root):
    with pytest.raises(UserError, match=r"has 1 channel\(s\), expected 2"):
        images_at(root, channels=["t1", "t2"]).prepare()


def test_a_folder_without_images_and_labels_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"scans \(data.root\), which is no folder"):
        images_at(tmp_path).prepare()
    (tmp_path / "scans").mkdir()
    with pytest.raises(UserError, match=r"holds no .* file"):
        images_at(tmp_path).prepare()
    with pytest.raises(UserError, match=r"data=images has no labels.*data=msd"):
        images_at(tmp_path, labelled=True)


def crops_of(label, *, number=40):
    image = np.arange(6**3, dtype=np.float32).reshape(1, 6, 6, 6)
    foreground = None if label is None else Foreground.of(label)
    prepared = Prepared(image, label, foreground, np.eye(4), Grid((6, 6, 6), 1, np.eye(4)))
    crops = TrainingCrops(roi_size=[2, 2, 2], num_crops=number, positive_share=1.0, augment=[])
    return crops(prepared, entropy=(0, 0))


def test_crops_without_a_label_lie_anywhere_and_are_background():
    crops = crops_of(None)
    assert all(not crop["label"].any() and crop["label"].shape == (2, 2, 2) for crop in crops)
    assert all(crop["image"].shape == (1, 2, 2, 2) for crop in crops)
    assert len({float(crop["image"][0, 0, 0, 0]) for crop in crops}) > 20, "of 125 places"
    same = crops_of(np.zeros((6, 6, 6), dtype=np.uint8))
    assert all((a["image"] == b["image"]).all() for a, b in zip(crops, same, strict=True)), "as of an empty label"
