"""Images of several files: read as one, with every file seen by checks and keys, and faults that name two files."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from little_data import save
from PIL import Image

from sct.data.cases import Case
from sct.data.formats.base import Nifti
from sct.data.formats.channels import Channels, Listed, one_file
from sct.data.loading.cache import describe
from sct.errors import UserError
from sct.inference.inputs import find_inputs, label_paths

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
FORMAT = Channels(Nifti(3), ".nii.gz", 2)


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 4, 3, 2)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, voxels: np.ndarray) -> Path:
    """Two cases, b and a_0001_x, of two channels each."""
    for case in ("b", "a_0001_x"):
        for channel in range(2):
            save(tmp_path / f"{case}_{channel:04d}.nii.gz", voxels[..., channel], affine=AFFINE)
    return tmp_path


def test_an_image_is_as_one_file_would_have_it(folder: Path, voxels: np.ndarray) -> None:
    whole = save(folder / "other" / "whole.nii.gz", voxels, affine=AFFINE)
    expected, grid = Nifti(3).read_stored(whole)
    for read in (FORMAT.read_image, FORMAT.read_stored):
        found, own = read(folder / "b_0000.nii.gz")
        np.testing.assert_array_equal(found, expected)
        assert found.strides == expected.strides, "the order in memory decides the last digit of what follows"
    assert (own.shape, own.num_channels) == (grid.shape, 2)
    assert FORMAT.read_grid(folder / "b_0000.nii.gz").num_channels == 2
    np.testing.assert_array_equal(own.affine, grid.affine)


def test_inputs_are_listed_once(folder: Path) -> None:
    (folder / "._b_0000.nii.gz").write_bytes(b"mac")
    cases = find_inputs(folder, file_format=FORMAT)
    assert [(case.id, case.image.name) for case in cases] == [
        ("a_0001_x", "a_0001_x_0000.nii.gz"),
        ("b", "b_0000.nii.gz"),
    ]
    assert find_inputs(folder / "b_0000.nii.gz", file_format=FORMAT)[0].id == "b"
    assert [path.name for path in FORMAT.files_of(Case("b", cases[1].image, folder / "l.nii.gz"))] == [
        "b_0000.nii.gz",
        "b_0001.nii.gz",
        "l.nii.gz",
    ]


def test_predictions_have_the_name_of_the_case_and_the_grid_of_its_image(folder: Path) -> None:
    (case,) = find_inputs(folder / "b_0000.nii.gz", file_format=FORMAT)
    path = FORMAT.save_labels(folder / "out" / case.name, np.ones((5, 4, 3), np.uint8), like=case.image)
    assert path.name == "b.nii.gz"
    np.testing.assert_array_equal(nib.load(path).affine, AFFINE)
    clash = Case("b_0001", case.image, None)
    with pytest.raises(UserError, match=r"overwrite the input .*b_0001\.nii\.gz"):
        label_paths([clash], output=folder, file_format=FORMAT)


@pytest.mark.parametrize(
    ("shape", "affine", "reason"),
    [
        ((5, 4, 2), AFFINE, r"b_0001\.nii\.gz: has shape \(5, 4, 2\), but b_0000\.nii\.gz .* has \(5, 4, 3\)"),
        ((5, 4, 3), np.diag([-2.0, -2.0, 4.0, 1.0]), r"b_0001\.nii\.gz: lies 2\.00 mm away from b_0000\.nii\.gz"),
    ],
)
def test_grids_must_agree(folder: Path, shape: tuple, affine: np.ndarray, reason: str) -> None:
    save(folder / "b_0001.nii.gz", np.zeros(shape, np.float32), affine=affine)
    for read in (FORMAT.read_image, FORMAT.read_grid):
        with pytest.raises(UserError, match=reason):
            read(folder / "b_0000.nii.gz")


@pytest.mark.parametrize(("left", "missing"), [("b_0000", "b_0001"), ("b_0001", "b_0000")])
def test_a_missing_channel_is_named(folder: Path, left: str, missing: str) -> None:
    (folder / f"{missing}.nii.gz").unlink()
    (case,) = (case for case in find_inputs(folder, file_format=FORMAT) if case.id == "b")
    with pytest.raises(UserError, match=rf"{left}.*missing; expected .*{missing}\.nii\.gz"):
        FORMAT.read_image(case.image)


def test_a_channel_too_many_is_counted(folder: Path, voxels: np.ndarray) -> None:
    save(folder / "b_0002.nii.gz", voxels[..., 0], affine=AFFINE)
    assert FORMAT.read_grid(folder / "b_0000.nii.gz").num_channels == 3


def test_a_file_without_a_number_is_a_whole_image(tmp_path: Path, voxels: np.ndarray) -> None:
    path = save(tmp_path / "scan.nii.gz", voxels, affine=AFFINE)
    (case,) = find_inputs(tmp_path, file_format=FORMAT)
    assert (case.id, FORMAT.read_image(path)[0].shape) == ("scan", (2, 5, 4, 3))


def test_listed_files_may_have_any_name(tmp_path: Path, voxels: np.ndarray) -> None:
    paths = [
        save(tmp_path / name, voxels[..., n], affine=AFFINE) for n, name in enumerate(("t1.nii.gz", "x/flair.nii.gz"))
    ]
    form = Channels(Nifti(3), ".nii.gz", 2, Listed({paths[0]: tuple(paths)}))
    np.testing.assert_array_equal(form.read_image(paths[0])[0][1], voxels[..., 1])
    assert form.files(paths[0]) == paths
    assert describe(form) == describe(Channels(Nifti(3), ".nii.gz", 2)), "places are no settings: caches stay good"


def test_pictures_keep_their_channels(tmp_path: Path) -> None:
    form = Channels(one_file(".png", spatial_dims=2, setting=""), ".png", 3)
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "c_0000.png")
    assert form.read_image(tmp_path / "c_0000.png")[0].shape == (3, 3, 4)
    for number in range(3):
        Image.fromarray(grey + number).save(tmp_path / f"g_{number:04d}.png")
    found, grid = form.read_image(tmp_path / "g_0000.png")
    assert (found[:, 0, 0].tolist(), grid.num_channels) == ([0, 1, 2], 3)
    labels = form.save_labels(tmp_path / "out", np.array([[0, 1], [2, 1]]), like=tmp_path / "g_0000.png")
    np.testing.assert_array_equal(form.read_label(labels)[0], [[0, 1], [2, 1]])


def test_endings_that_are_not_read() -> None:
    with pytest.raises(
        UserError, match=r"x is \.tif, which is not read; known are \.nii\.gz, .*, \.mha, \.mhd and \.png"
    ):
        one_file(".tif", spatial_dims=2, setting="x")
    with pytest.raises(UserError, match=r"data\.roi_size 2 numbers"):
        one_file(".png", spatial_dims=3, setting="x")
