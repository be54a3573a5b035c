"""Figures: the right slice, the right way up, the right colours and shape."""

import numpy as np
import pytest
from PIL import Image

from sct.evaluation.pictures import PALETTE, PANEL_HEIGHT, busiest_slice, figure, overlay, panel

NAMES = ("background", *(f"organ {value}" for value in range(1, 14)))


@pytest.mark.parametrize("with_depth", [True, False])
@pytest.mark.parametrize("with_truth", [True, False])
@pytest.mark.parametrize(
    ("channels", "shape"), [((1,), (24, 16)), ((3,), (24, 16)), ((), (24, 16, 8)), ((4,), (24, 16, 8))]
)
def test_a_panel_for_every_kind_of_input(tmp_path, channels, shape, with_truth, with_depth):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 14, shape)
    depth = rng.integers(0, 4, [size // 8 for size in shape]) if with_depth else None
    path = tmp_path / "made" / "panel.png"
    panel(
        rng.normal(size=(*channels, *shape)), labels if with_truth else None, labels, depth,
        names=NAMES, path=path, num_stages=3, spacing=(1.0, 2.0, 3.0)[: len(shape)], title="case",
    )  # fmt: skip
    picture = Image.open(path)
    assert picture.mode == "RGB"
    assert picture.height > PANEL_HEIGHT
    rows, columns = (24, 32) if len(shape) == 2 else (32, 24)
    num_panels = 2 + with_truth + with_depth
    assert picture.width == pytest.approx(num_panels * PANEL_HEIGHT * columns / rows, rel=0.1)
    assert [file.name for file in path.parent.iterdir()] == ["panel.png"]


def test_an_axial_slice_has_the_front_up_and_the_right_on_the_left():
    image, labels = np.zeros((1, 6, 8, 5)), np.zeros((6, 8, 5), int)
    labels[5, 7, 3] = 1  # RAS: rightmost, front
    picture = overlay(image, labels)
    assert picture.shape == (8, 6, 3)
    assert picture.dtype == np.uint8
    assert tuple(picture[0, 0]) == tuple(PALETTE[0])
    assert not picture[1:].any()
    assert not picture[0, 1:].any()


def test_a_picture_in_2d_is_shown_as_it_is_and_pixels_are_square():
    labels = np.zeros((10, 20), int)
    labels[0:2, 18:20] = 2
    picture = overlay(np.zeros((1, 10, 20)), labels, spacing=(3.0, 1.0))
    assert picture.shape == (30, 20, 3)
    assert tuple(picture[0, 18]) == tuple(PALETTE[1])
    assert not picture[10:].any()
    assert overlay(np.zeros((1, 10, 20, 4)), spacing=(2.0, 1.0, 9.0), height=100).shape == (100, 100, 3)


def test_a_photograph_keeps_its_colours():
    picture = np.stack([np.full((40, 40), value) for value in (0.6, 0.2, -0.2)])
    picture[:, 0, :20], picture[:, 0, 20:] = -1.0, 1.0
    shown = overlay(picture)[20, 20]
    np.testing.assert_allclose(shown, 255 * (np.array([0.6, 0.2, -0.2]) + 1) / 2, atol=1)


def test_depth_is_drawn_patch_by_patch_in_darker_reds():
    depth = np.array([[0, 1], [2, 3]])
    picture = overlay(np.full((1, 16, 16), 7.0), depth=depth, num_stages=3).astype(int)
    tinted = [picture[row, column] for row, column in ((3, 3), (3, 12), (12, 3), (12, 12))]
    assert len(set(tinted[0])) == 1  # dropped first: not shaded
    redness = [color[0] - color[1:].mean() for color in tinted]
    assert all(value > 30 for value in redness[1:])
    brightness = [color.sum() for color in tinted[1:]]
    assert brightness == sorted(brightness, reverse=True)
    assert len(set(brightness)) == 3
    np.testing.assert_array_equal(picture[1:7, 1:7], np.broadcast_to(tinted[0], (6, 6, 3)))


def test_the_slice_with_most_foreground_is_shown():
    labels = np.zeros((4, 4, 6), int)
    assert busiest_slice(labels) == 3
    labels[:2, :, 4], labels[0, 0, 1] = 5, 1
    assert busiest_slice(labels) == 4
    assert busiest_slice(labels[..., 4]) == 0


def test_an_empty_case_still_makes_a_figure():
    empty = np.zeros((16, 16, 4), int)
    assert figure(np.zeros((16, 16, 4)), empty, empty, None, names=NAMES).width > PANEL_HEIGHT


def test_class_colors_are_distinct():
    distances = np.linalg.norm(PALETTE[:, None] - PALETTE[None], axis=-1)
    assert len(PALETTE) >= 14
    assert distances[~np.eye(len(PALETTE), dtype=bool)].min() > 50


def test_slices_first_are_shown_as_they_are():
    labels, depth = np.zeros((3, 10, 20), int), np.zeros((3, 5, 10), int)
    labels[1, :2, 18:] = 2
    depth[1] = 3
    volume = np.random.default_rng(0).normal(size=(1, 3, 10, 20))
    settings = {"names": NAMES, "num_stages": 3, "title": "case"}
    shown = figure(volume, labels, labels, depth, spacing=(9.0, 1.0, 1.0), slices_first=True, **settings)
    alone = figure(volume[:, 1], labels[1], labels[1], depth[1], spacing=(1.0, 1.0), **settings)
    assert shown.size == alone.size
    different = np.argwhere((np.asarray(shown) != np.asarray(alone)).any(axis=-1))
    assert different.size  # the note that says which slice it is
    assert different[:, 0].max() < 40
