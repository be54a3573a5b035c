"""Inference: windows equal the whole, and labels return to the voxel they came from."""

import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Spacing, SpatialCrop, SpatialPad

import sct.inference as inference
from sct.data.outputs import numbered
from sct.errors import UserError
from sct.inference import SlidingWindow, predict_volume, to_source_grid

CPU = torch.device("cpu")


def pointwise(windows):
    """A model that sees one voxel at a time: any tiling must give the same logits."""
    first = windows[:, :1]
    return torch.cat([first, first**2, 0.5 - first], dim=1)


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", [(20, 13), (5, 30), (20, 13, 9), (3, 4, 5)])
def test_windows_equal_the_whole_image(shape, blending):
    image = torch.randn(2, *shape)
    inferer = SlidingWindow(overlap=0.5, blending=blending, batch_size=3)
    logits = inferer(pointwise, image, roi_size=[8] * len(shape), num_classes=3, device=CPU)
    assert logits.shape == (3, *shape)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, pointwise(image[None])[0])


def test_mirroring_averages_over_every_combination_of_axes():
    torch.manual_seed(0)
    image, weight = torch.randn(1, 6, 8), torch.randn(2, 1, 3, 3)
    axes = (0, 1)

    def model(windows):
        return torch.nn.functional.conv2d(windows, weight, padding=1).half()

    expected = torch.zeros(2, 6, 8)
    for dims in ((), (1,), (2,), (1, 2)):
        expected += model(image.flip(dims)[None])[0].float().flip(dims) / 4
    inferer = SlidingWindow(mirror_axes=axes)
    found = inferer(model, image, roi_size=(6, 8), num_classes=2, device=torch.device("cpu"))
    torch.testing.assert_close(found, expected)


def test_half_precision_models_are_blended_in_float32():
    image = torch.rand(1, 12, 12)
    inferer = SlidingWindow(overlap=0.75)
    logits = inferer(lambda windows: pointwise(windows).bfloat16(), image, roi_size=[8, 8], num_classes=3, device=CPU)
    torch.testing.assert_close(logits, pointwise(image[None])[0].bfloat16().float())


@pytest.mark.parametrize(
    "option", [{"overlap": 1.0}, {"blending": "mean"}, {"batch_size": 0}, {"stitch_device": "tpu"}]
)
def test_bad_options_name_their_key(option):
    with pytest.raises(UserError, match=f"inferer.{next(iter(option))}="):
        SlidingWindow(**option)


def test_stitching_falls_back_to_the_cpu_and_says_so(monkeypatch, caplog):
    cuda, shape, roi = torch.device("cuda"), (512, 512, 300), [96, 96, 96]
    needed = inference.stitch_bytes(shape, roi_size=roi, num_classes=14)
    assert needed == 4 * 512 * 512 * 300 * 16
    plan = SlidingWindow().plan
    monkeypatch.setattr(inference, "free_memory", lambda device: 3 * needed)
    with caplog.at_level(logging.WARNING):
        assert plan(shape, roi_size=roi, num_classes=14, device=cuda) == cuda
        assert not caplog.records
        monkeypatch.setattr(inference, "free_memory", lambda device: needed)
        assert plan(shape, roi_size=roi, num_classes=14, device=cuda) == CPU
    assert "stitching on the CPU" in caplog.text
    assert "512x512x300 x 14" in caplog.text
    assert SlidingWindow(stitch_device="cpu").plan(shape, roi_size=roi, num_classes=14, device=cuda) == CPU
    with caplog.at_level(logging.WARNING):
        SlidingWindow(stitch_device="cuda").plan(shape, roi_size=roi, num_classes=14, device=CPU)
    assert "stitch_device=cuda is ignored" in caplog.text


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


def in_plane(windows):
    """A 2-D model that mixes neighbours within a slice only: a shift to the left."""
    assert windows.ndim == 4
    return torch.cat([windows, windows.roll(1, dims=3)], dim=1)


@pytest.mark.parametrize("mirror_axes", [(), (1,)])
def test_a_volume_before_a_2d_network_is_predicted_slice_by_slice(mirror_axes):
    volume = torch.randn(1, 5, 9, 11)
    inferer = SlidingWindow(batch_size=3, mirror_axes=mirror_axes)
    settings = {"roi_size": [6, 6], "num_classes": 2, "device": CPU}
    logits = inferer(in_plane, volume, **settings)
    assert logits.shape == (2, 5, 9, 11)
    for index in range(5):
        torch.testing.assert_close(logits[:, index], inferer(in_plane, volume[:, index], **settings))
