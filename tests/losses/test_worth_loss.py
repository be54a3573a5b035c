"""How scores learn what patches are worth."""

import math

import pytest
import torch
from torch import nn

from sct.data.cases import LabelMap
from sct.data.outputs import Classes
from sct.losses.criterion import Criterion
from sct.losses.dice_ce import DiceCE
from sct.losses.worth import hard_patches, keep_share, worth_loss
from sct.models.tokens import Encoded, Prediction, Scores, Tokens

INDEX = torch.tensor([[0, 1, 2, 3]])


def cross_entropy(logit: float, worth: float) -> float:
    chance = 1 / (1 + math.exp(-logit))
    return -worth * math.log(chance) - (1 - worth) * math.log(1 - chance)


def test_the_loss_is_the_cross_entropy_of_the_places_of_each_stage():
    worth = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    first = Scores(torch.tensor([[2.0, -1.0, 0.5, 0.0]]), INDEX, 2)
    second = Scores(torch.tensor([[1.5, -3.0]]), torch.tensor([[0, 3]]), 1)
    by_stage = [
        (cross_entropy(2, 1) + cross_entropy(-1, 0) + cross_entropy(0.5, 1) + cross_entropy(0, 0)) / 4,
        (cross_entropy(1.5, 1) + cross_entropy(-3, 0)) / 2,
    ]
    assert worth_loss([first, second], worth).item() == pytest.approx(sum(by_stage) / 2)
    known = torch.tensor([[True, False, False, True]])
    by_stage[0] = (cross_entropy(2, 1) + cross_entropy(0, 0)) / 2
    assert worth_loss([first, second], worth, known=known).item() == pytest.approx(sum(by_stage) / 2)


def test_a_token_that_an_earlier_stage_masked_is_not_judged():
    worth = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    stage = Scores(torch.tensor([[2.0, -1.0, 0.5, 0.0]]), INDEX, 2, alive=torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    expected = (cross_entropy(2, 1) + cross_entropy(-1, 0)) / 2
    assert worth_loss([stage], worth).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("worth", "ranked", "num_kept", "expected"),
    [
        # the two worthy ones and one of the two others
        ([1, 0, 1, 0], [1, 1, 1, 1], 3, [1, 0.5, 1, 0.5]),
        # more worthy ones than fit
        ([1, 1, 1, 0], [1, 1, 1, 1], 2, [2 / 3, 2 / 3, 2 / 3, 0]),
        # the third one is gone already: one of two others is kept
        ([1, 0, 1, 0], [1, 1, 0, 1], 2, [1, 0.5, 1, 0.5]),
        # fewer tokens are left than could be kept
        ([0, 0, 0, 0], [1, 0, 0, 0], 2, [1, 1, 1, 1]),
    ],
)
def test_shares_to_keep_fill_the_places(worth, ranked, num_kept, expected):
    tensors = (torch.tensor([values], dtype=torch.float32) for values in (worth, ranked))
    shares = keep_share(next(tensors), num_kept=num_kept, ranked=next(tensors))
    assert shares[0].tolist() == pytest.approx(expected)


def test_scores_may_learn_the_share_to_keep():
    worth = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    stage = Scores(torch.tensor([[2.0, -1.0, 0.5, 0.0]]), INDEX, 3, taught="share")
    expected = (cross_entropy(2, 1) + cross_entropy(-1, 0.5) + cross_entropy(0.5, 1) + cross_entropy(0, 0.5)) / 4
    assert worth_loss([stage], worth).item() == pytest.approx(expected)


@pytest.mark.parametrize("taught", [None, "worth"])
def test_the_criterion_adds_it_with_its_weight_where_scores_are_taught(taught):
    values = torch.zeros(1, 4, requires_grad=True)
    tokens = Tokens(torch.zeros(1, 4, 8), INDEX)
    encoded = Encoded((2, 2), tokens, torch.zeros(1, 0, 8), scores=[Scores(values, INDEX, 2, taught=taught)])
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    label[:, :2, 2:] = 1
    logits = torch.randn(1, 2, 4, 4)
    criterion = Criterion(outputs=Classes(LabelMap(("background", "a"))), pixel=DiceCE(), worth_weight=0.3)
    parts = criterion(Prediction(logits, encoded), label, image=torch.zeros(1, 1, 4, 4))
    if not taught:
        assert "worth" not in parts
        torch.testing.assert_close(parts["loss"], parts["pixel"])
        return
    torch.testing.assert_close(parts["loss"], parts["pixel"] + 0.3 * math.log(2))
    parts["loss"].backward()
    # only the patch of the foreground, the second one, is pushed up
    assert (values.grad < 0).tolist() == [[False, True, False, False]]


def test_voxels_to_ignore_teach_nothing():
    values = torch.zeros(1, 4, requires_grad=True)
    tokens = Tokens(torch.zeros(1, 4, 8), INDEX)
    encoded = Encoded((2, 2), tokens, torch.zeros(1, 0, 8), scores=[Scores(values, INDEX, 2, taught="worth")])
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    label[:, 2:, :2] = 2  # the value to ignore fills the third patch
    outputs = Classes(LabelMap(("background", "a"), has_ignored=True))
    criterion = Criterion(outputs=outputs, pixel=DiceCE(), query=nn.Identity())
    criterion(Prediction(torch.randn(1, 2, 4, 4), encoded), label, image=torch.zeros(1, 1, 4, 4))["loss"].backward()
    assert (values.grad != 0).tolist() == [[True, True, False, True]]


@pytest.mark.parametrize("overlapping", [False, True])
def test_patches_with_more_loss_than_the_mean_are_worth_it(overlapping):
    # four patches of 2 x 2 voxels: sure and right, unsure, sure and wrong in one voxel, sure and right
    margin = torch.full((1, 4, 4), 8.0)
    margin[:, :2, 2:] = 2.0
    margin[:, 2, 0] = -8.0
    if overlapping:
        logits, target = torch.stack([margin, -margin], dim=1), torch.tensor([1, 0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    else:
        logits, target = torch.stack([margin, -margin], dim=1), torch.zeros(1, 4, 4, dtype=torch.long)
    logits.requires_grad_()
    worth = hard_patches(logits, target, patch_size=(2, 2), overlapping=overlapping)
    assert worth.tolist() == [[0, 0, 1, 0]]
    assert not worth.requires_grad


def test_the_criterion_teaches_where_the_loss_is_high():
    values = torch.zeros(1, 4, requires_grad=True)
    encoded = Encoded(
        (2, 2),
        Tokens(torch.zeros(1, 4, 8), INDEX),
        torch.zeros(1, 0, 8),
        scores=[Scores(values, INDEX, 2, taught="worth")],
    )
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 5.0
    logits[:, 1, 2:, 2:] = 10.0  # wrongly foreground, where no label is
    criterion = Criterion(outputs=Classes(LabelMap(("background", "a"))), pixel=DiceCE(), worth="loss")
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    criterion(Prediction(logits, encoded), label, image=torch.zeros(1, 1, 4, 4))["loss"].backward()
    assert (-values.grad).sign().tolist() == [[-1, -1, -1, 1]]
