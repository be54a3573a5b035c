"""NRRD and MHA files: the same voxels at the same places as in NIfTI, and label maps that SimpleITK reads."""

import builtins
from pathlib import Path

import numpy as np
import pytest
from dicom_files import needs_itk, oblique
from little_data import save

from sct.data.formats.volumes import Volumes, Written
from sct.errors import UserError

needs_itk()
import SimpleITK as sitk  # noqa: E402

AFFINE = oblique((0.8, 1.5, 3.0), negated=(1,))
KINDS = ("nrrd", "nhdr", "mha", "mhd")


def write(path: Path, voxels: np.ndarray, *, affine: np.ndarray = AFFINE, vector: bool = False) -> Path:
    """Voxels (X, Y, Z), or (X, Y, Z, C) as a `vector`, on an affine to RAS, by SimpleITK alone."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    moved = voxels.transpose(2, 1, 0, 3) if vector else voxels.T
    image = sitk.GetImageFromArray(np.ascontiguousarray(moved), isVector=vector)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)


@pytest.mark.parametrize("kind", KINDS)
def test_voxels_and_affine_are_those_of_the_nifti(tmp_path, voxels, kind):
    reference = Volumes(3).read_image(save(tmp_path / "a.nii.gz", voxels, affine=AFFINE))
    path = write(tmp_path / f"a.{kind}", voxels)
    found, grid = Volumes(3).read_image(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, reference[0])
    np.testing.assert_allclose(grid.affine, reference[1].affine, atol=1e-5)
    assert (grid.shape, grid.num_channels, grid.unit) == ((6, 5, 4), 1, "mm")
    np.testing.assert_array_equal(Volumes(3).read_grid(path).affine, grid.affine)
    stored, _ = Volumes(3).read_stored(path)
    assert stored.dtype == np.int16
    assert Volumes(3).stem(path) == "a"
    assert Volumes(3).is_image(path)


@pytest.mark.parametrize("kind", KINDS)
def test_components_are_channels(tmp_path, kind):
    voxels = np.random.default_rng(0).normal(size=(6, 5, 4, 2)).astype(np.float32)
    found, grid = Volumes(3).read_image(write(tmp_path / f"a.{kind}", voxels, vector=True))
    np.testing.assert_array_equal(found, voxels.transpose(3, 0, 1, 2))
    assert grid.num_channels == 2
    with pytest.raises(UserError, match=r"2 channels\. Store one volume"):
        Volumes(3).read_label(tmp_path / f"a.{kind}")


def test_a_changed_file_of_voxels_is_another_image(tmp_path, voxels):
    write(tmp_path / "a.mhd", voxels)
    assert [path.name for path in Volumes(3).files(tmp_path / "a.mhd")] == ["a.mhd", "a.raw"]
    write(tmp_path / "a.mha", voxels)
    assert [path.name for path in Volumes(3).files(tmp_path / "a.mha")] == ["a.mha"]


@pytest.mark.parametrize("kind", ["nii.gz", "nii", *KINDS])
@pytest.mark.parametrize("written", [None, "nifti", "nrrd", "mha"])
def test_label_maps_lie_where_the_image_lies(tmp_path, voxels, kind, written):
    make = save if kind.startswith("nii") else write
    image = make(tmp_path / f"a.{kind}", voxels, affine=AFFINE)
    labels = np.random.default_rng(1).integers(0, 5, voxels.shape).astype(np.uint8)
    form = Volumes(3, written=Written(written))
    path = form.save_labels(tmp_path / "out" / "a", labels, like=image)
    own = {"nii": ".nii.gz", "nhdr": ".nrrd", "mhd": ".mha"}.get(kind, f".{kind}")
    assert path.name == "a" + {None: own, "nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha"}[written]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    found, grid = form.read_label(path)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_allclose(grid.affine, AFFINE, atol=1e-5)
    # as another program sees it: one voxel, at its place
    other = sitk.ReadImage(str(path))
    assert other.GetPixel(3, 1, 2) == labels[3, 1, 2]
    place = np.array(other.TransformIndexToPhysicalPoint((3, 1, 2))) * (-1, -1, 1)
    np.testing.assert_allclose(place, (AFFINE @ [3, 1, 2, 1])[:3], atol=1e-4)


def test_a_sheared_grid_is_kept(tmp_path, voxels):
    sheared = AFFINE.copy()
    sheared[:3, 2] += 0.4 * AFFINE[:3, 1]
    image = save(tmp_path / "a.nii.gz", voxels, affine=sheared)
    form = Volumes(3, written=Written("mha"))
    path = form.save_labels(tmp_path / "out", np.ones(voxels.shape, np.uint8), like=image)
    np.testing.assert_allclose(form.read_grid(path).affine, sheared, atol=1e-5)


@pytest.mark.parametrize("kind", ["nrrd", "mha"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "missing"])
def test_damaged_files_are_named(tmp_path, voxels, kind, damage):
    path = write(tmp_path / f"a.{kind}", np.tile(voxels, (9, 9, 9)))
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "truncated": content[: len(content) // 2], "text": b"no image"}.get(damage, content)
    )
    if damage == "missing":
        path.unlink()
    with pytest.raises(
        UserError, match=rf"a\.{kind}: (cannot be read as {kind.upper()}|the file does not exist|.*It is truncated)"
    ):
        Volumes(3).read_image(path)


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [((6, 5, 4, 3), np.float32, "but a 2-D image"), ((6, 5, 4), np.complex64, "complex numbers")],
)
def test_other_images_are_refused(tmp_path, shape, kind, words):
    path = write(tmp_path / "a.nrrd", np.ones(shape, kind), vector=len(shape) == 4)
    dims = 2 if len(shape) == 4 else 3
    with pytest.raises(UserError, match=words):
        Volumes(dims).read_image(path)


def test_without_the_package_the_message_says_how_to_install_it(tmp_path, voxels, monkeypatch):
    image = save(tmp_path / "a.nii.gz", voxels, affine=AFFINE)
    write(tmp_path / "a.mha", voxels)
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "SimpleITK":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    # reading needs no package, writing does
    np.testing.assert_array_equal(Volumes(3).read_image(tmp_path / "a.mha")[0], Volumes(3).read_image(image)[0])
    for like, written in ((image, "nrrd"), (tmp_path / "a.mha", None)):
        with pytest.raises(UserError, match=r"SimpleITK, which is not installed.*\.\[itk\]"):
            Volumes(3, written=Written(written)).label_path(tmp_path / "out", like=like)


def test_unknown_kinds_are_refused():
    with pytest.raises(UserError, match=r"format=dicom .*choose one of nifti, nrrd, mha, dicom-seg"):
        Written("dicom")


def test_what_is_written_is_no_setting_of_what_is_read():
    from sct.data.loading.cache import describe

    assert describe(Volumes(3, written=Written("mha", ("a", "b")))) == describe(Volumes(3))
    assert describe(Volumes(3, "1.2")) != describe(Volumes(3))
