"""Damaged and lying NIfTI files: one error that names file and field, before memory is taken."""

import gzip
import struct
import tracemalloc
import zlib

import nibabel as nib
import numpy as np
import pytest

from sct.data.formats.base import Nifti
from sct.data.formats.nifti import read_voxels, save_label_map
from sct.errors import UserError

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def honest(tmp_path) -> bytearray:
    """A file of 348 + 4 + 240 bytes, little endian, with an sform of 2 mm."""
    nib.save(nib.Nifti1Image(VOXELS, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "honest.nii")
    return bytearray((tmp_path / "honest.nii").read_bytes())


def put(data: bytearray, *fields: tuple[int, str, object]) -> bytes:
    """The file with other values at some places of its header."""
    for place, form, value in fields:
        struct.pack_into(form, data, place, value)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("place", "form", "value", "words"),
    [
        (0, "<i", 349, "sizeof_hdr is 349"),
        (344, "4s", b"ni1\0", "magic"),
        (40, "<h", 0, r"dim\[0\] 0"),
        (40, "<h", 8, r"dim\[0\] 8"),
        (46, "<h", 0, r"shape \(6, 5, 0\)"),
        (46, "<h", -4, r"shape \(6, 5, -4\)"),
        (46, "<h", 3, "dim 6 x 5 x 3 and datatype 4 .* holds more"),
        (46, "<h", 5, "dim 6 x 5 x 5 and datatype 4 .*truncated|dim 6 x 5 x 5 .* has 592"),
        (70, "<h", 999, "datatype 999"),
        (70, "<h", 16, "bitpix 16; expected 32"),
        (72, "<h", 8, "bitpix 8; expected 16"),
        (108, "<f", 0, "vox_offset 0"),
        (108, "<f", 100, "vox_offset 100"),
        (108, "<f", 352.5, "vox_offset 352.5"),
        (108, "<f", INF, "vox_offset inf"),
        (112, "<f", INF, "scl_slope inf"),
        (116, "<f", NAN, "scl_inter nan"),
        (123, "B", 7, "xyzt_units=7"),
        (254, "<h", -1, "sform_code -1"),
        (252, "<h", 99, "qform_code 99"),
        (280, "<f", NAN, "srow_x.*not finite"),
        (280, "<f", 0, "srow_x.*not positive along every axis"),
        (280, "<f", 1e6, r"srow_x.*1e\+06 x 2 x 2 mm.*unit of length"),
        (284, "<f", 2e3, "one plane"),
        (292, "<f", 1e30, "from the origin"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, honest, suffix, place, form, value, words):
    fields = [(112, "<f", 2.0), (place, form, value)] if place == 116 else [(place, form, value)]
    data = put(honest, *fields)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    for read in (Nifti(3).read_grid, Nifti(3).read_image, Nifti(3).read_stored, Nifti(3).read_label):
        with pytest.raises(UserError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([(80, "<f", 0.0)], r"pixdim \[0.0, 2.0, 2.0\]"),
        ([(80, "<f", -2.0)], "pixdim"),
        ([(80, "<f", NAN)], "pixdim"),
        ([(76, "<f", 0.5)], r"pixdim\[0\] 0.5"),
        ([(256, "<f", 1.5)], "quatern_b, quatern_c, quatern_d"),
        ([(256, "<f", NAN)], "quatern_b"),
        ([(268, "<f", INF)], "qoffset.*not finite"),
    ],
)
def test_a_wrong_qform_is_named(tmp_path, honest, fields, words):
    (tmp_path / "a.nii").write_bytes(put(honest, (254, "<h", 0), (252, "<h", 1), *fields))
    with pytest.raises(UserError, match=words):
        Nifti(3).read_grid(tmp_path / "a.nii")


def test_fields_without_meaning_change_nothing(tmp_path, honest):
    """A slope of nan or 0 is none; intents and the display window say nothing of voxels; sform goes before qform."""
    for fields in (
        [(112, "<f", 0.0), (116, "<f", 5.0)],
        [(112, "<f", NAN), (116, "<f", NAN)],
        [(68, "<h", 1007)],
        [(124, "<f", INF)],
        [(252, "<h", 1), (268, "<f", 77.0)],
    ):
        (tmp_path / "a.nii").write_bytes(put(bytearray(honest), *fields))
        found, grid = Nifti(3).read_image(tmp_path / "a.nii")
        np.testing.assert_array_equal(found[0], VOXELS)
        np.testing.assert_array_equal(grid.affine, np.diag([2.0, 2.0, 2.0, 1.0]))


def test_both_byte_orders_and_extensions_are_read(tmp_path):
    for order, kind in (("<", nib.Nifti1Image), (">", nib.Nifti1Image), (">", nib.Nifti2Image)):
        header = kind.header_class(endianness=order)
        header.set_data_dtype(np.int16)
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"anything"))
        nib.save(kind(VOXELS, np.eye(4), header), tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(read_voxels(tmp_path / "a.nii.gz", spatial_dims=3)[0][0], VOXELS)


def test_a_damaged_extension_is_named(tmp_path, honest):
    data = put(honest, (108, "<f", 384.0), (348, "B", 1))
    (tmp_path / "a.nii").write_bytes(data[:352] + struct.pack("<ii", -16, 6) + bytes(24) + data[352:])
    with pytest.raises(UserError, match=r"a\.nii: its header extensions \(esize\) are damaged"):
        Nifti(3).read_grid(tmp_path / "a.nii")


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed, raw: packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:],
        lambda packed, raw: packed[:-4] + bytes([packed[-4] ^ 1]) + packed[-3:],
        lambda packed, raw: packed + b"behind",
        lambda packed, raw: packed + gzip.compress(b"behind"),
        lambda packed, raw: packed + gzip.compress(bytes(1000))[:-9],
        lambda packed, raw: gzip.compress(raw + bytes(100_000)),
        lambda packed, raw: gzip.compress(raw + b"\1"),
        lambda packed, raw: packed[:-9],
    ],
)
def test_gzip_is_read_to_its_end(tmp_path, honest, damage):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(damage(gzip.compress(bytes(honest)), bytes(honest)))
    with pytest.raises(UserError, match=r"a\.nii\.gz: "):
        read_voxels(path, spatial_dims=3)


