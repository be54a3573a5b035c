"""Labels return to the voxel they came from, and only borders need their logits interpolated."""

import itertools

import numpy as np
import pytest
import torch
from little_volumes import REGIONS, FakeVolume, file_grid, rotation
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Spacing, SpatialCrop, SpatialPad

from sct.data.outputs import numbered
from sct.inference import SlidingWindow, base, predict_volume, regrid, to_source_grid

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_dims", [2, 3])
def test_flips_axis_order_and_whole_offsets_give_the_exact_argmax(num_dims, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(regrid, "BLOCK_VOXELS", 50)
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
    monkeypatch.setattr(regrid, "BLOCK_VOXELS", 100)
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


@pytest.mark.parametrize("side_by_side", [False, True])
def test_many_classes_are_interpolated_a_few_voxels_at_a_time(side_by_side, monkeypatch):
    """The labels do not depend on how many, and no part has more logits than it may."""
    logits = torch.randn(40, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    if side_by_side:
        logits = logits.movedim(0, -1).contiguous().movedim(-1, 0)
    grids = {"affine": np.diag([2.0, 2.0, 2.0, 1.0]), "source_shape": (17, 15, 13), "source_affine": np.eye(4)}
    wanted = to_source_grid(logits, outputs=numbered(40), **grids)
    sizes = []
    original = regrid.interpolate

    def watched(logits, *, first, shares):
        sizes.append(len(logits) * len(first))
        return original(logits, first=first, shares=shares)

    monkeypatch.setattr(regrid, "interpolate", watched)
    monkeypatch.setattr(regrid, "BORDER_LOGITS", 40 * 50)
    np.testing.assert_array_equal(to_source_grid(logits, outputs=numbered(40), **grids), wanted)
    assert len(sizes) > 10
    assert max(sizes) == 40 * 50


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


def every_voxel(logits, *, outputs, affine, source_shape, source_affine):
    """Labels of all source voxels from their interpolated logits, in float64, and which of them are beyond doubt."""
    num_dims, sizes = logits.ndim - 1, np.array(logits.shape[1:])
    relative = np.linalg.inv(affine) @ source_affine
    voxels = np.indices(source_shape).reshape(num_dims, -1)
    places = relative[:num_dims, :num_dims] @ voxels + relative[:num_dims, -1:]
    inside = ((places > -0.5) & (places < sizes[:, None] - 0.5)).all(axis=0)
    places = np.clip(places, 0, sizes[:, None] - 1)
    first = np.minimum(np.floor(places), np.maximum(sizes - 2, 0)[:, None]).astype(int)
    share = places - first
    sampled = np.zeros((len(logits), voxels.shape[1]))
    for corner in itertools.product((0, 1), repeat=num_dims):
        at = np.minimum(first + np.array(corner)[:, None], sizes[:, None] - 1)
        weight = np.where(np.array(corner)[:, None] == 1, share, 1 - share).prod(axis=0)
        sampled += weight * logits.double().numpy()[(slice(None), *at)]
    two = np.sort(sampled, axis=0)[-2:]
    margin = np.abs(sampled).min(axis=0) if outputs.overlapping else two[1] - two[0]
    labels = outputs.labels(torch.from_numpy(sampled)).numpy() * inside
    return labels.reshape(source_shape), ((margin > 1e-4) | ~inside).reshape(source_shape)


GRIDS = {
    "finer, flipped": {"order": (0, 1, 2), "flips": (True, False, True), "scale": (0.6, 0.45, 1.4)},
    "axes exchanged": {"order": (2, 0, 1), "flips": (False, True, False), "scale": (0.6, 1.7, 0.8)},
    "slices kept": {"order": (0, 1, 2), "flips": (False, False, False), "scale": (1.0, 0.4, 0.4)},
}


@pytest.mark.parametrize("outputs", [numbered(4), REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("shape", [(9, 12, 8), (1, 6, 7), (6, 1, 9)])
@pytest.mark.parametrize("grid", [*GRIDS, "oblique"])
@pytest.mark.parametrize("side_by_side", ["channels", "voxels"])
def test_borders_alone_are_interpolated_as_all_voxels_are(grid, shape, outputs, side_by_side, monkeypatch):
    monkeypatch.setattr(base, "CHUNK_VOXELS", 1)
    monkeypatch.setattr(base, "FEWEST_ROWS", 2)
    monkeypatch.setattr(regrid, "BLOCK_VOXELS", 200)
    torch.manual_seed(0)
    coarse = torch.randn(1, outputs.num_channels, 4, 4, 4)
    logits = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0]
    if side_by_side == "channels":
        logits = logits.movedim(0, -1).contiguous().movedim(-1, 0)
    if grid == "oblique":
        grids = {"affine": rotation(3), "source_shape": (20, 17, 20), "source_affine": np.diag([0.5, 0.8, 2.0, 1.0])}
        grids["source_affine"][:3, 3] = rotation(3)[:3, 3] - [3, 0, 1]
    else:
        grids = file_grid(shape, **GRIDS[grid])
    interpolated = []

    def counted(values, *, first, shares, original=regrid.interpolate):
        interpolated.append(len(first))
        return original(values, first=first, shares=shares)

    monkeypatch.setattr(regrid, "interpolate", counted)
    labels = to_source_grid(logits, outputs=outputs, **grids)
    want, clear = every_voxel(logits, outputs=outputs, **grids)
    assert clear.mean() > 0.99
    assert len(np.unique(want)) > 1
    np.testing.assert_array_equal(labels[clear], want[clear])
    assert 0 < sum(interpolated) < 0.8 * labels.size


def test_whole_slices_are_not_mixed_with_their_neighbours():
    """Along an axis without resampling a border between slices is none: nothing is to interpolate."""
    logits = torch.zeros(2, 4, 6, 6)
    logits[1, ::2] = 1
    grids = file_grid((4, 6, 6), **GRIDS["slices kept"])
    grid = regrid.SourceGrid(outputs=numbered(2), shape=(4, 6, 6), **grids)
    assert [axis.is_integer for axis in grid.axes] == [True, False, False]
    assert not (grid._cells(logits) == regrid.BORDER).any()
    want, clear = every_voxel(logits, outputs=numbered(2), **grids)
    np.testing.assert_array_equal(to_source_grid(logits, outputs=numbered(2), **grids)[clear], want[clear])


@pytest.mark.parametrize("outputs", [numbered(3), REGIONS], ids=["classes", "regions"])
def test_means_of_voxels_with_the_same_decision_have_it_too(outputs):
    """Logits of few values tie often, and are exact in binary, as are weights of eighths; so is the mean."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(-2, 3, (outputs.num_channels, 4, 20000), generator=generator).double()
    decisions = outputs.decisions(corners)
    assert torch.equal(decisions, outputs.decisions(corners.movedim(0, -1).contiguous().movedim(-1, 0)))
    same = (decisions == decisions[:1]).all(dim=0)
    weights = torch.tensor([[0.125, 0.375, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.625, 0.375]]).double()
    for weight in weights:
        mean = (corners * weight[:, None]).sum(dim=1)
        assert torch.equal(outputs.decisions(mean)[same], decisions[0][same])
    tied = (corners[:, 0].max(dim=0).values == corners[:, 0]).sum(dim=0) > 1
    assert (same & tied).sum() > 20
    assert torch.equal(outputs.labels(corners), outputs.labels_of(decisions))
