"""Classes and regions: label values, masks and logits into each other, by hand."""

import itertools

import numpy as np
import pytest
import torch

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, Regions, numbered
from sct.errors import UserError
from sct.evaluation.metrics import quick_dice, score_case

LABELS = LabelMap(("background", "edema", "core", "enhancing"))
BRATS = {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}


def regions(settings: dict = BRATS) -> Regions:
    return Regions.from_settings(LABELS, settings)


def test_classes_are_the_labels_and_the_largest_logit_wins():
    outputs = Classes(LABELS)
    assert (outputs.num_channels, outputs.overlapping) == (4, False)
    assert outputs.scored == {"edema": (1,), "core": (2,), "enhancing": (3,)}
    assert outputs.legend == LABELS.names
    labels = torch.tensor([[0, 3], [1, 2]])
    assert outputs.targets(labels) is labels
    # the first of equals wins
    logits = torch.tensor([[0.0, -1.0, 5.0], [0.0, -2.0, 1.0], [-1.0, -0.5, 5.0], [-3.0, -3.0, 4.0]])
    assert outputs.labels(logits).tolist() == [0, 2, 0]
    many = torch.randn(numbered(300).num_channels, 50)
    assert torch.equal(numbered(300).labels(many).long(), many.argmax(dim=0))


def test_masks_of_regions():
    outputs = regions()
    assert (outputs.num_channels, outputs.overlapping, outputs.names) == (3, True, ("WT", "TC", "ET"))
    masks = outputs.targets(torch.tensor([[[0, 1, 2, 3]]]))
    assert masks.dtype == torch.bool
    assert masks.int().tolist() == [[[[0, 1, 1, 1]], [[0, 0, 1, 1]], [[0, 0, 0, 1]]]]


def test_nested_regions_give_the_labels_back_and_the_innermost_wins():
    """All eight answers of a voxel to "in WT, in TC, in ET"."""
    logits = torch.tensor(list(itertools.product([-0.5, 0.5], repeat=3))).T
    expected = [0, 3, 2, 3, 1, 3, 2, 3]
    assert regions().labels(logits).tolist() == expected
    # in whatever order they are listed
    assert regions(dict(reversed(BRATS.items()))).labels(logits.flip(0)).tolist() == expected
    assert regions().labels(torch.zeros(3, 2)).tolist() == [0, 0], "p = 0.5 is not in"


@pytest.mark.parametrize(
    "settings",
    [
        BRATS,
        {"ET": [3], "WT": [3, 2, 1], "TC": [3, 2]},
        BRATS | {"ET": [2]},
        {"left": [1], "right": [2]},
        {"WT": [1, 2, 3]},
        {"one": [1, 2], "twin": [2, 1]},
        {"a": [1, 2], "b": [1], "c": [2], "d": [3]},
    ],
)
def test_a_label_map_through_its_masks_keeps_its_regions(settings):
    outputs = regions(settings)
    labels = torch.randint(4, (1, 6, 5), generator=torch.Generator().manual_seed(0))
    masks = outputs.targets(labels)
    painted = outputs.labels(masks[0].float() - 0.5)
    assert torch.equal(outputs.targets(painted[None]), masks)


def test_the_papers_other_reading_paints_its_own_labels():
    outputs = regions(BRATS | {"ET": [2]})
    logits = torch.tensor([[1.0, 1, 1, -1], [-1, 1, 1, -1], [-1, -1, 1, -1]])
    assert outputs.labels(logits).tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize("outputs", [Classes(LABELS), regions()], ids=["classes", "regions"])
def test_logits_of_nothing_are_certain_background(outputs):
    logits = outputs.background
    assert logits.shape == (outputs.num_channels,)
    assert outputs.labels(logits).item() == 0
    nothing = (1 - logits.sigmoid()).min() if outputs.overlapping else logits.softmax(dim=0)[0]
    assert nothing > 0.999


def test_decisions_tell_apart_what_paints_alike():
    """A region within another is painted over it: the label of the inner one does not say whether it is in both."""
    logits = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, 0.0], [-1.0, -1.0, -1.0, 1.0]])
    outputs = regions()
    assert outputs.decisions(logits).tolist() == [0b011, 0b010, 0b001, 0b100]
    assert outputs.labels(logits).tolist() == [2, 2, 1, 3]
    assert torch.equal(outputs.labels_of(outputs.decisions(logits)), outputs.labels(logits))


def test_names_of_labels_and_legend():
    outputs = regions({"WT": ["edema", "core", 3], "ET": ["enhancing"]})
    assert outputs.scored == {"WT": (1, 2, 3), "ET": (3,)}
    assert outputs.legend == ("background", "edema (WT)", "core (WT)", "enhancing (WT, ET)")
    assert outputs == regions({"WT": [1, 2, 3], "ET": [3]})
    assert outputs != regions({"ET": [3], "WT": [1, 2, 3]}), "the order is that of the channels"
    assert outputs != Classes(LABELS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no region"),
        ({"WT": []}, r"data\.regions\.WT=\[\].*1 edema, 2 core, 3 enhancing"),
        ({"WT": [0, 1]}, r"data\.regions\.WT=\[0, 1\]"),
        ({"WT": [4]}, r"data\.regions\.WT=\[4\]"),
        ({"WT": [1, 1]}, "each once"),
        ({"WT": ["oedema"]}, r"data\.regions\.WT names \['oedema'\]"),
        ({"WT": 1}, r"data\.regions\.WT=1 must be a list"),
        # a voxel of only b can't be told from one of both: 2 is in both, 3 in b alone
        ({"a": [1, 2], "b": [2, 3]}, "in b is of label 3 .*becomes 2, which is in a and b.*nested or disjoint"),
    ],
)
def test_bad_regions_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        regions(settings)


def test_scores_by_hand():
    """Quick Dice of unions of values; 3 outside the core counts in all three regions."""
    truth = np.array([[1, 1, 2, 2], [3, 3, 0, 0]], dtype=np.uint8)
    pred = np.array([[1, 3, 2, 2], [3, 0, 0, 0]], dtype=np.uint8)
    expected = {"WT": 2 * 5 / (6 + 5), "TC": 2 * 3 / (4 + 4), "ET": 2 * 1 / (2 + 2)}
    rows = score_case(pred, truth, outputs=regions(), spacing=(2.0, 3.0), case_id="a")
    assert {row.class_name: row.dice for row in rows} == pytest.approx(expected)
    np.testing.assert_allclose(quick_dice(pred, truth, outputs=regions()), list(expected.values()))
    # core alone: the enhancing tumour missed is the core found
    rows = score_case(np.where(truth == 3, 2, truth), truth, outputs=regions(), spacing=(2.0, 3.0), case_id="a")
    assert [(row.dice, row.missed) for row in rows] == [(1, False), (1, False), (0, True)]
    assert [row.hd95_mm for row in rows[:2]] == [0, 0]
    assert rows[2].hd95_mm == pytest.approx((4**2 + 12**2) ** 0.5)