def test_a_wrong_checksum_behind_much_data_is_seen(tmp_path):
    """The checksum lies behind more than any buffer holds."""
    voxels = np.random.default_rng(0).integers(0, 255, (200, 200, 100)).astype(np.uint8)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    packed = bytearray(gzip.compress((tmp_path / "a.nii").read_bytes(), compresslevel=1))
    packed[-6] ^= 4
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(UserError, match=r"a\.nii\.gz: cannot be read as NIfTI"):
        read_voxels(tmp_path / "a.nii.gz", spatial_dims=3)


def test_padding_and_members_of_gzip_are_no_fault(tmp_path, honest):
    raw = bytes(honest)
    for packed in (
        gzip.compress(raw) + bytes(512),
        b"".join(gzip.compress(raw[i : i + 100]) for i in range(0, 592, 100)),
    ):
        (tmp_path / "a.nii.gz").write_bytes(packed)
        np.testing.assert_array_equal(read_voxels(tmp_path / "a.nii.gz", spatial_dims=3)[0][0], VOXELS)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_claim_takes_no_memory(tmp_path, honest, suffix):
    """A header of 352 bytes, or 66 bytes of gzip, that claims 3 GB."""
    data = put(honest, *((42 + 2 * axis, "<h", size) for axis, size in enumerate((1500, 1000, 1000))))[:352]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"dim 1500 x 1000 x 1000 and datatype 4 \(int16\) .* make 3000000352 bytes"):
        read_voxels(path, spatial_dims=3)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_claim_that_gzip_repeats_is_counted(tmp_path, honest):
    """Many packed bytes, a size in the end of the file that fits the claim, and too few voxels."""
    data = put(honest, *((42 + 2 * axis, "<h", size) for axis, size in enumerate((100, 100, 10))))
    noise = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8).tobytes()
    packed = zlib.compressobj(wbits=31)
    short = packed.compress(data[:352] + noise) + packed.flush()
    (tmp_path / "a.nii.gz").write_bytes(short[:-4] + struct.pack("<I", 352 + 200_000))
    with pytest.raises(UserError, match=r"a\.nii\.gz: "):
        read_voxels(tmp_path / "a.nii.gz", spatial_dims=3)


def test_labels_of_a_thick_slice_keep_its_qform(tmp_path):
    """nibabel forgets the thickness of an image of two axes, and with it the qform."""
    image = nib.Nifti1Image(np.zeros((7, 8), np.int16), None)
    image.set_qform(np.diag([1.0, 1.0, 3.0, 1.0]), code=1)
    image.set_sform(None, code=0)
    image.header["pixdim"][3] = 3.0
    nib.save(image, tmp_path / "a.nii.gz")
    save_label_map(tmp_path / "out.nii.gz", np.ones((7, 8), np.uint8), like=tmp_path / "a.nii.gz")
    source, written = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "out.nii.gz")
    for name in ("qform_code", "sform_code"):
        assert int(written.header[name]) == int(source.header[name])
    np.testing.assert_array_equal(written.affine, source.affine)
