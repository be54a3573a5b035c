"""Resampling along the axes: the numbers of MONAI's general one, whatever the order of the voxels in memory."""

import itertools

import numpy as np
import pytest
import torch
from little_data import save, scale
from monai.data import MetaTensor
from monai.transforms import Spacing

from sct.data.cases import Case
from sct.data.formats.base import Nifti
from sct.data.loading.resample import places_along_axes, resample, resample_linear, spaced_grid
from sct.data.loading.transforms import Preprocess


def monai_spacing(voxels, *, affine, spacing):
    change = Spacing(pixdim=spacing, mode="bilinear", padding_mode="border", dtype=np.float32)
    return change(MetaTensor(torch.from_numpy(np.ascontiguousarray(voxels)), affine=torch.from_numpy(affine)))


@pytest.mark.parametrize("near", [1, 500, 2**20])
@pytest.mark.parametrize("spacing", [[1.5, 1.5, 2.0], [0.7, 3.0, 1.0], [0.5, 0.5, 0.5]])
@pytest.mark.parametrize("shape", [(2, 19, 13, 11), (1, 1, 8, 9), (1, 2, 2, 2)])
def test_voxels_are_those_of_monai(shape, spacing, near, monkeypatch):
    """Whatever is done at a time, a place or all."""
    monkeypatch.setattr("sct.data.loading.resample.NEAR_VOXELS", near)
    rng = np.random.default_rng(0)
    voxels = rng.standard_normal(shape).astype(np.float32)
    affine = np.diag([0.8, 1.1, 3.0, 1.0])
    affine[:3, 3] = [-31.0, 12.0, 4.0]
    wanted = monai_spacing(voxels, affine=affine, spacing=spacing)
    new_affine = wanted.affine.numpy()
    places = places_along_axes(wanted.shape[1:], affine=new_affine, source_affine=affine)
    found = resample_linear(voxels, places=places)
    assert found.shape == tuple(wanted.shape)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
    # what files and turning leave: axes in any order, some backwards
    for order in itertools.permutations(range(4)):
        for flipped in ((), (1,), (2, 3), (0, 2)):
            stored = np.flip(voxels, flipped).transpose(order).copy()
            view = np.flip(stored.transpose(np.argsort(order)), flipped)
            again = resample_linear(view, places=places)
            assert again.flags.c_contiguous
            np.testing.assert_allclose(again, found, atol=1e-6)  # axes in another order


def directions(kind: str) -> np.ndarray:
    """Where the axes of a file lead (3, 3), each of length 1."""
    return {
        "straight": np.eye(3),
        "flipped": np.diag([-1.0, -1.0, 1.0]),
        "permuted": np.eye(3)[[2, 0, 1]],
        "turned": np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]),
        "sheared": np.array([[1.0, 0.3, 0.0], [0.0, 1.0, -0.2], [0.1, 0.0, 1.0]]),
    }[kind]


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        *(((41, 38, 23), kind) for kind in ("straight", "flipped", "permuted", "turned", "sheared")),
        *(((30, 40), kind) for kind in ("straight", "flipped", "turned")),
        ((7, 1, 9), "straight"),
    ],
)
@pytest.mark.parametrize("spacing", [[1.5, 1.5, 2.0], [-1.0, 0.7, 3.0], [0.8005, 1.1, 2.5]])
def test_the_grid_is_that_of_monai_to_the_last_digit(size, kind, spacing):
    """Also of pictures, whose affine has a third axis, and where a spacing is nearly the wanted one (0.8005 mm)."""
    affine = np.eye(4)
    affine[:3, :3] = (directions(kind) * [0.8, 1.1, 3.0]).astype(np.float32)
    affine[:3, 3] = [-31.7, 12.1, 4.3]
    spacing = spacing[: len(size)]
    change = Spacing(pixdim=spacing, mode="bilinear", padding_mode="border", dtype=np.float32)
    planned = change(MetaTensor(torch.empty(1).expand(1, *size), affine=torch.from_numpy(affine)), lazy=True)
    shape, found = spaced_grid(size, affine=affine, spacing=spacing)
    assert shape == tuple(planned.peek_pending_shape())
    np.testing.assert_array_equal(found, planned.peek_pending_affine().numpy())


def test_what_stays_as_it_is_and_labels():
    voxels = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    found, new_affine, box = resample(voxels, affine=affine, spacing=[-1, 2.0, 3.0], mode="bilinear")
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_array_equal(new_affine, affine)
    assert box == (slice(0, 3), slice(0, 4), slice(0, 5))
    coarse, _, _ = resample(voxels, affine=affine, spacing=[2.0, 2.0, 3.0], mode="nearest")
    np.testing.assert_array_equal(coarse, voxels[:, ::2])


