"""Phantoms are the same for the same parameters and are never mixed up with others."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from little_data import scale

from sct.data.phantoms import phantom
from sct.data.phantoms.phantom import Phantom
from sct.errors import UserError


@pytest.fixture
def make_phantom(tmp_path: Path) -> Callable[..., Phantom]:
    def make(**fields: object) -> Phantom:
        settings = {
            "root": str(tmp_path / "phantom"),
            "cache_dir": str(tmp_path / "cache"),
            "roi_size": [48, 48, 48],
            "intensity": scale(),
            "num_train": 2,
            "num_val": 1,
            "num_test": 1,
        }
        return Phantom(**(settings | fields))

    return make


def voxels(data: Phantom) -> list[np.ndarray]:
    cases = [case for part in ("train", "val", "test") for case in data.cases(part)]
    return [np.asarray(nib.load(path).dataobj) for case in cases for path in (case.image, case.label)]


@pytest.mark.parametrize("lookalikes", [False, True])
def test_same_parameters_same_voxels(make_phantom: Callable, tmp_path: Path, lookalikes: bool) -> None:
    one = voxels(make_phantom(lookalikes=lookalikes))
    other = voxels(make_phantom(lookalikes=lookalikes, root=str(tmp_path / "b")))
    third = voxels(make_phantom(lookalikes=lookalikes, root=str(tmp_path / "c"), seed=1))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one[::2], third[::2], strict=True))


def test_scale_enlarges_the_anatomy(make_phantom: Callable, tmp_path: Path) -> None:
    """Twice the scale in voxels of twice the size has the same voxels, and sets of different scale are not mixed up."""
    small = voxels(make_phantom(voxel_size=[2.0, 2.0, 3.0]))
    large = voxels(make_phantom(voxel_size=[4.0, 4.0, 6.0], scale=2.0, root=str(tmp_path / "large")))
    assert all(np.array_equal(a, b) for a, b in zip(small, large, strict=True))
    with pytest.raises(UserError, match=r"data\.scale is 2\.0"):
        make_phantom(scale=2.0).prepare()
    with pytest.raises(UserError, match="above 0"):
        make_phantom(scale=0.0, root=str(tmp_path / "none")).prepare()


def test_phantoms_look_like_ct_with_organs_of_different_size(make_phantom: Callable) -> None:
    data = make_phantom()
    for part in ("train", "val", "test"):
        for case in data.cases(part):
            image, label = nib.load(case.image), np.asarray(nib.load(case.label).dataobj)
            assert "".join(nib.aff2axcodes(image.affine)) == "LPS"
            assert np.allclose(image.header.get_zooms(), (2, 2, 3))
            assert np.abs(image.affine[:3, 3]).max() > 10
            values = np.asarray(image.dataobj)
            assert np.median(values[:3, :3]) == pytest.approx(-1000, abs=20)
            sizes = np.bincount(label.ravel(), minlength=data.num_classes)[1:]
            assert sizes.min() >= 80
            assert sizes.max() > 20 * sizes.min()


def test_a_set_is_reused_and_another_is_refused(make_phantom: Callable, tmp_path: Path) -> None:
    make_phantom().prepare()
    record = tmp_path / "phantom" / "organs" / "phantom.json"
    before = record.stat().st_mtime_ns
    make_phantom().prepare()
    assert record.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"data.num_train is 3, there 2"):
        make_phantom(num_train=3).prepare()
    make_phantom(lookalikes=True).prepare()
    assert sorted(path.name for path in (tmp_path / "phantom").iterdir()) == ["lookalikes", "organs"]
    record.unlink()
    with pytest.raises(UserError, match="holds no phantoms"):
        make_phantom().prepare()


def test_splits_are_disjoint_and_of_the_asked_size(make_phantom: Callable) -> None:
    data = make_phantom()
    parts = [[case.id for case in data.cases(part)] for part in ("train", "val", "test")]
    assert parts == [["0001", "0002"], ["0003"], ["0004"]]


def test_classes_are_known_without_files(make_phantom: Callable, tmp_path: Path) -> None:
    assert make_phantom().num_classes == 7
    assert make_phantom(lookalikes=True).num_classes == 3
    assert not (tmp_path / "phantom").exists()


def test_a_set_of_an_older_generator_is_refused(make_phantom: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    make_phantom().prepare()
    monkeypatch.setattr(phantom, "FAT_HU", -60.0)
    with pytest.raises(UserError, match="first_case"):
        make_phantom().prepare()


def test_phantoms_are_not_written_into_a_folder_of_other_data(tmp_path):
    (tmp_path / "RawData").mkdir()
    data = Phantom(
        root=str(tmp_path), roi_size=[8, 8, 8], intensity=scale(), cache_dir=str(tmp_path), shape=[24, 24, 16]
    )
    with pytest.raises(UserError, match=r"holds other files \(RawData\).*Leave data.root out"):
        data.prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["RawData"]
