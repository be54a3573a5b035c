"""Geometry of the deterministic part and the rules of the random crops."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from little_data import save, scale
from monai.data import get_track_meta
from monai.transforms import NormalizeIntensityd

from sct.data.cases import Case, Grid
from sct.data.formats.base import Nifti
from sct.data.loading.scaling import ScaleRange
from sct.data.loading.transforms import Foreground, Prepared, Preprocess, TrainingCrops


def prepare(**settings: object) -> Preprocess:
    """`Preprocess` of NIfTI files with as many axes as `roi_size`."""
    num_dims = len(settings["roi_size"])
    return Preprocess(file_format=Nifti(num_dims), axes="RAS" if num_dims == 3 else None, **settings)


def rotated_affine() -> np.ndarray:
    """Spacing 0.9 x 1.3 x 2.5 mm, axes permuted and flipped, turned by 20 degrees, shifted."""
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    permute = np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ permute @ np.diag([0.9, 1.3, 2.5])
    affine[:3, 3] = [-40.0, 120.0, 7.0]
    return affine


def marked_case(tmp_path: Path) -> tuple[Case, np.ndarray]:
    """A volume with a bright marker whose centre's world coordinate is returned, (3,) mm."""
    affine = rotated_affine()
    place = np.array([21, 14, 8])
    world = affine[:3, :3] @ place + affine[:3, 3]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (40, 30, 16)], indexing="ij"), axis=-1)
    distance = np.linalg.norm((index - place) * [0.9, 1.3, 2.5], axis=-1)
    image = (1000 * np.exp(-((distance / 4.0) ** 2)) - 500).astype(np.float32)
    label = (distance < 4.5).astype(np.uint8)
    return Case(
        "a",
        save(tmp_path / "image.nii.gz", image, affine=affine),
        save(tmp_path / "label.nii.gz", label, affine=affine),
    ), world


def centre_of_mass(weights: np.ndarray, affine: np.ndarray) -> np.ndarray:
    index = np.argwhere(weights > 0)
    mean = np.average(index, axis=0, weights=weights[weights > 0])
    return affine[:3, :3] @ mean + affine[:3, 3]


@pytest.mark.parametrize("spacing", [None, [1.5, 1.5, 2.0], [0.8, 1.0, 1.1]])
@pytest.mark.parametrize("crop_above", [None, -0.45])
@pytest.mark.parametrize("roi_size", [[4, 4, 4], [48, 48, 48]])
def test_affine_of_the_network_grid_is_exact(
    tmp_path: Path, spacing: list | None, crop_above: float | None, roi_size: list
) -> None:
    case, world = marked_case(tmp_path)
    preprocess = prepare(roi_size=roi_size, spacing=spacing, intensity=scale(), crop_above=crop_above)
    prepared = preprocess(case)
    assert "".join(nib.aff2axcodes(prepared.affine)) == "RAS"
    if spacing is not None:
        assert np.allclose(np.linalg.norm(prepared.affine[:3, :3], axis=0), spacing, atol=1e-5)
    weights = np.clip(prepared.image[0] + 0.4, 0, None)
    assert np.allclose(centre_of_mass(weights, prepared.affine), world, atol=0.1)
    assert np.allclose(centre_of_mass(prepared.label, prepared.affine), world, atol=0.35)
    assert all(n >= roi for n, roi in zip(prepared.image.shape[1:], roi_size, strict=True))
    assert np.array_equal(prepared.foreground.voxels, np.flatnonzero(prepared.label))
    assert prepared.source.shape == (40, 30, 16)
    assert np.allclose(prepared.source.affine, rotated_affine(), atol=1e-4)


