"""Phantom brain tumours: the same for the same parameters, in the Decathlon's layout, with nested regions."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from sct.config.check import build
from sct.config.command import compose_config
from sct.data.phantoms import brats as phantom_brats
from sct.data.phantoms.brats import PhantomBraTS, draw_brain
from sct.errors import UserError


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., PhantomBraTS]:
    def make_phantom(*overrides: str) -> PhantomBraTS:
        sizes = ["data.num_train=2", "data.num_val=1", "data.num_test=1", "data.shape=[20,24,16]"]
        paths = [f"data.root={tmp_path}/brain", f"data.cache_dir={tmp_path}/cache"]
        cfg = compose_config("train", overrides=["data=phantom_brats", *sizes, *paths, *overrides])
        return build(cfg.data, key="data")

    return make_phantom


def voxels(data: PhantomBraTS) -> list[np.ndarray]:
    cases = [case for part in ("train", "val", "test") for case in data.cases(part)]
    return [np.asarray(nib.load(path).dataobj) for case in cases for path in (case.image, case.label)]


def test_same_parameters_same_voxels(make: Callable, tmp_path: Path) -> None:
    one = voxels(make())
    other = voxels(make(f"data.root={tmp_path}/b"))
    third = voxels(make(f"data.root={tmp_path}/c", "data.seed=1"))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one[::2], third[::2], strict=True))


def test_a_set_is_reused_and_another_is_refused(make: Callable, tmp_path: Path, monkeypatch) -> None:
    data = make()
    data.prepare()
    parts = [[case.id for case in data.cases(part)] for part in ("train", "val", "test")]
    assert parts == [["BRATS_001", "BRATS_002"], ["BRATS_003"], ["BRATS_004"]]
    record = tmp_path / "brain" / "phantom.json"
    before = record.stat().st_mtime_ns
    make().prepare()
    assert record.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"data.num_train is 3, there 2"):
        make("data.num_train=3").prepare()
    monkeypatch.setattr(phantom_brats, "INTENSITIES", phantom_brats.INTENSITIES * 0.8)
    with pytest.raises(UserError, match="first_case"):
        make().prepare()


def test_every_case_is_tested_in_one_fold(make: Callable) -> None:
    folds = [make("data.folds=2", f"data.fold={fold}") for fold in (0, 1)]
    tested = [case.id for data in folds for case in data.cases("test")]
    assert sorted(tested) == [f"BRATS_{number:03d}" for number in range(1, 5)]


def test_the_layout_is_that_of_the_decathlon(make: Callable, tmp_path: Path) -> None:
    """Read as any Decathlon folder is, with the names and channels of configs/data/brats.yaml."""
    make().prepare()
    description = json.loads((tmp_path / "brain" / "dataset.json").read_text())
    assert description["labels"] == {
        "0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"
    }  # fmt: skip
    settings = ["data=brats", f"data.root={tmp_path}/brain", f"data.cache_dir={tmp_path}/again"]
    data = build(compose_config("train", overrides=settings).data, key="data")
    assert len(data.find_cases()) == 4
    assert (data.num_channels, data.outputs.names) == (4, ("WT", "TC", "ET"))


def test_regions_are_nested_and_only_one_sequence_tells_the_enhancing_part() -> None:
    for seed in range(10):
        image, label = draw_brain(shape=[40, 48, 36], rng=np.random.default_rng(seed))
        assert image.shape == (40, 48, 36, 4)
        assert set(np.unique(label)) == {0, 1, 2, 3}
        brain = (image > 0).all(axis=-1)
        assert not image[~brain].any()
        assert brain[label > 0].all()
        # one step out of the core one is still in the tumour, unless it ends at the brain's border
        assert (label[ndimage.binary_dilation(label >= 2) & brain] > 0).mean() > 0.95
        means = np.array([image[label == value].mean(axis=0) for value in (1, 2, 3)])
        assert means[2, 2] > 1.5 * means[1, 2]
        assert (np.abs(means[2] / means[1] - 1)[[0, 1, 3]] < 0.1).all()


def test_cases_are_cut_to_the_brain_and_normalised_in_it(make: Callable) -> None:
    data = make("data.roi_size=[8,8,8]")
    data.prepare()
    volume = data.load_case(data.cases("train")[0])
    for axis in range(1, 4):
        for end in (0, -1):
            assert volume.image.select(axis, end).any()
    for channel in volume.image:
        inside = channel[channel != 0]
        assert inside.mean().item() == pytest.approx(0, abs=1e-4)
        assert inside.std().item() == pytest.approx(1, abs=1e-2)
    assert 0.3 < (volume.image != 0).float().mean() < 0.7
    assert volume.label.unique().tolist() == [0, 1, 2, 3]