@pytest.mark.parametrize("kind", ["straight", "flipped", "permuted"])
@pytest.mark.parametrize("spacing", [[1.5, 0.5, 2.0], [-1.0, 0.7, 7.0]])
def test_a_part_is_a_part_of_the_whole_and_holds_all_that_depends_on_a_box(kind, spacing):
    affine = np.eye(4)
    affine[:3, :3] = directions(kind) * [0.8, 1.1, 3.0]
    rng = np.random.default_rng(0)
    # in the memory order of a file, with a flipped axis
    stored = np.asfortranarray(rng.integers(0, 99, (17, 14, 11)).astype(np.int16))
    voxels = stored[None, :, ::-1]
    whole, whole_affine, everything = resample(voxels, affine=affine, spacing=spacing, mode="bilinear")
    assert everything == tuple(slice(0, size) for size in whole.shape[1:])
    for within in ((slice(3, 6), slice(0, 2), slice(10, 11)), (slice(0, 17), slice(5, 14), slice(4, 5))):
        found, found_affine, box = resample(voxels, affine=affine, spacing=spacing, mode="bilinear", within=within)
        np.testing.assert_array_equal(found, whole[(slice(None), *box)])
        np.testing.assert_array_equal(found_affine, whole_affine)
        assert found.size < whole.size
        before = stored.copy(order="F")
        voxels[(slice(None), *within)] += 1000
        other, _, _ = resample(voxels, affine=affine, spacing=spacing, mode="bilinear")
        stored[...] = before
        depends = np.ones(whole.shape[1:], dtype=bool)
        depends[box] = False
        np.testing.assert_array_equal(other[:, depends], whole[:, depends])
        assert (other[(slice(None), *box)] != found).any()


def test_a_part_is_the_same_to_the_last_digit():
    """Whatever the box makes small first; an axis that stays is not mixed, so that NaN does not spread along it."""
    rng = np.random.default_rng(0)
    for number in range(60):
        shape = rng.integers(2, 30, 3)
        stored = np.asfortranarray(rng.uniform(-9, 9, shape).astype(np.float32))
        stored[tuple(rng.integers(0, shape))] = np.nan
        voxels = stored[None, :, ::-1] if number % 2 else stored[None]
        spacing = [float(size) for size in rng.choice([-1, 0.7, 1.05, 2.0], 3)]
        ends = [np.sort(rng.choice(size + 1, 2, replace=False)) for size in shape]
        within = tuple(slice(int(a), int(b)) for a, b in ends)
        whole, _, _ = resample(voxels, affine=np.eye(4), spacing=spacing, mode="bilinear")
        found, _, box = resample(voxels, affine=np.eye(4), spacing=spacing, mode="bilinear", within=within)
        np.testing.assert_array_equal(found, whole[(slice(None), *box)])


def test_whole_numbers_become_real_ones_and_outside_the_border_goes_on():
    voxels = np.array([[0, 10, 30]], dtype=np.int16)
    found = resample_linear(voxels, places=[np.array([-1.0, 0.0, 0.25, 1.5, 2.0, 7.0])])
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 0, 2.5, 20, 30, 30]]
    assert voxels.tolist() == [[0, 10, 30]]


def sheared():
    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    affine[0, 1] = 0.3
    return affine


def test_a_picture_needs_no_third_axis():
    flat = np.diag([2.0, 2.0, 0.0, 1.0])
    (rows, columns) = places_along_axes((3, 2), affine=np.diag([4.0, 1.0, 0.0, 1.0]), source_affine=flat)
    assert rows.tolist() == [0, 2, 4]
    assert columns.tolist() == [0, 0.5]


def test_axes_that_are_not_parallel_have_no_places():
    straight = np.diag([1.0, 2.0, 2.0, 1.0])
    assert places_along_axes((4, 4, 4), affine=sheared(), source_affine=straight) is None
    assert places_along_axes((4, 4, 4), affine=straight[[1, 0, 2, 3]], source_affine=straight) is None


def test_a_sheared_file_is_resampled_as_monai_does(tmp_path):
    voxels = np.random.default_rng(0).standard_normal((9, 8, 7)).astype(np.float32)
    case = Case("a", save(tmp_path / "a.nii.gz", voxels, affine=sheared()), None)
    spacing = [1.0, 1.0, 1.0]
    prepare = Preprocess(
        file_format=Nifti(3), axes="RAS", roi_size=[4] * 3, spacing=spacing, intensity=scale(), crop_above=None
    )
    found, wanted = prepare(case), monai_spacing(voxels[None], affine=sheared(), spacing=spacing)
    np.testing.assert_allclose(found.affine, wanted.affine.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.image, scale()({"image": wanted.as_tensor()})["image"], atol=1e-6)
