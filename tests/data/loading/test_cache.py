"""Caches: the same volumes, an estimate beforehand, and a key that follows files and settings."""

import errno
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import flipped
from monai.transforms import ScaleIntensityRanged

from sct.data.loading import cache
from sct.data.loading.transforms import Preprocess
from sct.errors import UserError
from sct.runtime import files


def folders(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "volumes").glob("*")}


def test_all_kinds_give_the_same_volume(make_btcv: Callable) -> None:
    volumes = []
    for kind in ("none", "memory", "disk", "disk"):
        data = make_btcv(cache=kind, spacing=[1.5, 1.5, 2.0], roi_size=[32, 32, 8])
        volumes.append(data.load_case(data.cases("val")[0]))
    for volume in volumes[1:]:
        assert torch.equal(volume.image, volumes[0].image)
        assert torch.equal(volume.label, volumes[0].label)
        assert np.array_equal(volume.affine, volumes[0].affine)
        assert np.array_equal(volume.source_affine, volumes[0].source_affine)
        assert volume.source_shape == volumes[0].source_shape == (20, 18, 12)
    assert volumes[0].image.shape[1] == 32
    assert volumes[0].label.dtype == torch.int64


def test_a_volume_is_computed_once(make_btcv: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = Preprocess.__call__
    monkeypatch.setattr(Preprocess, "__call__", lambda self, case: calls.append(case.id) or original(self, case))
    for kind, expected in (("memory", 1), ("disk", 1), ("none", 2)):
        calls.clear()
        data = make_btcv(cache=kind)
        case = data.cases("val")[0]
        data.load_case(case)
        data.load_case(case)
        assert len(calls) == expected, kind


def test_the_disk_key_follows_file_and_settings(make_btcv: Callable, tmp_path: Path) -> None:
    data = make_btcv(cache="disk")
    case = data.cases("val")[0]
    data.load_case(case)
    assert len(folders(tmp_path)) == 1
    wider = ScaleIntensityRanged(keys=["image"], a_min=-2000, a_max=2000, b_min=-1, b_max=1)
    other = make_btcv(cache="disk", intensity=wider)
    other.load_case(other.cases("val")[0])
    assert len(folders(tmp_path)) == 2
    make_btcv(cache="disk", augment={}).load_case(case)  # the random part does not matter
    image = nib.load(case.image)
    nib.save(nib.Nifti1Image(np.array(image.dataobj) + 100, image.affine), case.image)
    changed = make_btcv(cache="disk")
    changed.load_case(changed.cases("val")[0])
    assert len(folders(tmp_path)) == 3


@pytest.mark.parametrize("spacing", [None, [1.0, 1.5, 2.0]])
def test_the_estimate_bounds_the_real_size(make_btcv: Callable, spacing: list | None) -> None:
    data = make_btcv(spacing=spacing)
    case = data.cases("train")[0]
    prepared = data._volumes.get(case)
    found = prepared.foreground
    real = prepared.image.nbytes + prepared.label.nbytes + found.voxels.nbytes + found.by_class.nbytes
    estimate = data._volumes.estimate(case)
    assert real <= estimate <= 1.5 * real


def test_too_little_memory_is_told_before_the_cache_is_filled(
    make_btcv: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    with pytest.raises(UserError, match=r"data\.cache=disk"):
        make_btcv(cache="memory").train_loader(seed=0, start_step=0, num_steps=1)


def test_too_little_disk_names_the_folder(make_btcv: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10_000, 0, 10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"data\.cache_dir"):
        make_btcv(cache="disk").train_loader(seed=0, start_step=0, num_steps=1)


def test_a_file_to_predict_is_loaded_without_prepare_and_never_cached(
    make_btcv: Callable, btcv_root: Path, tmp_path: Path
) -> None:
    data = make_btcv(cache="disk", root=str(tmp_path / "absent"))
    image = btcv_root / "RawData" / "Training" / "img" / "img0001.nii.gz"
    volume = data.load_case(cache.Case("new", image, None))
    assert volume.label is None
    assert volume.image.shape == (1, 20, 18, 12)
    assert not folders(tmp_path)


def test_unknown_kind(make_btcv: Callable) -> None:
    with pytest.raises(UserError, match=r"data\.cache=ram"):
        make_btcv(cache="ram")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, "flipped") for name in ("image.npy", "label.npy", "foreground_voxels.npy", "meta.json", "sums.json")),
        *(("image.npy", damage) for damage in ("truncated", "gone")),
    ],
)
def test_a_damaged_volume_is_prepared_again_and_told_once(
    make_btcv: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    data = make_btcv(cache="disk")
    case = data.cases("val")[0]
    before = data.load_case(case)
    (folder,) = (tmp_path / "cache" / "volumes").iterdir()
    whole = (folder / name).read_bytes()
    if damage == "gone":
        (folder / name).unlink()
    else:
        changed = flipped(whole, bit=8 * len(whole) - 21) if damage == "flipped" else whole[:-1]
        (folder / name).write_bytes(changed)
    again = make_btcv(cache="disk")
    for _ in range(2):
        after = again.load_case(again.cases("val")[0])
        assert torch.equal(after.image, before.image)
        assert torch.equal(after.label, before.label)
        assert np.array_equal(after.affine, before.affine)
    assert caplog.text.count(f"{folder} is damaged") == 1
    assert (folder / name).read_bytes() == whole
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_full_disk_is_told_as_the_system_says_it(
    make_btcv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(path: Path, array: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise OSError("1000 requested and 4 written")  # numpy's words, which have no number

    monkeypatch.setattr(cache.np, "save", cut_short)
    monkeypatch.setattr(files, "why_full", lambda folder: OSError(errno.ENOSPC, "full", str(folder)))
    data = make_btcv(cache="disk")
    with pytest.raises(OSError) as caught:
        data.load_case(data.cases("val")[0])
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "cache" / "volumes").iterdir())
