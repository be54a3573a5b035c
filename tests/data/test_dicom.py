"""DICOM series: the voxels at their places whatever the files are called, and refusals that give the numbers."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_files import at_places, needs_dicom, oblique, places, write_series

from sct.data.formats.volumes import Volumes, Written
from sct.errors import UserError
from sct.inference.inputs import find_inputs, label_paths

needs_dicom()
import highdicom  # noqa: E402
import pydicom  # noqa: E402
import SimpleITK as sitk  # noqa: E402

SPACING = (0.8, 1.5, 3.0)
SHAPE = (8, 5, 6)  # GDCM reads frames of bits only where they fill bytes
NAMES = ("background", "liver", "lesion")


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


def check_same_places(path: Path, voxels: np.ndarray, *, affine: np.ndarray) -> np.ndarray:
    """The image has the voxels of `affine` at their places; returns its own affine."""
    found, grid = Volumes(3).read_image(path)
    assert (found.dtype, found.shape, grid.unit) == (np.float32, (1, *voxels.shape), "mm")
    where = places(affine, voxels.shape)
    np.testing.assert_allclose(at_places(found[0], affine=grid.affine, where=where), voxels)
    np.testing.assert_array_equal(Volumes(3).read_grid(path).affine, grid.affine)
    return grid.affine


@pytest.mark.parametrize("negated", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_every_voxel_is_at_its_place(tmp_path, voxels, negated):
    affine = oblique(SPACING, negated=negated)
    folder = write_series(tmp_path / "1.2.3", voxels, affine=affine)
    found = check_same_places(folder, voxels, affine=affine)
    # an axis points where the file's points; slices follow each other along their normal
    np.testing.assert_allclose(found[:3, :2], affine[:3, :2], atol=1e-6)
    np.testing.assert_allclose(np.abs(found[:3, 2]), np.abs(affine[:3, 2]), atol=1e-6)
    # as ITK itself reads a series that is ordered for it
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(names)).T, Volumes(3).read_image(folder)[0][0])
    assert Volumes(3).stem(folder) == "1.2.3"


def test_slopes_and_intercepts_of_slices_are_applied(tmp_path):
    voxels = np.random.default_rng(0).integers(-500, 500, SHAPE) * 0.5
    affine = oblique(SPACING)
    folder = write_series(tmp_path / "a", voxels, affine=affine, slopes=(1.0, 0.5, 0.25), intercept=-1000)
    whole = voxels.copy()
    whole[:, :, ::3] = np.rint(voxels[:, :, ::3] + 1000) - 1000  # what a slope of 1 can hold
    check_same_places(folder, whole, affine=affine)


def test_a_tilted_gantry_keeps_voxels_in_place_and_is_said(tmp_path, voxels, caplog):
    from sct.data.cases import Case, LabelMap
    from sct.data.check import check_cases

    affine = np.diag([-0.8, -1.5, 3.0, 1.0])
    affine[:3, 2] = (0.0, 1.2, 3.0)
    folder = write_series(tmp_path / "a", voxels, affine=affine)
    check_same_places(folder, voxels, affine=affine)
    labels = (voxels > 0).astype(np.uint8)
    path = Volumes(3, written=Written(None, NAMES)).save_labels(tmp_path / "out" / "a", labels, like=folder)
    assert path.with_name("a.dcm").exists()
    np.testing.assert_allclose(Volumes(3).read_grid(path).affine, Volumes(3).read_grid(folder).affine, atol=1e-5)
    straight = write_series(tmp_path / "b", voxels, affine=oblique(SPACING))
    with caplog.at_level("INFO"):
        cases = [Case("a", folder, None), Case("b", straight, None)]
        check_cases(cases, label_map=LabelMap(NAMES), num_channels=1, file_format=Volumes(3), memory=None)
    assert [record.getMessage() for record in caplog.records if "tilted" in record.getMessage()] == [
        f"{folder}: the slices of the DICOM series are tilted (gantry tilt), and voxels keep their places"
    ]


def test_a_zip_file_is_the_folder(tmp_path, voxels):
    folder = write_series(tmp_path / "a", voxels, affine=oblique(SPACING))
    (folder / "notes.txt").write_text("not an image")
    with zipfile.ZipFile(tmp_path / "scan.v2.zip", "w") as archive:
        for number, file in enumerate(sorted(folder.iterdir())):
            archive.write(file, f"../../study/{number % 2}/{file.name}")
    found, grid = Volumes(3).read_image(tmp_path / "scan.v2.zip")
    np.testing.assert_array_equal(found, Volumes(3).read_image(folder)[0])
    np.testing.assert_array_equal(grid.affine, Volumes(3).read_grid(folder).affine)
    assert Volumes(3).stem(tmp_path / "scan.v2.zip") == "scan.v2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "scan.v2.zip"]


def test_of_several_series_one_is_to_be_chosen(tmp_path, voxels):
    affine = oblique(SPACING)
    folder = write_series(tmp_path / "a", voxels, affine=affine)
    for path in write_series(tmp_path / "b", voxels[..., :3] + 1, affine=affine, number=8).iterdir():
        path.rename(folder / f"other{path.name}")
    with pytest.raises(UserError) as error:
        Volumes(3).read_image(folder)
    for words in (
        "holds 2 DICOM series",
        "1.2.826.0.1.3680043.10.5: CT abdomen 5, 6 slice(s) of 8 x 5 voxels, 1.5 x 0.8 mm, 3 mm apart",
        "1.2.826.0.1.3680043.10.8: CT abdomen 8, 3 slice(s)",
        "series=UID",
    ):
        assert words in str(error.value)
    found, _ = Volumes(3, series="1.2.826.0.1.3680043.10.8").read_image(folder)
    assert found.shape == (1, 8, 5, 3)
    with pytest.raises(UserError, match=r"no series 1\.9"):
        Volumes(3, series="1.9").read_image(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"skip": (2,)}, "lie 3 mm apart, but 6 mm between"),
        ({"skip": (1,)}, "lie 3 mm apart, but 6 mm between"),
        ({"SamplesPerPixel": 3}, "holds colours"),
        ({"NumberOfFrames": "2"}, r"holds 2 frames \(enhanced DICOM\)"),
    ],
)
def test_what_is_no_volume_is_refused_with_the_numbers(tmp_path, voxels, change, words):
    folder = write_series(tmp_path / "a", voxels, affine=oblique(SPACING), **change)
    with pytest.raises(UserError, match=words):
        Volumes(3).read_image(folder)


def altered(folder: Path, *, slices: int, **tags: object) -> None:
    """Changes tags of the first `slices` files."""
    for path in sorted(folder.iterdir())[:slices]:
        data = pydicom.dcmread(path)
        for name, value in tags.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        data.save_as(path)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PixelSpacing": [2.0, 2.0]}, r"have 2 sizes: 4 of 8 x 5 voxels of 1\.5.*, 2 of 8 x 5 voxels of 2"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "have 2 directions: 4 of"),
        ({"ImagePositionPatient": None}, "does not say its position"),
        ({"SeriesInstanceUID": None}, r"lacks the tag\(s\) 0020\|000e"),
    ],
)
def test_slices_that_differ_are_refused(tmp_path, voxels, tags, words):
    folder = write_series(tmp_path / "a", voxels, affine=oblique(SPACING))
    altered(folder, slices=2, **tags)
    with pytest.raises(UserError, match=words):
        Volumes(3).read_image(folder)


def test_several_volumes_in_one_series_are_refused(tmp_path, voxels):
    folder = write_series(tmp_path / "a", voxels, affine=oblique(SPACING))
    for path in list(folder.iterdir()):
        shutil.copy(path, folder / f"{path.name}-later")
    with pytest.raises(UserError, match=r"12 slices .* lie at 6 places"):
        Volumes(3).read_image(folder)


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("damage", ["header", "pixels"])
def test_a_damaged_slice_is_named_and_never_left_out(tmp_path, voxels, place, damage):
    folder = write_series(tmp_path / "a", np.tile(voxels, (9, 9, 1)), affine=oblique(SPACING))
    with Volumes(3).kind_of(folder).opened(folder) as series:
        path = series.paths[place]
    content = path.read_bytes()
    path.write_bytes(content[: 400 if damage == "header" else len(content) // 2])
    with pytest.raises(UserError, match=rf"{path.name}: (cannot be read as DICOM|lacks the tag)"):
        Volumes(3).read_image(folder)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "cannot be unpacked"), (b"PK\3\4no", "cannot be unpacked"), (None, "no DICOM image")]
)
def test_bad_zip_files_are_named(tmp_path, content, words):
    path = tmp_path / "a.zip"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no image")
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.zip: .*{words}"):
        Volumes(3).read_image(path)


def test_inputs_are_series_folders_zip_files_and_files(tmp_path, voxels):
    form = Volumes(3)
    folder = write_series(tmp_path / "in" / "scan.1", voxels, affine=oblique(SPACING))
    (tmp_path / "in" / "empty").mkdir()
    (tmp_path / "in" / "b.nii.gz").touch()
    (tmp_path / "in" / "c.zip").touch()
    assert [case.id for case in find_inputs(tmp_path / "in", file_format=form)] == ["b", "c", "scan.1"]
    (case,) = find_inputs(folder, file_format=form)
    assert (case.id, case.image) == ("scan.1", folder)
    with pytest.raises(UserError, match=r"would overwrite the input .*, or lie in it"):
        label_paths([case], output=folder, file_format=form)
    (folder / "d.nii.gz").touch()
    with pytest.raises(UserError, match=r"several files, and holds other images such as d\.nii\.gz"):
        find_inputs(folder, file_format=form)
    slice_alone = shutil.copy(next(folder.glob("IM*")), tmp_path / "one.dcm")
    with pytest.raises(UserError, match="is one file of a DICOM series"):
        form.read_image(find_inputs(Path(slice_alone), file_format=form)[0].image)


@pytest.mark.parametrize("negated", [(), (2,)])
def test_a_seg_is_read_back_by_other_programs(tmp_path, voxels, negated):
    affine = oblique(SPACING, negated=negated)
    folder = write_series(tmp_path / "a", voxels, affine=affine)
    form = Volumes(3, written=Written(None, NAMES))
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2, 1:5] = 1
    labels[5, 0:3, 3] = 2
    path = form.save_labels(tmp_path / "out" / "case", labels, like=folder)
    assert sorted(file.name for file in path.parent.iterdir()) == ["case.dcm", "case.nii.gz"]
    np.testing.assert_array_equal(form.read_written(path), labels)
    own = form.read_grid(folder).affine

    # highdicom, by the slices that the SEG refers to
    seg = highdicom.seg.segread(tmp_path / "out" / "case.dcm")
    assert [seg.get_segment_description(n).segment_label for n in (1, 2)] == ["liver", "lesion"]
    assert seg.get_segment_description(1).segmented_property_type.value == "10200004"
    sources = {pydicom.dcmread(file).SOPInstanceUID: k for k, file in enumerate(sorted(folder.iterdir()))}
    masks = seg.get_pixels_by_source_instance(list(sources), combine_segments=True)
    # its geometry, by which any place of the world has a label
    volume = seg.get_volume(combine_segments=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    where = places(own, SHAPE)
    inside = at_places(labels, affine=own, where=places(lps @ volume.affine, volume.spatial_shape))
    np.testing.assert_array_equal(volume.array, inside)
    assert volume.array.astype(bool).sum() == labels.astype(bool).sum()
    for uid, k in sources.items():
        first = pydicom.dcmread(sorted(folder.iterdir())[k])
        origin = lps[:3, :3] @ np.array(first.ImagePositionPatient, dtype=float)
        number = int(np.linalg.norm(where[0, 0] - origin, axis=-1).argmin())
        np.testing.assert_array_equal(masks[list(sources).index(uid)], labels[:, :, number].T)

    # pydicom, frame by frame at its position
    data = pydicom.dcmread(tmp_path / "out" / "case.dcm")
    assert (data.Modality, data.PatientID, data.SegmentationType) == ("SEG", "p1", "BINARY")
    rebuilt = np.zeros(SHAPE, np.uint8)
    for frame, about in zip(data.pixel_array, data.PerFrameFunctionalGroupsSequence, strict=True):
        value = about.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        origin = lps[:3, :3] @ np.array(about.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        number = int(np.linalg.norm(where[0, 0] - origin, axis=-1).argmin())
        rebuilt[:, :, number][frame.T > 0] = value
    np.testing.assert_array_equal(rebuilt, labels)

    # SimpleITK, the frames as they are
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "case.dcm")))
    np.testing.assert_array_equal(frames > 0, data.pixel_array > 0)


def test_an_empty_prediction_is_a_seg_too(tmp_path, voxels):
    folder = write_series(tmp_path / "a", voxels, affine=oblique(SPACING))
    form = Volumes(3, written=Written("dicom-seg", NAMES))
    form.save_labels(tmp_path / "out" / "case", np.zeros(SHAPE, np.uint8), like=folder)
    assert not pydicom.dcmread(tmp_path / "out" / "case.dcm").pixel_array.any()


def test_which_kinds_of_label_maps_a_series_has(tmp_path, voxels, monkeypatch):
    folder = write_series(tmp_path / "a", voxels, affine=oblique(SPACING))
    (tmp_path / "b.nii.gz").touch()
    with pytest.raises(UserError, match=r"format=dicom-seg .* is for DICOM series"):
        Volumes(3, written=Written("dicom-seg")).label_path(tmp_path / "out", like=tmp_path / "b.nii.gz")
    labels = np.ones(SHAPE, np.uint8)
    for kind, names in ((None, {"c.nii.gz", "c.dcm"}), ("nrrd", {"c.nrrd"}), ("nifti", {"c.nii.gz"})):
        target = tmp_path / str(kind)
        Volumes(3, written=Written(kind, NAMES)).save_labels(target / "c", labels, like=folder)
        assert {path.name for path in target.iterdir()} == names
    altered(folder, slices=6, FrameOfReferenceUID=None)
    assert Volumes(3, written=Written(None, NAMES)).save_labels(tmp_path / "d", labels, like=folder).exists()
    with pytest.raises(UserError, match="no DICOM SEG can be written"):
        Volumes(3, written=Written("dicom-seg", NAMES)).save_labels(tmp_path / "d", labels, like=folder)
    monkeypatch.setitem(__import__("sys").modules, "highdicom.seg", None)
    with pytest.raises(UserError, match=r"highdicom, which is not installed.*\.\[dicom\]"):
        Volumes(3, written=Written("dicom-seg", NAMES)).label_path(tmp_path / "out", like=folder)


def test_labels_are_not_read_from_dicom(tmp_path, voxels):
    folder = write_series(tmp_path / "a", voxels, affine=oblique(SPACING))
    with pytest.raises(UserError, match="labels are not read from DICOM"):
        Volumes(3).read_label(folder)
