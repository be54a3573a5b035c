"""Labels return to the voxel they came from, and only borders need their logits interpolated."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Spacing, SpatialCrop, SpatialPad

from sct.data.outputs import numbered
from sct.inference import SlidingWindow, predict_volume, to_source_grid
from sct.inference import regrid as inference

CPU = torch.device("cpu")


def rotation(num_dims):
    """An oblique affine with anisotropic voxels."""
    affine = np.eye(num_dims + 1)
    angle = 0.4
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:num_dims, :num_dims] = affine[:num_dims, :num_dims] @ np.diag([0.7, 1.3, 4.0][:num_dims])
    affine[:num_dims, -1] = [-120.5, 33.25, 801.0][:num_dims]
    return affine


def to_labels(logits, **grids):
    """Label map of the largest logits on another grid."""
    return to_source_grid(logits, outputs=numbered(len(logits)), **grids)


@pytest.mark.parametrize("num_dims", [2, 3])
def test_flips_axis_order_and_whole_offsets_give_the_exact_argmax(num_dims, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(inference, "BLOCK_VOXELS", 50)
    for _ in range(30):
        source_shape = rng.integers(4, 9, num_dims)
        source_affine = rotation(num_dims)
        order = rng.permutation(num_dims)
        # Voxel q of the source is voxel step * q + offset, axes reordered, of a grid with another extent.
        step = rng.choice([-1, 1], num_dims)
        offset = rng.integers(-2, 3, num_dims) + np.where(step < 0, source_shape, 0)
        matrix = np.zeros((num_dims + 1, num_dims + 1))
        matrix[-1, -1] = 1
        for source_axis, axis in enumerate(order):
            matrix[axis, source_axis] = step[source_axis]
            matrix[axis, -1] = offset[source_axis]
        shape = np.zeros(num_dims, int)
        shape[order] = source_shape + rng.integers(-2, 3, num_dims)
        logits = torch.randn(5, *shape)
        affine = (source_affine @ np.linalg.inv(matrix)).astype(np.float32).astype(np.float64)

        want = np.zeros(source_shape, int)
        for voxel in np.ndindex(*source_shape):
            place = matrix[:-1, :-1] @ voxel + matrix[:-1, -1]
            if all(0 <= p < n for p, n in zip(place, shape, strict=True)):
                want[voxel] = logits[(slice(None), *place.astype(int))].argmax()
        got = to_source_grid(
            logits, outputs=numbered(len(logits)), affine=affine, source_shape=source_shape, source_affine=source_affine
        )
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("num_dims", [2, 3])
def test_between_voxels_logits_are_interpolated_and_outside_is_background(num_dims, monkeypatch):
    monkeypatch.setattr(inference, "BLOCK_VOXELS", 100)
    # Class 1 wins where a linear function of the place is positive: interpolation finds its exact zero.
    shape = (9, 8, 7)[:num_dims]
    places = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    normal = np.array([1.0, -0.7, 0.45])[:num_dims]
    plane = np.tensordot(normal, places, axes=1) - 2.3
    logits = torch.tensor(np.stack([0 * plane, plane])).float()
    affine, source_affine = rotation(num_dims), np.eye(num_dims + 1)
    source_affine[:num_dims, :num_dims] *= 0.5
    source_affine[:num_dims, -1] = affine[:num_dims, -1] - 3
    source_shape = (25, 31, 70)[:num_dims]
    got = to_source_grid(
        logits, outputs=numbered(len(logits)), affine=affine, source_shape=source_shape, source_affine=source_affine
    )
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in source_shape), indexing="ij")).reshape(num_dims, -1)
    relative = np.linalg.inv(affine) @ source_affine
    place = relative[:num_dims, :num_dims] @ voxels + relative[:num_dims, -1:]
    size = np.array(shape)[:, None]
    inside = ((place >= -0.5) & (place <= size - 0.5)).all(0)
    value = normal @ np.clip(place, 0, size - 1) - 2.3
    clear = np.abs(value) > 1e-4
    assert 0.05 < inside.mean() < 0.95
    assert got.any()
    np.testing.assert_array_equal(got.reshape(-1)[clear], ((value > 0) & inside)[clear])


def test_many_classes_and_no_overlap():
    logits = torch.zeros(300, 2, 2)
    logits[299] = 1
    labels = to_source_grid(
        logits, outputs=numbered(len(logits)), affine=np.eye(3), source_shape=(3, 2), source_affine=np.eye(3)
    )
    assert labels.dtype == np.int16
    assert labels.tolist() == [[299, 299], [299, 299], [0, 0]]
    far = np.eye(3)
    far[:2, 2] = 50
    assert not to_source_grid(
        logits, outputs=numbered(len(logits)), affine=np.eye(3), source_shape=(3, 2), source_affine=far
    ).any()


@dataclass
class FakeVolume:
    image: torch.Tensor
    affine: np.ndarray
    source_shape: tuple[int, ...]
    source_affine: np.ndarray


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_monai_preprocessing_is_undone_to_the_voxel(axis):
    """Orientation, spacing, crop and padding by MONAI; a model that cuts at 30 % of a voxel; and back.

    The image is the voxel's place along one source axis, which linear interpolation keeps exactly.
    """
    source_shape, source_affine = (40, 36, 15), rotation(3)[:, [1, 0, 2, 3]] @ np.diag([-1, 1, -1, 1])
    cut = source_shape[axis] // 2 + 0.3
    place = np.indices(source_shape)[axis]
    image = MetaTensor(torch.tensor(place, dtype=torch.float32)[None], affine=torch.tensor(source_affine))
    image = Compose(
        [
            Orientation(axcodes="RAS", labels=None),
            Spacing(pixdim=(1.0, 1.0, 2.0), mode="bilinear", padding_mode="border"),
            SpatialCrop(roi_start=(2, 1, 2), roi_end=(200, 200, 200)),
            SpatialPad((50, 50, 50)),
        ]
    )(image)
    volume = FakeVolume(image.as_tensor(), image.affine.numpy(), source_shape, source_affine)
    labels = predict_volume(
        lambda windows: torch.cat([torch.full_like(windows, cut), windows], 1), volume, SlidingWindow(),
        roi_size=[32, 32, 32], outputs=numbered(2), device=CPU,
    )  # fmt: skip
    assert labels.shape == source_shape
    inside = (slice(5, -5), slice(5, -5), slice(3, -3))  # the crop took voxels of the border away
    np.testing.assert_array_equal(labels[inside], (place > cut)[inside])
