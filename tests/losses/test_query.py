"""The loss of class queries against numbers worked out by hand and against loops in plain Python."""

import math

import pytest
import torch

from sct.losses.query import QueryLoss, focal_loss, mask_dice
from sct.models.tokens import HeadOutput

B, Q, SIZE = 2, 4, (3, 4)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def example():
    """Masks of the size of the labels, classes and labels. Class 2 is in the second image alone, class 3 in none."""
    generator = torch.Generator().manual_seed(0)
    masks, classes = torch.randn(B, Q, *SIZE, generator=generator), torch.randn(B, Q, 2, generator=generator)
    labels = torch.randint(0, 2, (B, *SIZE), generator=generator)
    labels[1, 0, :2] = 2
    return HeadOutput(masks, classes), labels


def by_loops(head, labels, *, absent_weight, alpha, gamma):
    """Presence, focal and Dice of SegViT's loss: one mask for each class that the image has."""
    presence, weights, focal, dice = [], [], [], []
    for b in range(B):
        truth = labels[b].flatten().tolist()
        for q in range(Q):
            here, absent = (head.classes[b, q, i].item() for i in (0, 1))
            is_here = q in truth
            log_sum = math.log(math.exp(here) + math.exp(absent))
            weights.append(1.0 if is_here else absent_weight)
            presence.append(weights[-1] * (log_sum - (here if is_here else absent)))
            if not is_here:
                continue
            p = [sigmoid(value) for value in head.masks[b, q].flatten().tolist()]
            y = [float(value == q) for value in truth]
            for pi, yi in zip(p, y, strict=True):
                right = pi if yi else 1 - pi
                focal.append(-(alpha if yi else 1 - alpha) * (1 - right) ** gamma * math.log(right))
            overlap = sum(pi * yi for pi, yi in zip(p, y, strict=True))
            dice.append(1 - (2 * overlap + 1) / (sum(p) + sum(y) + 1))
    return sum(presence) / sum(weights), sum(focal) / len(focal), sum(dice) / len(dice)


@pytest.mark.parametrize(
    ("absent_weight", "alpha", "gamma"), [(0.1, 0.25, 2.0), (0.7, 0.6, 1.0), (1.0, 0.5, 0.0)], ids=["paper", "a", "b"]
)
def test_every_part_against_loops(absent_weight, alpha, gamma):
    head, labels = example()
    expected = by_loops(head, labels, absent_weight=absent_weight, alpha=alpha, gamma=gamma)
    loss = QueryLoss(
        class_weight=3, focal_weight=5, dice_weight=7, absent_weight=absent_weight, alpha=alpha, gamma=gamma
    )
    found = loss(head, labels)
    assert found.keys() == {"loss", "class", "focal", "mask_dice"}
    assert [found[name].item() for name in ("class", "focal", "mask_dice")] == pytest.approx(expected, rel=1e-5)
    weighted = sum(weight * part for weight, part in zip((3, 5, 7), expected, strict=True))
    assert found["loss"].item() == pytest.approx(weighted, rel=1e-5)


def test_the_defaults_are_those_of_the_paper():
    head, labels = example()
    found = QueryLoss()(head, labels)
    presence, focal, dice = by_loops(head, labels, absent_weight=0.1, alpha=0.25, gamma=2.0)
    assert found["loss"].item() == pytest.approx(presence + 20 * focal + dice, rel=1e-5)


def test_one_voxel_of_focal_loss_by_hand():
    """p = 3/4: of a foreground voxel 1/4 (1/4)^2 (-log 3/4), of a background voxel 3/4 (3/4)^2 (-log 1/4)."""
    logits = torch.tensor([[math.log(3.0)]])
    inside = focal_loss(logits, torch.ones(1, 1), alpha=0.25, gamma=2.0).item()
    outside = focal_loss(logits, torch.zeros(1, 1), alpha=0.25, gamma=2.0).item()
    assert inside == pytest.approx(-0.25 * 0.25**2 * math.log(0.75), rel=1e-5)
    assert outside == pytest.approx(-0.75 * 0.75**2 * math.log(0.25), rel=1e-5)


def test_dice_of_a_mask_by_hand():
    """p = 1/2 at 4 voxels of which 2 are true: 1 - (2 * 1 + 1) / (2 + 2 + 1)."""
    assert mask_dice(torch.zeros(1, 4), torch.tensor([[1.0, 1, 0, 0]])).item() == pytest.approx(0.4)
    assert mask_dice(torch.full((1, 4), -50.0), torch.zeros(1, 4)).item() == pytest.approx(0, abs=1e-6)


def test_index_0_of_the_class_logits_is_present():
    labels = torch.zeros(1, 2, 2, dtype=torch.long)  # class 0 alone
    masks = torch.zeros(1, 2, 2, 2)
    right = torch.tensor([[[20.0, -20.0], [-20.0, 20.0]]])
    assert QueryLoss()(HeadOutput(masks, right), labels)["class"].item() == pytest.approx(0, abs=1e-6)
    assert QueryLoss()(HeadOutput(masks, -right), labels)["class"].item() == pytest.approx(40)


def test_masks_of_absent_classes_do_not_count():
    head, labels = example()
    wild = HeadOutput(head.masks.clone(), head.classes)
    wild.masks[:, 3] = 100.0
    wild.masks[0, 2] = -100.0
    before, after = QueryLoss()(head, labels), QueryLoss()(wild, labels)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_masks_are_resized_as_logits_to_the_labels():
    head, _ = example()
    labels = torch.randint(0, Q, (B, 6, 8), generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(head.masks, size=(6, 8), mode="bilinear")
    expected = QueryLoss()(HeadOutput(large, head.classes), labels)
    torch.testing.assert_close(QueryLoss()(head, labels), expected)
