"""`data.slices`: slices of volumes in each plane, whatever the orientation of the file."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Identityd

from sct.config.command import compose_config
from sct.data.sets.btcv import BTCV
from sct.data.survey import read_case, survey_case
from sct.errors import UserError
from sct.inference.volume import predict_volume
from sct.planning.facts import axes_of_network
from sct.runs.build import build_inferer

SHAPE, SPACING = (5, 4, 3), (1.5, 2.0, 4.0)  # to the right, to the front, up
# which voxel (x, y, z) lies in slice n, row r and column c, the shape, and the mm along slices, rows and columns
PLANES = {
    "axial": (lambda n, r, c: (4 - c, 3 - r, n), (3, 4, 5), (4.0, 2.0, 1.5)),
    "coronal": (lambda n, r, c: (4 - c, n, 2 - r), (4, 3, 5), (2.0, 4.0, 1.5)),
    "sagittal": (lambda n, r, c: (n, 3 - c, 2 - r), (5, 3, 4), (1.5, 4.0, 2.0)),
}


def write(root: Path, orientation: str) -> None:
    """Three cases whose voxels all differ; label 1 where the voxel's number is at least 40."""
    voxels = np.arange(60, dtype=np.float32).reshape(SHAPE)
    ras = nib.orientations.axcodes2ornt("RAS")
    turn = nib.orientations.ornt_transform(ras, nib.orientations.axcodes2ornt(orientation))
    for folder, stem, values in (("img", "img", voxels), ("label", "label", (voxels >= 40).astype(np.uint8))):
        (root / "RawData" / "Training" / folder).mkdir(parents=True)
        image = nib.Nifti1Image(values, np.diag([*SPACING, 1.0])).as_reoriented(turn)
        for number in (1, 2, 3):
            nib.save(image, root / "RawData" / "Training" / folder / f"{stem}{number:04d}.nii.gz")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., BTCV]:
    def make(orientation: str, plane: str, **settings: object) -> BTCV:
        write(tmp_path / orientation, orientation)
        fields = {
            "roi_size": [2, 2],
            "intensity": Identityd(keys=["image"]),
            "val_share": 0.34,
            "test_share": 0.34,
            "split": None,
        }
        return BTCV(
            root=str(tmp_path / orientation), cache_dir=str(tmp_path / "cache"), slices=plane, **(fields | settings)
        )

    return make


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("plane", PLANES)
def test_slices_of_a_plane(make: Callable[..., BTCV], plane: str, orientation: str) -> None:
    place, shape, spacing = PLANES[plane]
    data = make(orientation, plane)
    (case,) = data.cases("test")
    volume = data.load_case(case)
    assert tuple(volume.image.shape) == (1, *shape)
    np.testing.assert_allclose(volume.spacing, spacing)
    numbers = np.arange(60).reshape(SHAPE)
    for index in np.ndindex(*shape):
        assert volume.image[(0, *index)] == numbers[place(*index)]
    assert volume.label is not None
    assert torch.equal(volume.label, (volume.image[0] >= 40).long())
    assert axes_of_network(data.format.read_grid(case.image), axes=data.axes, num_dims=2) == (shape[1:], spacing[1:])


def test_a_network_of_slices_labels_the_voxels_of_the_file(make: Callable[..., BTCV]) -> None:
    data = make("PIR", "coronal", roi_size=[3, 5])
    (case,) = data.cases("test")

    def by_number(windows: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(windows), data.num_classes, *windows.shape[2:])
        logits[:, 0], logits[:, 1] = 39.5, windows[:, 0]
        return logits

    cfg = compose_config("train", overrides=["+experiment=demo", "inferer=sliding_window"])
    labels = predict_volume(
        by_number,
        data.load_case(case),
        build_inferer(cfg),
        roi_size=data.roi_size,
        outputs=data.outputs,
        device=torch.device("cpu"),
    )
    np.testing.assert_array_equal(labels, data.format.read_label(case.label)[0])


def test_crops_are_slices_of_the_plane(make: Callable[..., BTCV]) -> None:
    data = make("LPS", "sagittal", roi_size=[3, 4], batch_size=1, cache="none", num_workers=0)
    batch = next(data.train_loader(seed=0, start_step=0, num_steps=1))
    whole = data.load_case(data.cases("train")[0]).image[0]
    assert batch["image"].shape == (1, 1, 3, 4)
    assert any(torch.equal(batch["image"][0, 0], plane) for plane in whole)


def test_spacing_and_size_act_within_the_slice(make: Callable[..., BTCV]) -> None:
    data = make("PIR", "axial", spacing=[1.0, 1.5])
    volume = data.load_case(data.cases("test")[0])
    assert tuple(volume.image.shape) == (1, 3, 7, 5)  # rows of 2 mm at 1 mm, columns as they are
    data = make("LPS", "axial", resize_to=[6, 6])
    volume = data.load_case(data.cases("test")[0])
    assert tuple(volume.image.shape) == (1, 3, 6, 6)
    np.testing.assert_allclose(volume.spacing, [4.0, 2.0 * 4 / 6, 1.5 * 5 / 6])


def test_foreground_patches_are_of_the_slices(make: Callable[..., BTCV]) -> None:
    data = make("RAS", "sagittal", roi_size=[2, 2])
    case = data.cases("test")[0]
    # each of 5 slices has 2 x 2 patches: all 4 of the last hold the label, and 3 of the one before
    assert survey_case(case, split="test", data=data, patch_size=(2, 2)).patches == pytest.approx(7 / 20)
    assert read_case(case, data=data)[2].shape == SHAPE


def test_what_slices_do_not_go_with(make: Callable[..., BTCV]) -> None:
    with pytest.raises(UserError, match=r"data\.slices=axial is for medical volumes with a data\.roi_size of 2"):
        make("RAS", "axial", roi_size=[2, 2, 2])
    with pytest.raises(UserError, match=r"data\.slices=axial"):
        make("LPS", None).prepare()
