"""Pictures as files: what is read, refused and written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sct.data.formats.pictures import Pictures
from sct.errors import UserError

COLOURS = np.array([[[255, 0, 10], [1, 2, 3], [9, 8, 7]], [[0, 0, 0], [4, 5, 6], [200, 100, 50]]], dtype=np.uint8)


def stored(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_a_picture_is_channels_rows_columns(tmp_path):
    path = stored(tmp_path / "a.png", COLOURS)
    voxels, grid = Pictures(2).read_image(path)
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, COLOURS.transpose(2, 0, 1))
    for found in (grid, Pictures(2).read_grid(path)):
        assert (found.shape, found.num_channels, found.unit) == ((2, 3), 3, "voxel")
        np.testing.assert_array_equal(found.affine, np.eye(4))


def test_a_jpeg_is_read_up_to_its_loss(tmp_path):
    smooth = np.broadcast_to(np.linspace(40, 200, 32)[:, None, None], (32, 24, 3)).astype(np.uint8)
    voxels, _ = Pictures(2).read_image(stored(tmp_path / "a.jpg", smooth, quality=95))
    assert np.abs(voxels - smooth.transpose(2, 0, 1)).max() < 6


def test_grey_and_opaque_pictures_become_rgb(tmp_path):
    grey, _ = Pictures(2).read_image(stored(tmp_path / "grey.png", COLOURS[..., 0]))
    np.testing.assert_array_equal(grey, np.stack([COLOURS[..., 0]] * 3))
    opaque = np.concatenate([COLOURS, np.full((2, 3, 1), 255, np.uint8)], axis=-1)
    voxels, _ = Pictures(2).read_image(stored(tmp_path / "opaque.png", opaque))
    np.testing.assert_array_equal(voxels, COLOURS.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.concatenate([COLOURS, COLOURS[..., :1]], axis=-1), "transparent"),
        (COLOURS[..., 0].astype(np.uint16), "mode I;16"),
    ],
)
def test_other_kinds_are_refused(tmp_path, pixels, reason):
    with pytest.raises(UserError, match=f"a.png.*{reason}.*Convert"):
        Pictures(2).read_image(stored(tmp_path / "a.png", pixels))


@pytest.mark.parametrize("high", [1, 255, True])
def test_masks_are_two_levels(tmp_path, high):
    mask = np.array([[0, high, 0], [high, high, 0]], dtype=bool if high is True else np.uint8)
    label, grid = Pictures(2).read_label(stored(tmp_path / "a.png", mask))
    np.testing.assert_array_equal(label, mask > 0)
    assert grid.num_channels == 1


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.array([[0, 127, 255]], dtype=np.uint8), r"3 grey level\(s\) \(0, 127, 255"),
        (np.array([[0, 254]], dtype=np.uint8), "0, 254"),
        (COLOURS, "mode RGB"),
    ],
)
def test_other_masks_are_refused(tmp_path, mask, reason):
    with pytest.raises(UserError, match=f"a.png.*{reason}"):
        Pictures(2).read_label(stored(tmp_path / "a.png", mask))


@pytest.mark.parametrize(("num_classes", "values"), [(2, [0, 255]), (4, [0, 1, 3])])
def test_predictions_are_read_back(tmp_path, num_classes, values):
    labels = np.array([[0, 1], [num_classes - 1, 0]], dtype=np.uint8)
    pictures = Pictures(num_classes)
    path = pictures.save_labels(tmp_path / "made" / "ISIC_1", labels, like=tmp_path / "ISIC_1.jpg")
    assert path == tmp_path / "made" / "ISIC_1_segmentation.png"
    assert np.unique(np.asarray(Image.open(path))).tolist() == values
    np.testing.assert_array_equal(pictures.read_label(path)[0], labels)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_images_are_told_from_what_lies_beside_them():
    names = "a.jpg", "b.JPEG", "c.png", "ATTRIBUTION.txt", ".d.jpg", "a_superpixels.png", "a_segmentation.png"
    assert [name for name in names if Pictures(2).is_image(Path(name))] == ["a.jpg", "b.JPEG", "c.png"]
    assert Pictures(2).stem(Path("x/b.JPEG")) == "b"
