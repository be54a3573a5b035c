"""Metrics against brute force, and the properties that no policy on empty masks may break."""

import math

import numpy as np
import pytest
from brute_force import brute_counts, brute_dice, brute_surfaces, random_mask

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, numbered
from sct.evaluation.metrics import (
    SHARES,
    Row,
    diagonal,
    dice,
    hd95,
    nsd,
    quick_dice,
    score_case,
    summarize,
    unique_rows,
)

OUTPUTS = Classes(LabelMap(("background", "liver", "spleen", "aorta")))


def row(case_id, class_name, dice, hd95_mm, *, missed=False):
    return Row(case_id=case_id, class_name=class_name, dice=dice, hd95_mm=hd95_mm, missed=missed, false_positive=False)


def test_equal_to_brute_force_on_1000_random_masks():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(1000):
        shape = tuple(rng.integers(1, 8, size=rng.integers(2, 4)))
        spacing = tuple(rng.uniform(0.3, 5, size=len(shape)))
        pred, truth = random_mask(rng, shape), random_mask(rng, shape)
        seen.add((bool(pred.any()), bool(truth.any())))
        assert dice(pred, truth) == pytest.approx(brute_dice(pred, truth), abs=1e-12, nan_ok=True)
        tolerance = float(rng.uniform(0, 6))
        want, share = brute_surfaces(pred, truth, spacing, tolerance)
        assert hd95(pred, truth, spacing=spacing) == pytest.approx(want, abs=1e-9, nan_ok=True)
        row = score_case(
            pred.astype(np.uint8),
            truth.astype(np.int64),
            spacing=spacing,
            outputs=numbered(2),
            case_id="a",
            tolerance={"1": tolerance},
        )[0]
        assert row.dice == pytest.approx(brute_dice(pred, truth), abs=1e-12, nan_ok=True)
        for name, value in brute_counts(pred, truth).items():
            assert getattr(row, name) == pytest.approx(value, abs=1e-12, nan_ok=True), name
        assert row.hd95_mm == pytest.approx(want, abs=1e-9, nan_ok=True)
        assert row.nsd == pytest.approx(share, abs=1e-12, nan_ok=True)
        assert nsd(pred, truth, spacing=spacing, tolerance=tolerance) == pytest.approx(share, abs=1e-12, nan_ok=True)
        assert math.isnan(row.hd95_voxel)
        assert row.missed == (truth.any() and not pred.any())
        assert row.false_positive == (pred.any() and not truth.any())
        assert row.absent == (not pred.any() and not truth.any())
    assert len(seen) == 4


def random_labels(rng, shape=(7, 6, 5)):
    labels = np.zeros(shape, np.uint8)
    for value in rng.permutation([1, 2, 3]):
        if rng.random() < 0.7:
            labels[random_mask(rng, shape)] = value
    return labels


def test_deleting_an_organ_never_improves_anything():
    rng = np.random.default_rng(1)
    spacing = (0.8, 1.5, 4.0)
    num_deleted = 0
    for _ in range(200):
        cases = [(random_labels(rng), random_labels(rng)) for _ in range(3)]

        def scores(cases=cases):
            rows = [
                row
                for number, (pred, truth) in enumerate(cases)
                for row in score_case(pred, truth, spacing=spacing, outputs=OUTPUTS, case_id=str(number))
            ]
            return rows, summarize(rows, groups={"pair": ("liver", "aorta")})

        rows, before = scores()
        pred, truth = cases[0]
        for value in set(np.unique(truth)) & set(np.unique(pred)) - {0}:
            cases[0] = (np.where(pred == value, 0, pred), truth)
            fewer_rows, after = scores()
            num_deleted += 1
            for old, new in zip(rows, fewer_rows, strict=True):
                for name in SHARES:
                    assert not getattr(new, name) > getattr(old, name), name
                assert not new.hd95_mm < old.hd95_mm
            assert after["n_missed"] == before["n_missed"] + 1
            for old, new in (
                *((before[name]["mean"], after[name]["mean"]) for name in SHARES),
                *((before[name]["groups"]["pair"], after[name]["groups"]["pair"]) for name in SHARES),
                (after["hd95_mm"]["mean"], before["hd95_mm"]["mean"]),
                (after["hd95_mm"]["groups"]["pair"], before["hd95_mm"]["groups"]["pair"]),
            ):
                assert (new is None) == (old is None)
                assert old is None or new <= old + 1e-12
    assert num_deleted > 100


def test_flips_and_axis_order_change_nothing():
    rng = np.random.default_rng(2)
    for _ in range(50):
        pred, truth, spacing = random_labels(rng), random_labels(rng), rng.uniform(0.5, 4, 3)
        order, flipped = rng.permutation(3), [axis for axis in range(3) if rng.random() < 0.5]

        def turn(labels, order=order, axes=flipped):
            return np.flip(labels.transpose(order), axes)

        rows = score_case(pred, truth, spacing=spacing, outputs=OUTPUTS, case_id="a")
        turned = score_case(turn(pred), turn(truth), spacing=spacing[order], outputs=OUTPUTS, case_id="a")
        for old, new in zip(rows, turned, strict=True):
            assert new.dice == pytest.approx(old.dice, nan_ok=True)
            assert new.hd95_mm == pytest.approx(old.hd95_mm, nan_ok=True)
            assert new.nsd == pytest.approx(old.nsd, nan_ok=True)
            assert (new.missed, new.false_positive) == (old.missed, old.false_positive)