class Wrapped:
    """An intensity of which nothing is known, so that all of a volume is resampled."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, sample):
        return self.inner(sample)


@pytest.mark.parametrize("spacing", [None, [1.5, 1.5, 2.0], [0.8, 1.0, 1.1]])
@pytest.mark.parametrize("roi_size", [[4, 4, 4], [20, 48, 20]])
@pytest.mark.parametrize("kind", ["blob", "one voxel", "two", "with nan", "air", "turned"])
def test_what_the_crop_leaves_out_need_not_be_resampled(tmp_path: Path, spacing, roi_size, kind) -> None:
    affine = rotated_affine()
    if kind != "turned":  # else MONAI resamples it, all of it
        affine[:3, :3] = np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]]) @ np.diag([0.9, 1.3, 2.5])
    image = np.random.default_rng(0).uniform(-1100, -990, (40, 30, 16)).astype(np.float32)
    if kind != "air":
        image[20:30, 5:9, 7:12] = 100
    if kind == "one voxel":
        image[20:30, 5:9, 7:12] = -1000
        image[22, 7, 9] = 900
    if kind == "two":
        image[3, 27, 0] = 3000
    if kind == "with nan":
        image[20:30, 6, 9] = np.nan
    case = Case(
        "a",
        save(tmp_path / "image.nii.gz", image, affine=affine),
        save(tmp_path / "label.nii.gz", (image > 0).astype(np.uint8), affine=affine),
    )
    scaled = ScaleRange(a_min=-1000, a_max=1000, b_min=-1, b_max=1, clip=True)
    settings = {"roi_size": roi_size, "spacing": spacing, "crop_above": -0.9}
    found = prepare(intensity=scaled, **settings)(case)
    want = prepare(intensity=Wrapped(scaled), **settings)(case)
    np.testing.assert_array_equal(found.image, want.image)
    np.testing.assert_array_equal(found.label, want.label)
    np.testing.assert_array_equal(found.affine, want.affine)
    if kind not in ("air", "turned"):
        sizes = []
        for intensity in (scaled, Wrapped(scaled)):
            preprocess = prepare(intensity=intensity, **settings)
            voxels, grid = preprocess.file_format.read_stored(case.image)
            sizes.append(
                preprocess._resample(voxels, grid=grid, mode="bilinear", only_above=preprocess._least_in_file())[0].size
            )
        assert sizes[0] < sizes[1]


def test_where_mixing_leaves_nothing_above_the_crop_all_is_kept(tmp_path: Path) -> None:
    image = np.zeros((20, 20, 20), dtype=np.int16)
    image[9, 9, 9] = 150  # between the places of the coarser grid
    case = Case("a", save(tmp_path / "image.nii.gz", image, affine=np.eye(4)), None)
    scaled = ScaleRange(a_min=0, a_max=200)
    for spacing, crop_above in (([2.0] * 3, 0.6), (None, 0.75)):
        settings = {"roi_size": [4, 4, 4], "spacing": spacing, "crop_above": crop_above}
        found = prepare(intensity=scaled, **settings)(case)
        want = prepare(intensity=Wrapped(scaled), **settings)(case)
        np.testing.assert_array_equal(found.image, want.image)
        np.testing.assert_array_equal(found.affine, want.affine)
        assert found.image.shape[1:] == ((10, 10, 10) if spacing else (20, 20, 20))


@pytest.mark.parametrize("settings", [{"resize_to": [8, 8]}, {"spacing": [2.0, 2.0]}, {}])
def test_a_single_slice_may_be_turned(tmp_path: Path, settings) -> None:
    affine = np.diag([-1.0, -1.0, -1.0, 1.0])
    image = np.random.default_rng(0).uniform(0, 1, (20, 24, 1)).astype(np.float32)
    case = Case(
        "a",
        save(tmp_path / "image.nii", image, affine=affine),
        save(tmp_path / "label.nii", (image > 0.5).astype(np.float32), affine=affine),
    )
    preprocess = Preprocess(
        file_format=Nifti(3),
        axes="SPL",
        roi_size=[4, 4],
        intensity=lambda sample: sample,
        crop_above=None,
        **{"spacing": None, **settings},
    )
    assert preprocess(case).image.shape[1] == 1


def test_orientation_crop_and_pad_move_voxels_without_changing_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.integers(-900, 900, (9, 7, 5)).astype(np.int16)
    affine = rotated_affine()
    case = Case("a", save(tmp_path / "a.nii.gz", voxels, affine=affine), None)
    prepared = prepare(roi_size=[12, 12, 12], spacing=None, intensity=scale(), crop_above=0.6)(case)
    assert prepared.label is None
    to_network = np.linalg.inv(prepared.affine) @ prepared.source.affine
    for place in np.argwhere(voxels > 700):
        there = (to_network @ [*place, 1])[:3]
        assert np.allclose(there, np.rint(there), atol=1e-4)
        assert prepared.image[0][tuple(np.rint(there).astype(int))] == pytest.approx(voxels[tuple(place)] / 1000)


def test_channels_come_first_and_padding_is_each_channels_minimum(tmp_path: Path) -> None:
    voxels = np.zeros((6, 5, 4, 3), dtype=np.float32)
    voxels[..., 1], voxels[..., 2] = 100, 200
    case = Case("a", save(tmp_path / "a.nii.gz", voxels, affine=np.eye(4)), None)
    image = prepare(roi_size=[8, 8, 8], spacing=None, intensity=scale(), crop_above=None)(case).image
    assert image.shape == (3, 8, 8, 8)
    assert np.allclose(image.reshape(3, -1), np.array([[0.0], [0.1], [0.2]]))


def test_zeros_in_all_channels_are_cut_off_and_padded_with(tmp_path: Path) -> None:
    """Tissue darker than the mean is kept at the border, and the padding is no tissue either."""
    image = np.zeros((10, 9, 8, 2), dtype=np.float32)
    image[2:7, 3:8, 1:6, 0] = 50
    image[4, 5, 3, 0] = 500
    image[7, 4, 4, 1] = 20  # the second channel reaches one voxel further
    image[6, 4, 4, 1] = 40
    case = Case("a", save(tmp_path / "image.nii.gz", image, affine=np.eye(4)), None)
    z_score = NormalizeIntensityd(["image"], nonzero=True, channel_wise=True)
    settings = {"spacing": None, "intensity": z_score, "crop_above": None, "zero_background": True}
    prepared = prepare(roi_size=[4, 4, 4], **settings)(case)
    assert prepared.image.shape == (2, 6, 5, 5)
    np.testing.assert_array_equal(prepared.affine[:3, 3], [2, 3, 1])
    tissue = image[2:7, 3:8, 1:6, 0]
    np.testing.assert_allclose(prepared.image[0, :5], (tissue - tissue.mean()) / tissue.std(), rtol=1e-4)
    assert prepared.image[0, 0, 0, 0] < 0
    assert not prepared.image[0, 5].any()
    assert prepared.image[1, 4:, 1, 3].tolist() == [1, -1]
    padded = prepare(roi_size=[4, 9, 4], **settings)(case)
    assert padded.image.shape == (2, 6, 9, 5)
    assert not padded.image[:, :, [0, 1, 7, 8]].any()
    np.testing.assert_array_equal(padded.image[:, :, 2:7], prepared.image)


def test_two_dimensional_images(tmp_path: Path) -> None:
    voxels = np.zeros((20, 30), dtype=np.float32)
    voxels[9:12, 14:17] = 500
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    path = save(tmp_path / "a.nii.gz", voxels, affine=affine)
    label = save(tmp_path / "l.nii.gz", (voxels > 0).astype(np.uint8), affine=affine)
    preprocess = prepare(roi_size=[48, 16], spacing=[1.0, 1.0], intensity=scale(), crop_above=None)
    prepared = preprocess(Case("a", path, label))
    assert prepared.image.shape == (1, 48, 30)
    mean = np.argwhere(prepared.label).mean(axis=0)
    assert np.allclose((prepared.affine @ [*mean, 0, 1])[:2], [20, 15], atol=0.6)
    crops = TrainingCrops(roi_size=[48, 16], num_crops=3, positive_share=1.0, augment=[])
    for crop in crops(prepared, entropy=(0, 0)):
        assert crop["image"].shape == (1, 48, 16)
        assert crop["label"].any()


def prepared_volume() -> Prepared:
    label = np.zeros((30, 30, 30), dtype=np.uint8)
    label[2, 27, 15] = 3
    image = np.arange(label.size, dtype=np.float32).reshape(1, 30, 30, 30)
    return Prepared(image, label, Foreground.of(label), np.eye(4), Grid((30, 30, 30), 1, np.eye(4)))


def test_positive_crops_hold_foreground_and_others_lie_anywhere() -> None:
    prepared = prepared_volume()
    positive = TrainingCrops(roi_size=[8, 8, 8], num_crops=20, positive_share=1.0, augment=[])
    assert all((crop["label"] == 3).sum() == 1 for crop in positive(prepared, entropy=(0, 1)))
    anywhere = TrainingCrops(roi_size=[8, 8, 8], num_crops=300, positive_share=0.0, augment=[])
    first = [int(crop["image"][0, 0, 0, 0]) for crop in anywhere(prepared, entropy=(0, 1))]
    starts = np.stack(np.unravel_index(first, (30, 30, 30)))
    assert starts.min() == 0
    assert starts.max() == 22
    assert np.abs(starts.mean(axis=1) - 11).max() < 1.5


def test_a_class_is_drawn_first_and_a_voxel_of_it_second() -> None:
    """Of two classes with 60 voxels and 1 each is in the middle half of the time; of all voxels the one is 1 of 61."""
    label = np.zeros((12, 12, 12), dtype=np.uint8)
    label[4:8, 4:8, 4:8] = 2
    label[4, 4, 4:8] = 0
    label[1, 2, 3] = 5
    found = Foreground.of(label)
    assert found.sizes.tolist() == [0, 0, 60, 0, 0, 1]
    rng = np.random.default_rng(0)
    values = np.array([label.reshape(-1)[found.draw(rng, by_class=True)] for _ in range(400)])
    assert set(values) == {2, 5}
    assert 160 < (values == 5).sum() < 240
    assert len({found.draw(rng, by_class=True) for _ in range(1500)}) == 61, "every voxel of a class can be drawn"
    voxels = np.array([label.reshape(-1)[found.draw(rng, by_class=False)] for _ in range(400)])
    assert set(voxels) <= {2, 5}
    assert (voxels == 5).sum() < 30


def test_crop_centre_decides_how_often_the_small_class_is_seen() -> None:
    label = np.zeros((30, 30, 30), dtype=np.uint8)
    label[:, :, 20:] = 1
    label[2, 2, 2] = 2
    prepared = Prepared(
        label[None].astype(np.float32), label, Foreground.of(label), np.eye(4), Grid((30,) * 3, 1, np.eye(4))
    )

    def shown(by_class: bool) -> int:
        crops = TrainingCrops(roi_size=[8, 8, 8], num_crops=100, positive_share=1.0, augment=[], by_class=by_class)
        return sum(bool((crop["label"] == 2).any()) for crop in crops(prepared, entropy=(0, 0)))

    assert 35 < shown(True) < 65
    assert shown(False) < 5


def test_a_case_without_foreground_is_cropped_anywhere() -> None:
    volume = prepared_volume()
    nothing = volume.label * 0
    empty = Prepared(volume.image, nothing, Foreground.of(nothing), volume.affine, volume.source)
    crops = TrainingCrops(roi_size=[8, 8, 8], num_crops=4, positive_share=1.0, augment=[])
    assert len(crops(empty, entropy=(0, 0))) == 4


def test_the_global_meta_tensor_switch_is_put_back(tmp_path: Path) -> None:
    before = get_track_meta()
    case, _ = marked_case(tmp_path)
    prepared = prepare(roi_size=[4, 4, 4], spacing=None, intensity=scale(), crop_above=None)(case)
    TrainingCrops(roi_size=[4, 4, 4], num_crops=1, positive_share=0.5, augment=[])(prepared, entropy=(0, 0))
    assert get_track_meta() == before
    assert type(torch.from_numpy(prepared.image)) is torch.Tensor
