"""Label maps as NIfTI files."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from sct.data.formats import nifti
from sct.data.formats.nifti import in_file_order, read_grid, read_voxels, save_label_map
from sct.errors import UserError

TURNED = np.array([[0.0, -1.3, 0.0, 12.0], [0.9, 0.0, 0.0, -4.0], [0.0, 0.0, 2.5, 7.5], [0.0, 0.0, 0.0, 1.0]])


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("channels", [(), (2,)])
def test_label_maps_keep_the_grid_of_their_source(tmp_path, kind, channels):
    shape = (6, 5, 4)
    source = kind(np.random.default_rng(0).normal(size=(*shape, *channels)) * 300, TURNED)
    source.header.set_data_dtype(np.int16)
    source.set_qform(np.diag([-2.0, 2.0, 3.0, 1.0]), code=1)
    source.set_sform(TURNED, code=4)
    source.header.set_xyzt_units("mm", "sec")
    source.header["cal_max"] = 400
    nib.save(source, tmp_path / "image.nii.gz")
    assert np.isfinite(nib.load(tmp_path / "image.nii.gz").dataobj.slope)

    labels = np.random.default_rng(1).integers(0, 200, shape).astype(np.uint8)
    target = tmp_path / "made" / "labels.nii.gz"
    save_label_map(target, labels, like=tmp_path / "image.nii.gz")
    source, back = nib.load(tmp_path / "image.nii.gz"), nib.load(target)
    np.testing.assert_array_equal(np.asarray(back.dataobj), labels)
    assert back.get_data_dtype() == np.uint8
    assert back.shape == shape
    assert type(back) is kind
    assert (back.dataobj.slope, back.dataobj.inter) == (1, 0)
    np.testing.assert_array_equal(back.affine, source.affine)
    for form in ("get_qform", "get_sform"):
        (old, old_code), (new, new_code) = (getattr(file, form)(coded=True) for file in (source, back))
        np.testing.assert_array_equal(new, old)
        assert new_code == old_code
    assert back.header.get_zooms() == source.header.get_zooms()[:3]
    assert back.header.get_xyzt_units() == source.header.get_xyzt_units() == ("mm", "sec")
    assert back.header["cal_max"] == 0
    assert [path.name for path in target.parent.iterdir()] == ["labels.nii.gz"]


def noise(path):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (20, 30, 25)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, TURNED), path)
    return voxels


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "A.NII.GZ"])
def test_voxels_are_nibabels(tmp_path, name):
    voxels = noise(tmp_path / name)
    found, grid = read_voxels(tmp_path / name, spatial_dims=3)
    np.testing.assert_array_equal(found[0], voxels)
    np.testing.assert_allclose(grid.affine, TURNED)


def test_whole_numbers_stay_whole_where_they_are_not_scaled(tmp_path):
    voxels = noise(tmp_path / "a.nii.gz")
    found, _ = read_voxels(tmp_path / "a.nii.gz", spatial_dims=3, as_stored=True)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found[0], voxels)
    scaled = nib.Nifti1Image(voxels, TURNED)
    scaled.header.set_slope_inter(2, -5)
    nib.save(scaled, tmp_path / "scaled.nii.gz")
    stored = nib.load(tmp_path / "scaled.nii.gz")
    assert stored.dataobj.slope != 1
    real = nib.Nifti1Image(voxels.astype(np.float64), TURNED)
    nib.save(real, tmp_path / "real.nii.gz")
    for name, wanted in (("scaled.nii.gz", stored.get_fdata()), ("real.nii.gz", voxels)):
        found, _ = read_voxels(tmp_path / name, spatial_dims=3, as_stored=True)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], wanted, rtol=1e-6)


def test_files_of_several_members_are_read_whole(tmp_path):
    """As programs write them that pack on several threads."""
    voxels = noise(tmp_path / "a.nii")
    raw = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw[:9000]) + gzip.compress(raw[9000:]))
    np.testing.assert_array_equal(read_voxels(tmp_path / "a.nii.gz", spatial_dims=3)[0][0], voxels)


@pytest.mark.parametrize("damage", [slice(9000, 9100), slice(-8, -4), slice(-3000, None)])
def test_damaged_files_are_named(tmp_path, damage):
    noise(tmp_path / "a.nii.gz")
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    if damage.stop is None:
        del content[damage]
    else:
        content[damage] = bytes(255 - byte for byte in content[damage])
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.nii\.gz: cannot be read as NIfTI"):
        read_voxels(tmp_path / "a.nii.gz", spatial_dims=3)


def test_equal_labels_are_equal_files(tmp_path):
    noise(tmp_path / "image.nii.gz")
    labels = np.random.default_rng(1).integers(0, 9, (20, 30, 25)).astype(np.uint8)
    for name in ("a.nii.gz", "b.nii.gz"):
        save_label_map(tmp_path / name, labels, like=tmp_path / "image.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[352:] == labels.tobytes(order="F")


@pytest.mark.parametrize("shape", [(130, 33, 3), (1, 70), (65, 16, 2, 2)])
def test_the_first_axis_runs_fastest_in_files(shape):
    voxels = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    turned = in_file_order(voxels)
    np.testing.assert_array_equal(turned, voxels)
    assert turned.flags.f_contiguous


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "old.nii")
    before = (tmp_path / "old.nii").read_bytes()

    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nifti.nib, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_label_map(tmp_path / "old.nii", np.ones((2, 2, 2), np.uint8), like=tmp_path / "old.nii")
    assert (tmp_path / "old.nii").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["old.nii"]


@pytest.mark.parametrize(
    ("moved", "codes", "told"),
    [
        (0.0, (1, 1), None),
        (0.19, (1, 1), None),  # less than a tenth of a voxel of 2 mm
        (0.21, (1, 1), "0.105"),
        (30.0, (1, 4), "15"),
        (30.0, (0, 1), None),
        (30.0, (1, 0), None),
    ],
)
def test_a_file_whose_two_forms_differ_is_named_once(tmp_path, caplog, moved, codes, told):
    path, sform = tmp_path / "image.nii", np.diag([2.0, 3.0, 4.0, 1.0])
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), sform)
    qform = sform.copy()
    qform[1, 3] += moved
    image.set_qform(qform, code=codes[0])
    image.set_sform(sform, code=codes[1])
    nib.save(image, path)
    grids = [read_grid(path, spatial_dims=3) for _ in range(2)]
    np.testing.assert_allclose(grids[0].affine, sform if codes[1] else qform, rtol=1e-6)
    message = f"{path}: its sform and its qform are up to {told} voxels apart. The sform is used"
    assert [record.getMessage() for record in caplog.records] == ([message] if told else [])


def test_forms_that_are_turned_are_compared_at_the_corners(tmp_path, caplog):
    path, sform = tmp_path / "image.nii", np.eye(4)
    image = nib.Nifti1Image(np.zeros((101, 3, 3), np.int16), sform)
    image.set_sform(sform, code=1)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.01), -np.sin(0.01)], [np.sin(0.01), np.cos(0.01)]]
    image.set_qform(turned, code=1)
    nib.save(image, path)
    read_grid(path, spatial_dims=3)
    # 100 voxels times 0.01
    assert "up to 1 voxels apart" in caplog.text


def test_a_qform_that_is_no_form_changes_nothing(tmp_path, caplog):
    path, sform = tmp_path / "image.nii", np.eye(4)
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), sform)
    image.set_sform(sform, code=1)
    image.header["qform_code"] = 1
    image.header["quatern_b"] = 3.0
    nib.save(image, path)
    np.testing.assert_array_equal(read_grid(path, spatial_dims=3).affine, sform)
    assert not caplog.text
