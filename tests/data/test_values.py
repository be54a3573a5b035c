"""Values are checked after conversion: headers, units, normalisation, labels of any number."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from little_data import save, scale
from monai.transforms import NormalizeIntensityd

from sct.data.cases import Case, LabelMap
from sct.data.check import find_faults, load_new
from sct.data.formats.base import Nifti
from sct.data.loading.transforms import Preprocess
from sct.errors import UserError


def preprocess(**settings):
    settings = {"roi_size": [4, 4, 4], "spacing": None, "intensity": scale(), "crop_above": None, **settings}
    return Preprocess(file_format=Nifti(3), axes="RAS", **settings)


def faults(path, **settings):
    return find_faults(
        Case("a", path, None),
        label_map=LabelMap(("background", "organ")),
        num_channels=1,
        file_format=Nifti(3),
        preprocess=preprocess(**settings),
    )


def noise():
    return np.random.default_rng(0).normal(100, 10, (8, 8, 8)).astype(np.float32)


def zscore():
    return NormalizeIntensityd(keys=["image"])


@pytest.mark.parametrize(("value", "words"), [(-3.4e38, "one constant after"), (1e30, "one constant after")])
def test_padding_that_ruins_the_normalisation_is_named(tmp_path, value, words):
    voxels = noise()
    voxels[0, 0, 0] = value
    path = save(tmp_path / "a.nii.gz", voxels, affine=np.eye(4))
    (fault,) = faults(path, intensity=zscore())
    assert str(path) in fault
    assert words in fault
    assert f"{value:.4g}" in fault
    # clipped, the value does no harm
    assert faults(path) == []


def test_what_the_normalisation_makes_infinite_is_named(tmp_path):
    path = save(tmp_path / "a.nii.gz", noise(), affine=np.eye(4))
    (fault,) = faults(path, intensity=lambda sample: {"image": sample["image"] / 0})
    assert "is not finite after normalisation" in fault


def test_an_image_of_one_value_is_no_fault(tmp_path):
    assert faults(save(tmp_path / "a.nii.gz", np.full((8, 8, 8), 7.0), affine=np.eye(4)), intensity=zscore()) == []


@pytest.mark.parametrize(("code", "factor"), [("mm", 1), ("unknown", 1), ("meter", 1000), ("micron", 0.001)])
def test_the_unit_of_length_is_that_of_the_header(tmp_path, code, factor):
    image = nib.Nifti1Image(noise(), np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_xyzt_units(xyz=code)
    nib.save(image, tmp_path / "a.nii.gz")
    found = Nifti(3).read_grid(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(found.spacing, np.array([2.0, 2.0, 3.0]) * factor)
    wrong = faults(tmp_path / "a.nii.gz", spacing=[1.5, 1.5, 2.0])
    assert bool(wrong) == (factor != 1)
    assert all("unit of length" in fault for fault in wrong)


def test_an_unknown_unit_is_refused(tmp_path):
    image = nib.Nifti1Image(noise(), np.eye(4))
    image.header["xyzt_units"] = 5
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(UserError, match="xyzt_units=5"):
        Nifti(3).read_grid(tmp_path / "a.nii")


RGB = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("voxels", "words"), [(RGB, "colours"), (np.ones((4, 4, 4), dtype=np.complex64), "complex numbers")]
)
def test_voxels_that_are_no_numbers_are_refused(tmp_path, voxels, words):
    path = save(tmp_path / "a.nii.gz", voxels, affine=np.eye(4))
    with pytest.raises(UserError, match=words):
        Nifti(3).read_image(path)


HEADERS = [
    (112, "<f4", (1.0, np.nan)),
    (70, "<i2", (999,)),
    (46, "<i2", (0,)),
    (46, "<i2", (-20,)),
    (108, "<f4", (np.inf,)),
]


@pytest.mark.parametrize(("offset", "kind", "values"), HEADERS)
def test_a_header_that_makes_no_sense_is_one_message(tmp_path, offset, kind, values):
    path = save(tmp_path / "a.nii", np.rint(noise()).astype(np.int16), affine=np.eye(4))
    content = bytearray(path.read_bytes())
    field = np.array(values, dtype=kind).tobytes()
    content[offset : offset + len(field)] = field
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        Nifti(3).read_image(path)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint16, np.float64])
def test_more_than_255_labels_stay_what_they_are(tmp_path, kind):
    label = (np.arange(8 * 8 * 8) % 300).reshape(8, 8, 8).astype(kind)
    case = Case(
        "a",
        save(tmp_path / "a.nii.gz", noise(), affine=np.eye(4)),
        save(tmp_path / "b.nii.gz", label, affine=np.eye(4)),
    )
    prepared = preprocess()(case)
    np.testing.assert_array_equal(prepared.label, label)
    assert len(prepared.foreground.sizes) == 300
    assert prepared.volume().label.max() == 299


def loaded(path, **settings):
    """The image of a file as a prediction loads it."""
    data = SimpleNamespace(format=Nifti(3), preprocess=preprocess(**settings), num_channels=1)
    return load_new(Case("a", path, None), data=data).image


def test_a_new_image_is_loaded_as_one_of_the_data_set_in_one_reading(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii.gz", np.rint(noise()).astype(np.int16), affine=np.eye(4))
    expected = preprocess(spacing=[1.5, 1.5, 2.0])(Case("a", path, None)).image
    readings = []
    original = Nifti.read_stored
    monkeypatch.setattr(Nifti, "read_stored", lambda self, image: readings.append(image) or original(self, image))
    monkeypatch.setattr(Nifti, "read_image", None)
    np.testing.assert_array_equal(loaded(path, spacing=[1.5, 1.5, 2.0]), expected)
    assert readings == [path]


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.4e38, 1e30])
def test_what_the_check_finds_in_an_image_is_found_where_it_is_loaded(tmp_path, value):
    voxels = noise()
    voxels[0, 0, 0] = value
    path = save(tmp_path / "a.nii.gz", voxels, affine=np.eye(4))
    with pytest.raises(UserError) as caught:
        loaded(path, intensity=zscore())
    assert str(caught.value).splitlines() == faults(path, intensity=zscore())
    if np.isfinite(value):
        # clipped, the value does no harm
        assert loaded(path).shape == (1, 8, 8, 8)


def test_whole_numbers_that_become_infinite_and_a_wrong_unit_are_found_where_they_are_loaded(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.rint(noise()).astype(np.int16), affine=np.eye(4))
    with pytest.raises(UserError, match=r"is not finite after normalisation .* from \d+ to \d+"):
        loaded(path, intensity=lambda sample: {"image": sample["image"] / 0})
    large = save(tmp_path / "b.nii.gz", np.rint(noise()).astype(np.int16), affine=np.diag([2e3, 2e3, 3e3, 1.0]))
    with pytest.raises(UserError, match="unit of length"):
        loaded(large, spacing=[1.5, 1.5, 2.0])
