"""Voxels to ignore count in no score: the scores are of the other voxels alone."""

import numpy as np
import pytest
import torch

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, Regions
from sct.evaluation.metrics import DISTANCES, OVERLAPS, quick_dice, score_case

NAMES = ("background", "a", "b")
MAP, FULL = LabelMap(NAMES, has_ignored=True), LabelMap(NAMES)
REGIONS = {"all": [1, 2], "inner": [2]}


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth (12, 10, 8), the last three planes of the truth to be ignored."""
    rng = np.random.default_rng(0)
    pred, truth = (np.zeros((12, 10, 8), dtype=np.uint8) for _ in range(2))
    for labels in (pred, truth):
        for value in (1, 2):
            start = rng.integers(0, 4, 3)
            labels[tuple(slice(s, s + 5) for s in start)] = value
    pred[-2:, 2:5, 3:] = 2  # where nobody knows
    truth[-3:] = 3
    return pred, truth


@pytest.mark.parametrize("make", [Classes, lambda label_map: Regions.from_settings(label_map, REGIONS)])
def test_scores_are_of_the_others_alone(maps: tuple[np.ndarray, np.ndarray], make) -> None:
    pred, truth = maps
    settings = {"spacing": [2.0, 1.0, 1.0], "case_id": "x"}
    found = score_case(pred, truth, outputs=make(MAP), **settings)
    alone = score_case(pred[:-3], truth[:-3], outputs=make(FULL), **settings)
    for row, other in zip(found, alone, strict=True):
        for name in (*OVERLAPS, *DISTANCES, "missed", "false_positive"):
            assert getattr(row, name) == pytest.approx(getattr(other, name), nan_ok=True), name
    quick = quick_dice(torch.from_numpy(pred), torch.from_numpy(truth), outputs=make(MAP))
    np.testing.assert_array_equal(quick, quick_dice(pred[:-3], truth[:-3], outputs=make(FULL)))
    np.testing.assert_allclose(quick, [row.dice for row in found])


def test_a_class_that_is_predicted_where_nobody_knows_is_absent() -> None:
    pred, truth = np.ones((4, 4), dtype=np.uint8), np.full((4, 4), 3, dtype=np.uint8)
    assert all(
        row.absent and not row.false_positive
        for row in score_case(pred, truth, outputs=Classes(MAP), spacing=[1, 1], case_id="x")
    )
    assert np.isnan(quick_dice(pred, truth, outputs=Classes(MAP))).all()
