"""Damaged and lying files of every kind but NIfTI: one error with file and field, and no memory for claims."""

import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from dicom_files import needs_dicom, oblique, write_series
from PIL import Image

from sct.data.formats.pictures import Pictures
from sct.data.formats.volumes import Volumes
from sct.data.sets.described import inside, read_json
from sct.data.sets.synapse_files import SynapseFiles, write_volume
from sct.errors import UserError

VOXELS = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "5 4 3",
    "space directions": "(2,0,0) (0,2,0) (0,0,3)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "gzip",
    "space origin": "(1,2,3)",
}
MHA = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "True",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "1 2 3",
    "ElementSpacing": "2 2 3",
    "DimSize": "5 4 3",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


def nrrd(path: Path, *, data: bytes | None = None, **changes: str | None) -> Path:
    fields = {**NRRD, **{name.replace("_", " "): text for name, text in changes.items()}}
    packed = zlib.compressobj(wbits=31)
    data = packed.compress(VOXELS.tobytes(order="F")) + packed.flush() if data is None else data
    lines = [f"{name}: {text}\n" for name, text in fields.items() if text is not None]
    path.write_bytes(b"NRRD0004\n" + "".join(lines).encode() + b"\n" + data)
    return path


def mha(path: Path, *, data: bytes | None = None, **changes: str | None) -> Path:
    fields = {**{k: v for k, v in MHA.items() if k != "ElementDataFile"}, **changes}
    lines = [f"{name} = {text}\n" for name, text in fields.items() if text is not None and name != "ElementDataFile"]
    lines.append(f"ElementDataFile = {changes.get('ElementDataFile', 'LOCAL')}\n")
    data = zlib.compress(VOXELS.tobytes(order="F")) if data is None else data
    path.write_bytes("".join(lines).encode() + data)
    return path


@pytest.mark.parametrize("write", [nrrd, mha])
def test_headers_of_text_say_where_the_voxels_are(tmp_path, write):
    path = write(tmp_path / f"a.{write.__name__}")
    found, grid = Volumes(3).read_image(path)
    np.testing.assert_array_equal(found[0], VOXELS)
    np.testing.assert_array_equal(grid.affine, [[-2, 0, 0, -1], [0, -2, 0, -2], [0, 0, 3, 3], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sizes": "5 4 -3"}, "sizes 5 4 -3"),
        ({"sizes": "5 4 2"}, "sizes 5 x 4 x 2 of int16 make 80 bytes"),
        ({"sizes": "1500 1000 1000"}, "sizes 1500 x 1000 x 1000 of int16 make 3000000000 bytes"),
        ({"dimension": "4"}, "dimension 4"),
        ({"type": "block"}, "type block"),
        ({"endian": None}, "endian missing"),
        ({"encoding": "hex"}, "encoding hex"),
        ({"space": "scanner-xyz"}, "space scanner-xyz"),
        ({"space": None}, "space missing"),
        ({"space_directions": "(2,0,0) (0,nan,0) (0,0,3)"}, "space directions"),
        ({"space_directions": None}, "space directions missing"),
        ({"space_origin": "(1,2)"}, "space origin"),
        ({"space_units": '"um" "um" "um"'}, "space units"),
        ({"kinds": "domain domain vector"}, "kinds"),
        ({"data_file": "/etc/hostname"}, "data file /etc/hostname"),
        ({"data_file": "../a.raw"}, "data file"),
        ({"data_file": "a.raw"}, r"names the file a\.raw"),
        ({"byte_skip": "4"}, "byte skip 4"),
        ({"spacings": "1 1 1"}, "spacings 1 1 1"),
        ({"sizzes": "5 4 3"}, "line sizzes"),
        ({"data": b"\x1f\x8b"}, "cannot be read as NRRD|make 120 bytes"),
    ],
)
def test_a_wrong_field_of_nrrd_is_named(tmp_path, changes, words):
    path = nrrd(tmp_path / "a.nrrd", **changes)
    with pytest.raises(UserError, match=words) as caught:
        Volumes(3).read_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DimSize": "5 4"}, "NDims 3"),
        ({"DimSize": "5 4 0"}, "DimSize 5 4 0"),
        ({"DimSize": "1500 1000 1000"}, "DimSize 1500 x 1000 x 1000 of int16 make 3000000000 bytes"),
        ({"DimSize": "5 4 2"}, "but behind the header are more bytes"),
        ({"DimSize": "5 4 4"}, "but behind the header are 120 bytes"),
        ({"ElementType": "MET_OTHER"}, "ElementType MET_OTHER"),
        ({"ElementSpacing": "2 2 -3"}, "ElementSpacing 2 2 -3"),
        ({"ElementSpacing": None}, "lacks ElementSpacing"),
        ({"ElementNumberOfChannels": "-1"}, "ElementNumberOfChannels -1"),
        ({"TransformMatrix": "1 0 0 0 nan 0 0 0 1"}, "TransformMatrix"),
        ({"Offset": "1 2"}, "Offset 1 2"),
        ({"Position": "1 2 4"}, "Position 1 2 4"),
        ({"ElementByteOrderMSB": "True"}, "BinaryDataByteOrderMSB"),
        ({"BinaryData": "False"}, "BinaryData False"),
        ({"CompressedDataSize": "7"}, "CompressedDataSize 7"),
        ({"HeaderSize": "10"}, "HeaderSize 10"),
        ({"ElementDataFile": "/etc/hostname"}, "ElementDataFile /etc/hostname"),
        ({"ElementDataFile": "LIST"}, "names the file LIST"),
        ({"data": zlib.compress(VOXELS.tobytes()) + b"x"}, "more bytes"),
    ],
)
def test_a_wrong_field_of_mha_is_named(tmp_path, changes, words):
    path = mha(tmp_path / "a.mha", **changes)
    tracemalloc.start()
    with pytest.raises(UserError, match=words) as caught:
        Volumes(3).read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 3 << 20
    tracemalloc.stop()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("write", [nrrd, mha])
