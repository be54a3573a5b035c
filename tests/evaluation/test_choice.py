"""The choice of post-processing: by the scores that an evaluation with it has, and only where it is better."""

import numpy as np
import pytest

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, Regions
from sct.errors import UserError
from sct.evaluation.choice import CANDIDATES, Trial
from sct.evaluation.metrics import score_case, summarize
from sct.inference.postprocess import Postprocessing, Steps

OUTPUTS = Classes(LabelMap(("background", "liver", "spleen", "lesion")))
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])  # 10 mm^3 a voxel


def truth_of(liver=True, spleen=True):
    truth = np.zeros((12, 12, 6), np.uint8)
    if liver:
        truth[1:6, 1:6, 1:5] = 1
    if spleen:
        truth[8:11, 8:11, 1:5] = 2
    return truth


def chosen(*pairs):
    trial = Trial(OUTPUTS)
    for pred, truth in pairs:
        trial.add(pred, truth, affine=AFFINE)
    return trial.choose()


def test_each_class_gets_what_raises_its_own_score():
    pred = truth_of()
    pred[2:4, 2:4, 2:4] = 0  # a hole in the liver
    pred[11, 0, 0] = 2  # a stray voxel of the spleen
    found, gains = chosen((pred, truth_of()))
    assert found.settings(OUTPUTS) == {"liver": {"fill_holes": True}, "spleen": {"largest": True}}
    assert gains["liver"]["with"] == gains["spleen"]["with"] == 1.0
    assert gains["spleen"]["without"] == pytest.approx(2 * 36 / (37 + 36))
    np.testing.assert_array_equal(found.apply(pred, affine=AFFINE), truth_of())


def test_two_true_parts_keep_the_largest_step_out():
    truth = truth_of()
    truth[8:10, 1:3, 1:3] = 1  # 8 voxels, 80 mm^3
    pred = truth.copy()
    pred[0, 11, 0] = 1  # 10 mm^3
    found, _ = chosen((pred, truth))
    assert found.settings(OUTPUTS) == {"liver": {"smallest": 30.0}}


def test_a_step_that_helps_one_case_and_hurts_more_is_not_taken():
    stray, halved = truth_of(), truth_of()
    stray[11, 0, 0] = 1
    halved[3, 1:6, 1:5] = 0  # the true liver in two parts
    assert chosen((stray, truth_of()))[0].settings(OUTPUTS) == {"liver": {"largest": True}}
    found, gains = chosen((stray, truth_of()), (halved, truth_of()))
    assert found.settings(OUTPUTS) == {"liver": {"smallest": 30.0}}
    assert gains["liver"]["with"] > gains["liver"]["without"]


def test_a_perfect_prediction_gets_no_step():
    found, gains = chosen((truth_of(), truth_of()))
    assert not found
    assert gains == {}


def test_a_class_that_no_case_has_gets_no_step():
    pred = truth_of()
    pred[11, 0, 0] = 3
    found, _ = chosen((pred, truth_of()))
    assert found.settings(OUTPUTS) == {}


def test_a_false_positive_that_is_taken_away_is_absent():
    without = truth_of(spleen=False)
    pred = without.copy()
    pred[11, 11, 0] = 2
    good = truth_of()
    good[8, 8:11, 1:5] = 0
    found, gains = chosen((pred, without), (good, truth_of()))
    assert found.settings(OUTPUTS) == {"spleen": {"smallest": 30.0}}
    assert gains["spleen"] == {"without": pytest.approx(0.4), "with": pytest.approx(0.8)}


def random_case(rng):
    truth = rng.choice(4, p=[0.55, 0.2, 0.15, 0.1], size=(9, 8, 6)).astype(np.uint8)
    pred = np.where(rng.random(truth.shape) < 0.25, rng.integers(0, 4, truth.shape), truth).astype(np.uint8)
    if rng.random() < 0.3:
        pred[pred == 2] = 0
    return pred, truth


def test_scores_of_candidates_are_those_of_an_evaluation():
    rng = np.random.default_rng(0)
    cases = [random_case(rng) for _ in range(4)]
    # a class that is in neither map, and one that is in one of them alone
    cases.append(tuple(np.where(labels == 3, 0, labels) for labels in random_case(rng)))
    cases[1] = (cases[1][0], np.where(cases[1][1] == 1, 0, cases[1][1]))
    trial = Trial(OUTPUTS)
    for pred, truth in cases:
        trial.add(pred, truth, affine=AFFINE)
    for number, steps in enumerate(CANDIDATES):
        post = Postprocessing(dict.fromkeys((1, 2, 3), steps))
        rows = [
            row
            for case, (pred, truth) in enumerate(cases)
            for row in score_case(
                post.apply(pred, affine=AFFINE), truth, outputs=OUTPUTS, spacing=(1, 1, 1), case_id=str(case),
                surface=False,
            )
        ]  # fmt: skip
        for name, (value,) in OUTPUTS.scored.items():
            want = [row.dice for row in rows if row.class_name == name]
            assert [row[number] for row in trial.scores[value]] == pytest.approx(want, nan_ok=True)


def test_what_is_chosen_never_lowers_the_mean():
    rng = np.random.default_rng(1)
    for _ in range(10):
        cases = [random_case(rng) for _ in range(3)]
        found, gains = chosen(*cases)

        def score(post, cases=cases):
            rows = [
                row
                for number, (pred, truth) in enumerate(cases)
                for row in score_case(
                    post.apply(pred, affine=AFFINE), truth, outputs=OUTPUTS, spacing=(1, 1, 1), case_id=str(number)
                )
            ]
            return summarize(rows)["dice"]

        before, after = score(Postprocessing()), score(found)
        assert after["mean"] >= before["mean"]
        for name, gain in gains.items():
            assert after["per_class"][name] == pytest.approx(gain["with"])
            assert before["per_class"][name] == pytest.approx(gain["without"])


def test_candidates_begin_with_nothing():
    assert CANDIDATES[0] == Steps()
    assert len(set(CANDIDATES)) == len(CANDIDATES)


def test_regions_are_refused():
    regions = Regions.from_settings(OUTPUTS.label_map, {"all": [1, 2]})
    with pytest.raises(UserError, match="Post-processing is for classes"):
        Trial(regions).add(truth_of(), truth_of(), affine=AFFINE)
