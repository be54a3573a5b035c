"""Pictures that a camera held in another way are read upright, and the log says so."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sct.data.cases import Case, LabelMap
from sct.data.check import check_cases
from sct.data.formats.pictures import Pictures
from sct.errors import UserError

UPRIGHT = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3
# what a camera stores of an upright picture (H, W, 3), by the orientation that it writes
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}


def stored(path: Path, *, orientation: int) -> Path:
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_upright(tmp_path, kind, orientation):
    path = stored(tmp_path / f"a.{kind}", orientation=orientation)
    voxels, grid = Pictures(2).read_image(path)
    np.testing.assert_array_equal(voxels, UPRIGHT.transpose(2, 0, 1))
    assert grid.shape == Pictures(2).read_grid(path).shape == (6, 4)


def test_a_jpeg_is_upright_too(tmp_path):
    path = tmp_path / "a.jpg"
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the right of what is stored is below
    Image.fromarray(wide).save(path, exif=exif)
    voxels, grid = Pictures(2).read_image(path)
    assert grid.shape == (32, 16)
    assert voxels[0, :12].max() < 50 < 200 < voxels[0, 20:].min()


def test_orientations_without_sense_are_left_out(tmp_path):
    image, exif = Image.fromarray(UPRIGHT), Image.Exif()
    exif[0x0112] = 0
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(Pictures(2).read_image(tmp_path / "a.png")[0], UPRIGHT.transpose(2, 0, 1))
    assert Pictures(2).remark(tmp_path / "a.png") is None


def check(folder: Path, masks: dict[str, tuple[int, int]]) -> None:
    cases = []
    for name, shape in masks.items():
        Image.fromarray(np.zeros(shape, np.uint8)).save(folder / f"{name}_segmentation.png")
        cases.append(Case(name, folder / f"{name}.png", folder / f"{name}_segmentation.png"))
    check_cases(
        cases,
        label_map=LabelMap(("background", "lesion")),
        num_channels=3,
        file_format=Pictures(2),
        memory=folder / "checked.json",
    )


def test_the_log_says_once_that_pictures_were_turned(tmp_path, caplog):
    for name, orientation in (("a", 1), ("b", 6), ("c", 8)):
        stored(tmp_path / f"{name}.png", orientation=orientation)
    with caplog.at_level(logging.INFO):
        check(tmp_path, {"a": (6, 4), "b": (6, 4), "c": (6, 4)})
    (said,) = [record.getMessage() for record in caplog.records if "EXIF" in record.getMessage()]
    assert said.startswith(f"{tmp_path / 'b.png'} and 1 more: turned upright")


def test_a_mask_of_the_picture_as_stored_is_refused(tmp_path):
    stored(tmp_path / "a.png", orientation=6)
    with pytest.raises(UserError, match=r"a_segmentation\.png: the label has shape \(4, 6\), but its image \(6, 4\)"):
        check(tmp_path, {"a": (4, 6)})


def test_a_tiff_of_several_pictures_is_refused(tmp_path):
    first, second = Image.fromarray(UPRIGHT), Image.fromarray(UPRIGHT)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(UserError, match=r"a\.tif: holds 2 pictures"):
        Pictures(2).read_image(tmp_path / "a.tif")
