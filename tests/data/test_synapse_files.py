"""The npz and h5 files of Synapse: grids, spacing, label maps as NIfTI, and a message for every fault."""

import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from sct.data.sets.synapse_files import SynapseFiles, write_slice, write_volume
from sct.errors import UserError

FORMAT = SynapseFiles()
SPACING = np.array([5.0, 0.7, 0.9])


def volume(shape: tuple[int, ...] = (3, 4, 5)) -> tuple[np.ndarray, np.ndarray]:
    """An image that counts its voxels, and a label of 0, 1, 2, 0, 1, ..."""
    values = np.arange(np.prod(shape)).reshape(shape)
    return (values / values.size).astype(np.float32), (values % 3).astype(np.uint8)


@pytest.fixture
def h5(tmp_path: Path) -> Path:
    image, label = volume()
    write_volume(tmp_path / "case0001.npy.h5", image=image, label=label, spacing=SPACING)
    return tmp_path / "case0001.npy.h5"


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    image, label = volume((4, 5))
    write_slice(tmp_path / "case0005_slice000.npz", image=image, label=label, spacing=SPACING)
    return tmp_path / "case0005_slice000.npz"


def test_what_is_written_is_read(h5: Path, npz: Path) -> None:
    for path, shape, spacing in ((h5, (3, 4, 5), SPACING), (npz, (4, 5), SPACING[1:])):
        image, label = volume(shape)
        voxels, grid = FORMAT.read_image(path)
        np.testing.assert_array_equal(voxels, image[None])
        assert voxels.dtype == np.float32
        np.testing.assert_array_equal(FORMAT.read_label(path)[0], label)
        for found in (grid, FORMAT.read_grid(path), FORMAT.read_label(path)[1]):
            assert (found.shape, found.num_channels, found.unit) == (shape, 1, "mm")
            np.testing.assert_allclose(found.spacing, spacing)


def test_files_as_transunet_writes_them_are_in_voxels(tmp_path: Path) -> None:
    image, label = volume()
    with h5py.File(tmp_path / "a.npy.h5", "w") as file:
        file["image"], file["label"] = image.astype(np.float64), label.astype(np.float32)
    np.savez(tmp_path / "a.npz", image=image[0].astype(np.float64), label=label[0].astype(np.float32))
    for path, axes in ((tmp_path / "a.npy.h5", 3), (tmp_path / "a.npz", 2)):
        grid = FORMAT.read_grid(path)
        assert grid.unit == "voxel"
        np.testing.assert_array_equal(grid.spacing, np.ones(axes))
        assert FORMAT.read_label(path)[0].dtype == np.float32


def test_names() -> None:
    assert FORMAT.stem(Path("a/case0001.npy.h5")) == FORMAT.stem(Path("case0001.h5")) == "case0001"
    assert FORMAT.stem(Path("case0005_slice000.npz")) == "case0005_slice000"
    assert not FORMAT.is_image(Path("case0001.nii.gz"))
    assert FORMAT.label_path(Path("out/case0001"), like=Path("case0001.npz")) == Path("out/case0001.nii.gz")


def test_label_maps_lie_in_the_patient(h5: Path, tmp_path: Path) -> None:
    """A voxel of slice 2, row 1, column 4 is the 3rd towards the head, 2nd to the back, 5th to the left."""
    labels = np.zeros((3, 4, 5), dtype=np.uint8)
    labels[2, 1, 4] = 7
    image = nib.load(FORMAT.save_labels(tmp_path / "out", labels, like=h5))
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.header.get_zooms(), SPACING[::-1])
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.argwhere(np.asarray(image.dataobj) == 7), [[4, 1, 2]])
    np.testing.assert_allclose(image.affine @ [4, 1, 2, 1], [-4 * 0.9, -0.7, 10.0, 1.0])


def test_label_maps_of_slices_and_without_spacing(npz: Path, tmp_path: Path) -> None:
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    image = nib.load(FORMAT.save_labels(tmp_path / "slice", labels, like=npz))
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels.T)
    np.testing.assert_allclose(image.header.get_zooms(), [0.9, 0.7])
    np.savez(tmp_path / "bare.npz", image=labels / 20, label=labels)
    image = nib.load(FORMAT.save_labels(tmp_path / "bare", labels, like=tmp_path / "bare.npz"))
    np.testing.assert_allclose(image.header.get_zooms(), [1.0, 1.0])
    assert image.header.get_xyzt_units()[0] == "unknown"


@pytest.mark.parametrize("spacing", [[1.0, 1.0], [1.0, 0.0, 1.0], [1.0, np.nan, 1.0], [-1.0, 1.0, 1.0]])
def test_a_bad_spacing_is_told(h5: Path, spacing: list[float]) -> None:
    with h5py.File(h5, "a") as file:
        file.attrs["spacing"] = spacing
    with pytest.raises(UserError, match=r"case0001\.npy\.h5: `spacing` is .*3 positive numbers of mm"):
        FORMAT.read_grid(h5)


def test_h5py_is_asked_for_where_it_is_needed(h5: Path, npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    FORMAT.read_image(npz)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e '\.\[synapse\]'"):
        FORMAT.read_image(h5)
