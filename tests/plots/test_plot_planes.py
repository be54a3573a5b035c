"""The right slice, the right way up, and patches over the pixels they stand for."""

import numpy as np
import pytest

from sct.plots.planes import edges, enlarge, faded, grey, outline, view
from sct.plots.style import new_figure


def test_a_volume_is_shown_at_its_busiest_slice_and_patches_go_with_it() -> None:
    labels = np.zeros((6, 8, 4), int)
    labels[5, 7, 2] = 1  # RAS: rightmost, front
    image = np.random.default_rng(0).normal(size=(1, 6, 8, 4))
    shown = view(image, labels, spacing=(2.0, 3.0, 9.0))
    assert (shown.index, shown.depth, shown.note) == (2, 4, "slice 3 of 4")
    assert shown.picture.shape == (8, 6, 3)
    # rows run from front to back, columns from right to left
    assert shown.aspect == pytest.approx(3 / 2)
    assert shown.height == pytest.approx(8 * 3 / (6 * 2))
    assert np.argwhere(shown.of(labels)).tolist() == [[0, 0]]
    patches = np.zeros((3, 4, 2))
    patches[2, 3, 1] = 1
    assert np.argwhere(shown.of(patches)).tolist() == [[0, 0]]
    assert view(image, labels, spacing=(1, 1, 1), index=0).of(labels).sum() == 0


def test_slices_first_are_shown_as_they_are() -> None:
    labels = np.zeros((3, 4, 6), int)
    labels[1, 0, 5] = 2
    image = np.zeros((1, 3, 4, 6))
    image[0, 1, 3, 2] = 1
    shown = view(image, labels, spacing=(9.0, 3.0, 1.0), slices_first=True)
    assert (shown.index, shown.aspect, shown.note) == (1, 3.0, "slice 2 of 3")
    np.testing.assert_array_equal(shown.of(labels), labels[1])
    assert np.argwhere(shown.picture[..., 0] > 0).tolist() == [[3, 2]]


def test_a_picture_has_no_slice() -> None:
    shown = view(np.zeros((3, 4, 6)), np.zeros((4, 6), int), spacing=(1.0, 2.0))
    assert (shown.note, shown.aspect) == ("", 0.5)
    assert shown.of(np.ones((2, 3))).shape == (2, 3)


def test_photographs_keep_their_hues() -> None:
    image = np.stack([np.linspace(0.5, 1, 50), np.linspace(0.25, 0.5, 50), np.zeros(50)])[:, None]
    picture = view(image, np.zeros((1, 50), int), spacing=(1, 1)).picture[0].astype(float)
    np.testing.assert_allclose(picture[10:40, 1], picture[10:40, 0] / 2, atol=2)


def test_values_of_patches_at_every_pixel() -> None:
    patches = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(enlarge(patches, (4, 6, 3)), np.kron(patches, np.ones((2, 2))))
    assert edges((4, 6)) == (-0.5, 5.5, 3.5, -0.5)


def test_grey_is_the_mean_of_the_colours() -> None:
    assert grey(np.array([[[30, 60, 0]]], np.uint8)).tolist() == [[[30, 30, 30]]]


def test_an_outline_is_closed_at_the_border_and_around_its_pixels() -> None:
    axes = new_figure(1.0).subplots()
    mask = np.zeros((4, 5), bool)
    mask[:2, 3:] = True
    outline(axes, mask)
    points = np.concatenate([path.vertices for path in axes.collections[-1].get_paths()])
    assert points.min(axis=0).tolist() == [2.5, -0.5]
    assert points.max(axis=0).tolist() == [4.5, 1.5]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 4.5), (3.5, -0.5))
    count = len(axes.collections)
    outline(axes, np.zeros((4, 5), bool))
    assert len(axes.collections) == count


def test_pruned_patches_are_pale() -> None:
    picture = np.full((4, 6, 3), (200, 100, 0), np.uint8)
    kept = np.array([[True, False, False], [False, False, True]])
    result = faded(picture, kept)
    expected = np.kron(kept, np.ones((2, 2)))
    np.testing.assert_array_equal((result == picture).all(axis=-1), expected)
    assert set(map(tuple, result[expected == 0].tolist())) == {(216, 216, 216)}
