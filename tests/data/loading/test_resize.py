"""Pictures and slices at a fixed size: where every voxel goes, and the way back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from little_data import Arrays, save, scale

from sct.data.cases import Case, Volume
from sct.data.formats.base import Nifti
from sct.data.loading.cache import VolumeCache
from sct.data.loading.transforms import Preprocess, TrainingCrops, resize, resized_to_source
from sct.data.outputs import numbered
from sct.errors import UserError
from sct.inference import to_source_grid


def preprocess(**settings: object) -> Preprocess:
    fields = {"roi_size": [4, 4], "spacing": None, "intensity": scale(), "crop_above": None, "file_format": Arrays()}
    return Preprocess(axes=None, **(fields | settings))


def stored(folder: Path, image: np.ndarray, label: np.ndarray) -> Case:
    np.save(folder / "image.npy", image)
    np.save(folder / "label.npy", label)
    return Case("a", folder / "image.npy", folder / "label.npy")


def test_images_are_averaged_and_labels_picked():
    image = np.array([[[0, 2, 8, 8], [0, 2, 8, 8], [4, 4, 1, 1], [4, 4, 1, 1]]], dtype=np.float32)
    # A triangle two source voxels wide to each side: weights 1, 3 | 3, 1 of neighbouring pairs.
    weights = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    np.testing.assert_allclose(
        resize(image, size=[2, 2], mode="bilinear")[0], weights @ image[0] @ weights.T, rtol=1e-5
    )
    labels = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    np.testing.assert_array_equal(resize(labels, size=[8, 8], mode="nearest")[0], labels[0].repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("shape", "size"), [((48, 30), [16, 15]), ((10, 14), [25, 35])])
def test_the_affine_says_where_a_resized_voxel_lies(shape, size):
    """A ramp keeps its values under averaging, so each voxel tells its place."""
    for axis in (0, 1):
        ramp = np.broadcast_to(np.expand_dims(np.arange(shape[axis], dtype=np.float32), 1 - axis), shape)[None]
        found = resize(np.ascontiguousarray(ramp), size=size, mode="bilinear")[0]
        affine = resized_to_source(shape, size=size)
        wanted = affine[axis, axis] * np.arange(size[axis]) + affine[axis, 3]
        inner = slice(2, -2)  # at the border the ramp ends
        line = found[:, 3] if axis == 0 else found[3]
        np.testing.assert_allclose(line[inner], np.clip(wanted, 0, shape[axis] - 1)[inner], atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 24), (7, 9), (5, 40, 24)])
def test_predictions_return_to_the_source_voxels(tmp_path, shape):
    """Labels that are constant over blocks come back exactly, at the image's own size."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 3, (*shape[:-2], 5, 3)).astype(np.uint8)
    rows, columns = (np.arange(n) * k // n for n, k in zip(shape[-2:], (5, 3), strict=True))
    label = small[..., rows, :][..., columns]
    case = stored(tmp_path, label.astype(np.int16) * 100, label)
    size = [2 * shape[-2], 4 * shape[-1]]
    prepared = preprocess(resize_to=size)(case)
    assert prepared.image.shape == (1, *shape[:-2], *size)
    assert prepared.label.shape == (*shape[:-2], *size)
    logits = torch.nn.functional.one_hot(torch.tensor(prepared.label).long(), 3).movedim(-1, 0).float()
    back = to_source_grid(
        logits,
        outputs=numbered(3),
        affine=prepared.affine,
        source_shape=prepared.source.shape,
        source_affine=prepared.source.affine,
    )
    np.testing.assert_array_equal(back, label)


def test_slices_are_resized_one_by_one(tmp_path):
    volume = np.random.default_rng(0).normal(size=(3, 20, 12))
    prepared = preprocess(resize_to=[8, 6])(stored(tmp_path, volume, volume > 0))
    for index in range(3):
        alone = tmp_path / str(index)
        alone.mkdir()
        slice_alone = preprocess(resize_to=[8, 6])(stored(alone, volume[index], volume[index] > 0))
        np.testing.assert_allclose(prepared.image[:, index], slice_alone.image, atol=1e-6)
        np.testing.assert_array_equal(prepared.label[index], slice_alone.label)


def test_crops_of_a_volume_before_a_2d_network_are_slices(tmp_path):
    volume = np.broadcast_to(np.arange(4.0).reshape(4, 1, 1) * 100, (4, 3, 9))
    prepared = preprocess()(stored(tmp_path, volume, volume > 250))
    assert prepared.image.shape == (1, 4, 4, 9)  # padded within the slice only
    crops = TrainingCrops(roi_size=[4, 4], num_crops=20, positive_share=0.5, augment=[])(prepared, entropy=(0, 0))
    assert {tuple(crop["image"].shape) for crop in crops} == {(1, 4, 4)}
    assert {tuple(crop["label"].shape) for crop in crops} == {(4, 4)}
    # the padding is 0 and a slice has one other value, a tenth of its number
    slices = [set(np.unique((10 * crop["image"]).round().int())) - {0} for crop in crops]
    assert all(len(values) <= 1 for values in slices)
    assert set.union(*slices) == {1, 2, 3}
    assert any(crop["label"].any() for crop in crops)


def test_spacing_of_slices_leaves_the_first_axis_alone(tmp_path):
    affine = np.diag([5.0, 2.0, 3.0, 1.0])
    image = np.random.default_rng(0).normal(size=(4, 10, 8)).astype(np.float32)
    case = Case("a", save(tmp_path / "a.nii.gz", image, affine=affine), None)
    settings = preprocess(spacing=[1.0, 1.5], file_format=Nifti(3))
    prepared = settings(case)
    assert prepared.image.shape[1] == 4
    np.testing.assert_allclose(np.linalg.norm(prepared.affine[:3, :3], axis=0), [5.0, 1.0, 1.5])
    volume = Volume(torch.tensor(prepared.image), None, prepared.affine, (4, 10, 8), affine)
    assert volume.spacing == pytest.approx([5.0, 1.0, 1.5])
    assert (settings.largest_shape(prepared.source) >= prepared.image.shape[1:]).all()


def test_the_cache_keeps_the_unit_and_knows_the_size(tmp_path):
    label = np.ones((30, 20), dtype=np.uint8)
    case = stored(tmp_path, label, label)
    cache = VolumeCache(preprocess(resize_to=[10, 12]), kind="disk", directory=tmp_path / "cache", keep=[case])
    for _ in range(2):
        prepared = cache.get(case)
        assert prepared.source.unit == "voxel"
        assert prepared.image.shape == (1, 10, 12)
    assert cache.estimate(case) == int(120 * 5.8)


@pytest.mark.parametrize(
    "settings", [{"resize_to": [8, 8]}, {"resize_to": [8, 8], "roi_size": [8, 8], "spacing": [1.0, 1.0]}]
)
def test_resizing_is_for_pictures_without_spacing(make_btcv, settings):
    with pytest.raises(UserError, match=r"data\.resize_to=\[8, 8\]"):
        make_btcv(**settings)