def test_agrees_with_monai_where_monai_is_defined():
    import torch
    from monai.metrics import compute_hausdorff_distance

    rng = np.random.default_rng(3)
    spacing = [0.7, 1.0, 3.0]
    for _ in range(20):
        pred, truth = rng.random((2, 9, 8, 7)) < 0.3
        want = compute_hausdorff_distance(
            torch.tensor(pred)[None, None], torch.tensor(truth)[None, None],
            include_background=True, percentile=95, spacing=spacing,
        )  # fmt: skip
        assert hd95(pred, truth, spacing=spacing) == pytest.approx(want.item(), rel=1e-5)


def test_the_cheap_dice_equals_the_true_one():
    rng = np.random.default_rng(4)
    for _ in range(50):
        pred, truth = random_labels(rng), random_labels(rng)
        rows = score_case(pred, truth, spacing=(1, 1, 1), outputs=OUTPUTS, case_id="a", surface=False)
        np.testing.assert_allclose(quick_dice(pred, truth, outputs=OUTPUTS), [row.dice for row in rows])
        assert all(math.isnan(row.hd95_mm) and math.isnan(row.nsd) for row in rows)


def test_summary_means_over_cases_first_and_drops_doubles():
    rows = [
        row("b", "liver", 0.5, 4.0),
        row("b", "spleen", 0.0, 100.0, missed=True),
        row("a", "liver", 1.0, 0.0),
        row("a", "spleen", math.nan, math.nan),
        row("a", "aorta", math.nan, math.nan),
        row("b", "aorta", math.nan, math.nan),
    ]
    summary = summarize(rows + rows[:3], groups={"liver only": ["liver"]})
    assert summary["dice"]["per_class"] == {"liver": 0.75, "spleen": 0.0, "aorta": None}
    assert summary["dice"]["mean"] == 0.375
    assert summary["hd95_mm"]["mean"] == 51.0
    assert summary["dice"]["groups"] == {"liver only": 0.75}
    assert {key: summary[key] for key in ("n_cases", "n_missed", "n_false_positive", "n_absent")} == {
        "n_cases": 2, "n_missed": 1, "n_false_positive": 0, "n_absent": 3,
    }  # fmt: skip
    assert summary["counts_per_class"]["spleen"]["n_missed"] == 1
    assert [row.case_id for row in unique_rows(rows + rows)] == ["a"] * 3 + ["b"] * 3
    with pytest.raises(ValueError, match="kidney"):
        summarize(rows, groups={"kidneys": ["kidney"]})


def test_a_distance_in_voxels_never_stands_under_mm():
    truth = np.zeros((6, 8), np.uint8)
    truth[1:3, 1:3] = 1
    rows = score_case(np.roll(truth, 3, axis=1), truth, spacing=(1, 1), unit="voxel", outputs=numbered(2), case_id="a")
    assert rows[0].hd95_voxel == 3.0
    assert math.isnan(rows[0].hd95_mm)
    summary = summarize(rows)
    assert summary["hd95_voxel"]["mean"] == 3.0
    assert "hd95_mm" not in summary
    mixed = summarize([*rows, row("b", "x", 0.5, 7.5)])
    assert (mixed["hd95_voxel"]["mean"], mixed["hd95_mm"]["mean"]) == (3.0, 7.5)


def test_the_tolerance_is_of_a_class():
    truth = np.zeros((12, 12), np.uint8)
    truth[2:5, 2:5], truth[7:10, 7:10] = 1, 2
    pred = np.roll(truth, 1, axis=0)
    rows = score_case(
        pred, truth, spacing=(2, 2), outputs=numbered(3), case_id="a", tolerance={"2": 2.0}
    )  # the first class has the usual tolerance of 1, below the shift
    want = [brute_surfaces(pred == value, truth == value, (2, 2), tol)[1] for value, tol in ((1, 1.0), (2, 2.0))]
    assert [row.nsd for row in rows] == pytest.approx(want)
    assert rows[1].nsd == 1.0
    assert rows[0].nsd < 1.0
    summary = summarize(rows)
    assert summary["nsd"]["per_class"] == {"1": pytest.approx(want[0]), "2": 1.0}


def test_maps_in_any_order_of_memory_score_alike():
    rng = np.random.default_rng(5)
    for _ in range(20):
        pred, truth = random_labels(rng), random_labels(rng)
        turned = np.asfortranarray(truth)
        settings = {"spacing": (1, 2, 3), "outputs": OUTPUTS, "case_id": "a"}
        assert repr(score_case(pred, turned, **settings)) == repr(score_case(pred, truth, **settings))


def test_the_diagonal_is_physical():
    assert diagonal((3, 4, 1), spacing=(1, 1, 12)) == 13.0


def test_maps_on_different_grids_are_an_error():
    with pytest.raises(ValueError, match="case x"):
        score_case(np.zeros((2, 2), int), np.zeros((2, 3), int), spacing=(1, 1), outputs=OUTPUTS, case_id="x")


def test_of_a_case_that_was_scored_twice_the_first_row_counts():
    first, second = (
        Row(case_id="a", class_name="liver", dice=dice, missed=False, false_positive=False) for dice in (0.25, 0.75)
    )
    assert unique_rows([first, second]) == [first]
    assert summarize([first, second])["dice"]["mean"] == 0.25
