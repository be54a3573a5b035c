"""Surfaces and their distances: every way to a distance against brute force, today's tree, and MONAI."""

import math

import numpy as np
import pytest
import torch
from brute_force import brute_distances, brute_surfaces, random_mask
from monai.metrics import compute_surface_dice
from scipy import ndimage
from scipy.spatial import cKDTree

from sct.evaluation import surfaces
from sct.evaluation.metrics import hd95, nsd
from sct.evaluation.surfaces import bounding_box, neighbours, surface_distances


def by_tree(pred, truth, spacing):
    """HD95 by a tree over all points of the surfaces."""
    points = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.asarray(spacing) for mask in (pred, truth)]
    found = [cKDTree(points[1 - own]).query(points[own])[0] for own in (0, 1)]
    return max(np.percentile(distances, 95) for distances in found)


def blobs(rng, shape, *, shift):
    """Two smooth masks of one shape, one of them moved and with another edge."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 2.5)
    other = np.roll(field, shift, axis=range(len(shape))) + 0.01 * rng.standard_normal(shape)
    return field > 0.02, other > 0.02


@pytest.mark.parametrize(("small", "lookups"), [(10**9, 0), (0, 0), (0, 4), (0, 10**9)])
def test_every_way_is_equal_to_brute_force(small, lookups, monkeypatch):
    """By a tree alone, by few lookups and a tree, by lookups as far as they go."""
    monkeypatch.setattr(surfaces, "SMALL", small)
    monkeypatch.setattr(surfaces, "LOOKUPS", lookups)
    rng = np.random.default_rng(6)
    num_compared = 0
    for _ in range(300):
        shape = tuple(rng.integers(1, 12, size=rng.integers(2, 4)))
        spacing = tuple(float(size) for size in rng.uniform(0.3, 5, size=len(shape)))
        pred, truth = random_mask(rng, shape), random_mask(rng, shape)
        tolerance = float(rng.choice([0, rng.uniform(0, 6), 50]))
        want = brute_surfaces(pred, truth, spacing, tolerance)
        found = hd95(pred, truth, spacing=spacing), nsd(pred, truth, spacing=spacing, tolerance=tolerance)
        assert found == pytest.approx(want, abs=1e-9, nan_ok=True)
        num_compared += bool(pred.any() and truth.any())
    assert num_compared > 150


@pytest.mark.parametrize("shift", [0, 1, 4, 9])
@pytest.mark.parametrize("lookups", [10, 150])
def test_hd95_has_the_last_digit_of_a_tree_over_all_points(shift, lookups, monkeypatch):
    """Cards of earlier evaluations are confirmed without a tolerance."""
    monkeypatch.setattr(surfaces, "SMALL", 0)
    monkeypatch.setattr(surfaces, "LOOKUPS", lookups)
    rng = np.random.default_rng(7)
    for spacing in ((0.7, 0.7, 2.5), (1.0, 1.0, 1.0), (0.1, 0.3, 0.2)):
        pred, truth = blobs(rng, (30, 28, 20), shift=shift)
        box = surfaces.join(bounding_box(pred), bounding_box(truth))
        assert hd95(pred, truth, spacing=spacing) == by_tree(pred[box], truth[box], spacing)


def test_what_a_score_needs_is_exact():
    rng = np.random.default_rng(8)
    for reach in (1e-6, 1.5, 4.000001):
        pred, truth = blobs(rng, (26, 24, 22), shift=5)
        spacing = (0.8, 0.8, 2.0)
        for found, want in zip(
            surface_distances(pred, truth, spacing=spacing, reach=reach),
            brute_distances(pred, truth, spacing),
            strict=True,
        ):
            assert len(found) + len(want) > surfaces.SMALL
            np.testing.assert_array_equal(found <= reach, want <= reach)
            rank = int(0.95 * (len(want) - 1))
            assert np.sort(found)[rank : rank + 2] == pytest.approx(np.sort(want)[rank : rank + 2])


def test_a_distance_as_long_as_the_tolerance_is_within_it():
    """0.3 in float32 is above 0.3, and three times 0.1 too."""
    truth = np.zeros((12, 1), bool)
    truth[2:4] = True
    pred = np.roll(truth, 3, axis=0)
    assert nsd(pred, truth, spacing=(0.1, 1.0), tolerance=0.3) == 1.0
    assert nsd(pred, truth, spacing=(float(np.float32(0.1)), 1.0), tolerance=0.3) == 1.0
    assert nsd(pred, truth, spacing=(0.1, 1.0), tolerance=0.2999) == 0.5


def test_nsd_agrees_with_monai_where_monai_is_defined():
    rng = np.random.default_rng(9)
    spacing = [0.7, 1.0, 3.0]
    for tolerance in (0.0, 0.9, 2.0):
        for _ in range(10):
            pred, truth = rng.random((2, 9, 8, 7)) < 0.3
            want = compute_surface_dice(
                torch.tensor(pred)[None, None], torch.tensor(truth)[None, None],
                class_thresholds=[tolerance], include_background=True, spacing=spacing,
            )  # fmt: skip
            assert nsd(pred, truth, spacing=spacing, tolerance=tolerance) == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 4.0), (1.0, 1.0, 1.0), (0.01, 10.0, 10.0), (0.8, 0.8, 2.5)])
def test_neighbours_come_the_nearest_first_and_none_is_left_out(spacing):
    near = neighbours(spacing)
    lengths = np.linalg.norm(near.steps * np.array(spacing), axis=1)
    assert (np.diff(lengths) > -1e-9).all()
    assert not near.steps[0].any()
    assert near.ends[-1] == len(near.steps)
    assert len({tuple(step) for step in near.steps}) == len(near.steps)
    # all of a larger box that are nearer than the last are among them
    most = [min(int(lengths[-1] / size) + 2, 500) for size in spacing]
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), -1).reshape(-1, len(spacing))
    nearer = np.linalg.norm(grid * np.array(spacing), axis=1) < lengths[-1] - 1e-9
    assert {tuple(step) for step in grid[nearer]} <= {tuple(step) for step in near.steps}


def test_a_box_is_the_smallest():
    rng = np.random.default_rng(10)
    for _ in range(200):
        mask = rng.random(tuple(rng.integers(1, 7, size=rng.integers(1, 4)))) < 0.1
        want = ndimage.find_objects(mask.astype(np.uint8), max_label=1)[0]
        for order in "CF":
            assert bounding_box(np.array(mask, order=order)) == want
        assert bounding_box(mask[::-1]) == ndimage.find_objects(mask[::-1].astype(np.uint8), max_label=1)[0]


def test_nothing_is_farther_than_the_image_is_long():
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    assert nsd(mask, np.zeros_like(mask), spacing=(1, 1), tolerance=100) == 0.0
    assert math.isnan(nsd(mask & False, mask & False, spacing=(1, 1), tolerance=1))
