"""Every kind of bad data gives one message with file, reason and remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from little_data import save

from sct.data import check
from sct.errors import UserError


def training(root: Path) -> Path:
    return root / "RawData" / "Training"


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], *, affine: np.ndarray | None = None) -> None:
    image = nib.load(path)
    voxels = np.array(image.dataobj)
    save(path, change(voxels), affine=image.affine if affine is None else affine)


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(np.float32)
        voxels[0, 0, 0] = value
        return voxels

    return change


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def flatten(path: Path) -> None:
    voxels = np.array(nib.load(path).dataobj)
    image = nib.Nifti1Image(voxels, None)
    image.set_sform(np.diag([2.0, 2.0, 0.0, 1.0]), code=1)
    nib.save(image, path)


SHIFTED = np.diag([-2.0, -2.0, 3.0, 1.0]) + np.eye(4, k=3) * 5
OTHER_SPACING = np.diag([-2.0, -2.0, 3.5, 1.0])
FAULTS = {
    "label missing": ("label0002", lambda p: p.unlink(), "has no label"),
    "label shape": ("label0002", lambda p: rewrite(p, lambda v: v[:-1]), "Resample the label"),
    "label affine": ("label0002", lambda p: rewrite(p, np.asarray, affine=SHIFTED), "affines differ"),
    "label spacing": ("label0002", lambda p: rewrite(p, np.asarray, affine=OTHER_SPACING), "affines differ"),
    "unknown label": ("label0002", lambda p: rewrite(p, with_value(14)), "unknown label value(s) [14]"),
    "negative label": ("label0002", lambda p: rewrite(p, with_value(-1)), "unknown label value(s) [-1]"),
    "half label": ("label0002", lambda p: rewrite(p, with_value(0.5)), "no integers"),
    "nan": ("img0002", lambda p: rewrite(p, with_value(np.nan)), "NaN or infinite"),
    "infinite": ("img0002", lambda p: rewrite(p, with_value(np.inf)), "NaN or infinite"),
    "truncated image": ("img0002", truncate, "cannot be read"),
    "truncated label": ("label0002", truncate, "cannot be read"),
    "empty file": ("img0002", lambda p: p.write_bytes(b""), "cannot be read"),
    "no gzip": ("img0002", lambda p: p.write_bytes(b"not an image"), "cannot be read"),
    "channels": ("img0002", lambda p: rewrite(p, lambda v: np.stack([v, v], -1)), "expected 1"),
    "five axes": ("img0002", lambda p: rewrite(p, lambda v: np.stack([v[..., None]] * 2, -1)), "has shape"),
    "zero spacing": ("img0002", flatten, "spacing"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_bad_file_is_named_with_reason(make_btcv: Callable, btcv_root: Path, kind: str) -> None:
    name, spoil, reason = FAULTS[kind]
    folder = training(btcv_root) / ("img" if name.startswith("img") else "label")
    spoil(folder / f"{name}.nii.gz")
    with pytest.raises(UserError) as caught:
        make_btcv().prepare()
    message = str(caught.value)
    assert f"{name}.nii.gz" in message
    assert reason in message
    assert "img0001" not in message


def test_one_message_lists_all_bad_files(make_btcv: Callable, btcv_root: Path) -> None:
    truncate(training(btcv_root) / "img" / "img0003.nii.gz")
    rewrite(training(btcv_root) / "label" / "label0021.nii.gz", with_value(99))
    with pytest.raises(UserError, match=r"2 fault\(s\) in 6 cases") as caught:
        make_btcv().prepare()
    assert "img0003" in str(caught.value)
    assert "label0021" in str(caught.value)


def test_good_files_are_read_once_and_again_when_they_change(
    make_btcv: Callable, btcv_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = check.find_faults
    monkeypatch.setattr(check, "find_faults", lambda case, **kwargs: read.append(case.id) or original(case, **kwargs))
    make_btcv().prepare()
    assert len(read) == 6
    make_btcv().prepare()
    assert len(read) == 6
    rewrite(training(btcv_root) / "img" / "img0001.nii.gz", with_value(np.nan))
    for _ in range(2):  # a bad file is not remembered
        with pytest.raises(UserError, match="img0001"):
            make_btcv().prepare()
    assert read[6:] == ["0001", "0001"]


def test_the_check_can_be_switched_off(make_btcv: Callable, btcv_root: Path) -> None:
    rewrite(training(btcv_root) / "img" / "img0001.nii.gz", with_value(np.nan))
    make_btcv(check=False).prepare()


def test_missing_folder_says_where_what_and_where_to_register(make_btcv: Callable, btcv_root: Path) -> None:
    shutil.rmtree(btcv_root)
    with pytest.raises(UserError) as caught:
        make_btcv().prepare()
    for part in (str(btcv_root), "data.root", "RawData/Training/img", "dataset_0.json", "syn3193805"):
        assert part in str(caught.value)
