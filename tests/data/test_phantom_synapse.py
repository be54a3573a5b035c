"""Phantom abdomens in Synapse's layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Identityd

from sct.data.phantoms import phantom
from sct.data.phantoms.synapse import PhantomSynapse
from sct.data.sets.synapse_files import SynapseFiles
from sct.errors import UserError


@pytest.fixture
def make_phantom(tmp_path: Path) -> Callable[..., PhantomSynapse]:
    def make(**fields: object) -> PhantomSynapse:
        settings = {
            "root": str(tmp_path / "phantom"),
            "cache_dir": str(tmp_path / "cache"),
            "roi_size": [32, 32],
            "intensity": Identityd(keys=["image"]),
            "num_train": 3,
            "num_test": 2,
            "shape": [64, 48, 16],
            "voxel_size": [2.0, 2.5, 9.0],
            "val_patients": ["0002"],
        }
        return PhantomSynapse(**(settings | fields))

    return make


def test_cases_are_slices_and_volumes(make_phantom: Callable) -> None:
    data = make_phantom()
    assert {split: len(data.cases(split)) for split in ("train", "val", "test")} == {"train": 32, "val": 16, "test": 2}
    assert [case.id for case in data.cases("test")] == ["case0004", "case0005"]
    assert {case.id[:8] for case in data.cases("val")} == {"case0002"}
    assert data.format.read_grid(data.cases("train")[0].image).shape == (48, 64)


def test_organs_lie_where_they_were_drawn(make_phantom: Callable) -> None:
    """Right is left in the picture, front is up, and slices run to the head."""
    data = make_phantom()
    case = data.cases("test")[0]
    (image,), grid = SynapseFiles().read_image(case.image)
    label, _ = SynapseFiles().read_label(case.label)
    assert (grid.shape, grid.unit) == ((16, 48, 64), "mm")
    np.testing.assert_allclose(grid.spacing, [9.0, 2.5, 2.0])
    assert (image.min(), image.max()) == (0, 1)
    names = data.label_map.names
    assert set(np.unique(label)) == {names.index(organ.name) for organ in phantom.ORGANS} | {0}
    middle = (np.array(grid.shape) - 1) / 2
    for organ in phantom.ORGANS:
        place = (np.argwhere(label == names.index(organ.name)).mean(axis=0) - middle) * grid.spacing
        right, front, up = organ.centre
        np.testing.assert_allclose(place, [up, -front, -right], atol=7.0)


def test_a_set_is_reused_and_another_is_refused(make_phantom: Callable, tmp_path: Path) -> None:
    make_phantom().prepare()
    path = tmp_path / "phantom" / "train.txt"
    before = path.stat().st_mtime_ns
    make_phantom().prepare()
    assert path.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"data\.num_train is 4, there 3"):
        make_phantom(num_train=4).prepare()


def test_a_set_of_an_older_generator_is_refused(make_phantom: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    make_phantom().prepare()
    monkeypatch.setattr(phantom, "FAT_HU", -60.0)
    with pytest.raises(UserError, match="first_case"):
        make_phantom().prepare()