def test_checksums_of_packed_voxels_are_compared(tmp_path, write):
    path = write(tmp_path / f"a.{write.__name__}")
    content = bytearray(path.read_bytes())
    content[-6 if write is nrrd else -2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.{write.__name__}: cannot be read as"):
        Volumes(3).read_image(path)


def test_a_damaged_png_is_refused(tmp_path):
    """Pillow reads the pixels of a chunk with a wrong checksum."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    np.testing.assert_array_equal(Pictures(2).read_image(tmp_path / "a.png")[0], pixels.transpose(2, 0, 1))
    at = content.index(b"IDAT")
    size = int.from_bytes(content[at - 4 : at], "big")
    crc = bytearray(content)
    crc[at + 4 + size] ^= 1
    for damaged, words in ((bytes(crc), "checksum of its chunk IDAT"), (content[:-12], "before its chunk IEND")):
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(UserError, match=words):
            Pictures(2).read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_picture_that_claims_a_huge_size_takes_no_memory(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    if kind == "PNG":
        data[16:24] = struct.pack(">II", 13000, 13000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 13000, 13000)
    else:
        for tag in (256, 257):
            at = data.index(struct.pack("<H", tag), 8)  # in the directory
            data[at + 8 : at + 12] = struct.pack(
                "<HH" if data[at + 2] == 3 else "<I", *((13000, 0)[: 2 if data[at + 2] == 3 else 1])
            )
    path = tmp_path / "a.png"
    path.write_bytes(data)
    before = peak_of(lambda: None)
    assert peak_of(lambda: refused(path)) - before < 32 << 20


def refused(path: Path) -> None:
    with pytest.raises(UserError, match=path.name):
        Pictures(2).read_image(path)


def peak_of(call) -> int:
    """Bytes of memory of the process at most, during a call."""
    Path("/proc/self/clear_refs").write_text("5")
    call()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_a_grey_tiff_that_was_turned_is_read_right(tmp_path, turn):
    """Pillow maps such a file, and mixes up its rows and columns."""
    upright = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 5
    stored = {3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1)}[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.tif", exif=exif)
    np.testing.assert_array_equal(Pictures(2).read_image(tmp_path / "a.tif")[0][0], upright)
    assert Pictures(2).read_grid(tmp_path / "a.tif").shape == (6, 4)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4), 1 + 1j), "complex128, not one real number"),
        (np.full((4, 4), "1.5"), "not one real number"),
        (np.zeros((4, 4), [("a", "f4")]), "not one real number"),
        (np.full((4, 4), None, dtype=object), "not one real number"),
    ],
)
def test_arrays_of_other_things_are_refused(tmp_path, array, words):
    np.savez(tmp_path / "a.npz", image=array, label=np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=rf"a\.npz: .*`image` .*{words}"):
        SynapseFiles().read_image(tmp_path / "a.npz")


def test_an_npz_that_claims_another_shape_is_refused(tmp_path):
    for shape, count in (((1500, 1000, 1000), 4), ((2, 2), 9)):
        header = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode() + b"\n"
        body = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(4 * count)
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("image.npy", body)
        with pytest.raises(UserError, match=r"a\.npz: .*`image` has shape"):
            SynapseFiles().read_image(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("image.npy", body)
    with pytest.raises(UserError, match="is there twice"):
        SynapseFiles().read_image(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["link", "external", "virtual", "missing", "claims", "group"])
def test_volumes_that_are_not_in_their_file_are_refused(tmp_path, kind):
    h5py = pytest.importorskip("h5py", reason="the extra synapse is not installed")
    write_volume(tmp_path / "other.h5", image=np.ones((3, 4, 5), "f4"), label=np.ones((3, 4, 5)), spacing=np.ones(3))
    (tmp_path / "raw").write_bytes(bytes(240))
    with h5py.File(tmp_path / "a.npy.h5", "w") as file:
        if kind == "link":
            file["image"] = h5py.ExternalLink("other.h5", "/image")
        elif kind == "external":
            file.create_dataset("image", shape=(3, 4, 5), dtype="f4", external=[("raw", 0, 240)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape=(3, 4, 5), dtype="f4")
            layout[:] = h5py.VirtualSource("other.h5", "image", shape=(3, 4, 5))
            file.create_virtual_dataset("image", layout)
        elif kind == "group":
            file.create_group("image")
        else:
            shape = (1500, 1000, 1000) if kind == "claims" else (3, 4, 5)
            file.create_dataset("image", shape=shape, dtype="f4", chunks=True, compression="gzip")
    with pytest.raises(UserError, match=r"a\.npy\.h5: .*`image` "):
        SynapseFiles().read_image(tmp_path / "a.npy.h5")


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"Rows": 60000}, r"\(0028,0010\) rows is 60000 x 5 pixels of 16 bits, 600000 bytes"),
        ({"BitsStored": 12}, "bits stored"),
        ({"PhotometricInterpretation": "MONO"}, "photometric interpretation is MONO; expected MONOCHROME1 or"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "orientation"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "orientation is .*; expected 6 finite"),
        ({"ImagePositionPatient": [1, 2]}, "position is .*; expected 3 finite"),
        ({"PixelSpacing": [1]}, "spacing is 1.0; expected 2 finite"),
        ({"PixelSpacing": [0, 1]}, "two positive numbers of mm"),
    ],
)
def test_a_wrong_tag_of_dicom_is_named(tmp_path, tags, words):
    needs_dicom()
    folder = write_series(tmp_path / "series", VOXELS.transpose(0, 1, 2), affine=oblique((1, 1, 2)), **tags)
    with pytest.raises(UserError, match=words) as caught:
        Volumes(3).read_image(folder)
    assert str(folder) in str(caught.value)


def test_an_element_of_dicom_that_claims_too_much_is_named_with_its_zip_file(tmp_path):
    needs_dicom()
    folder = write_series(tmp_path / "series", VOXELS, affine=oblique((1, 1, 2)))
    path = folder / "IM001"
    content = bytearray(path.read_bytes())
    at = content.index(b"\xe0\x7f\x10\x00OW") + 8
    content[at : at + 4] = struct.pack("<I", 1 << 31)
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"IM001: cannot be read as DICOM \(the element \(7fe0,0010\) claims 2147483648"
    ):
        Volumes(3).read_grid(folder)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    with pytest.raises(UserError, match=r"a\.zip: IM001: cannot be read as DICOM"):
        Volumes(3).read_grid(tmp_path / "a.zip")


@pytest.mark.parametrize(("name", "is_refused"), [("IM000", True), ("1.2.840.5", True), ("README", False)])
def test_a_slice_that_is_no_dicom_any_more_is_not_left_out(tmp_path, name, is_refused):
    needs_dicom()
    folder = write_series(tmp_path / "series", VOXELS, affine=oblique((1, 1, 2)))
    (folder / name).write_bytes(b"anything")
    if is_refused:
        with pytest.raises(UserError, match=rf"{name}: is no DICOM file, or an empty one"):
            Volumes(3).read_grid(folder)
    else:
        assert Volumes(3).read_grid(folder).shape == VOXELS.shape


@pytest.mark.parametrize(
    "text",
    [b'{"a": 1, "a": 2}', b'{"a": NaN}', b"[" * 100_000, b'{"a": "\xff"}', b"", b'{"a": "\\ud800"}', b"1" * 5000],
)
def test_json_that_says_nothing_sure_is_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_bytes(text)
    with pytest.raises(UserError, match=r"dataset\.json can't be read"):
        read_json(tmp_path / "dataset.json")


def test_paths_of_lists(tmp_path):
    file = tmp_path / "dataset.json"
    assert inside(tmp_path, "imagesTr\\a.nii.gz", file=file) == tmp_path / "imagesTr" / "a.nii.gz"
    for wrong in (None, 3, "", "  ", "a\0b", "a" * 300, ["a"]):
        with pytest.raises(UserError, match=r"dataset\.json: lists "):
            inside(tmp_path, wrong, file=file)
