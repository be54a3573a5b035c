"""The loss of masked pretraining: what it is by hand, and what it does not look at."""

import math

import pytest
import torch

from sct.losses.masked import EPS, Masked
from sct.models.tokens import Encoded, Prediction, Tokens

# an image of 2 x 2 patches of 2 x 2 voxels; the encoder saw places 0 and 3
HIDDEN = {1: (slice(0, 2), slice(2, 4)), 2: (slice(2, 4), slice(0, 2))}
SEEN = {0: (slice(0, 2), slice(0, 2)), 3: (slice(2, 4), slice(2, 4))}
DROPPED = Tokens(torch.zeros(1, 2, 1), torch.tensor([list(HIDDEN)]))


def prediction_of(logits):
    final = Tokens(torch.zeros(1, 2, 1), torch.tensor([list(SEEN)]))
    return Prediction(logits, Encoded((2, 2), final, torch.zeros(1, 0, 1), dropped=[DROPPED]))


def loss_of(logits, image):
    parts = Masked()(prediction_of(logits), torch.zeros(1, 4, 4, dtype=torch.long), image=image)
    assert list(parts) == ["loss"]
    return parts["loss"]


def test_the_loss_by_hand():
    """Hidden are 1, 2, 3, 4 and 10, 10, 10, 14: means 2.5 and 11, variances 5/3 and 4 (of n - 1, as in MAE)."""
    image, logits = torch.full((1, 1, 4, 4), 7.0), torch.full((1, 1, 4, 4), 100.0)
    image[0, 0][HIDDEN[1]] = torch.tensor([[1.0, 2], [3, 4]])
    image[0, 0][HIDDEN[2]] = torch.tensor([[10.0, 10], [10, 14]])
    logits[0, 0][HIDDEN[1]] = torch.tensor([[0.0, 0], [0, 1]])
    logits[0, 0][HIDDEN[2]] = torch.tensor([[-0.5, -0.5], [-0.5, 1.5]])
    targets = [value / math.sqrt(5 / 3) for value in (-1.5, -0.5, 0.5, 1.5)]
    first = sum((a - b) ** 2 for a, b in zip(targets, (0, 0, 0, 1), strict=True))
    assert loss_of(logits, image).item() == pytest.approx((first + 0) / 8, rel=1e-5)
    squares = Masked().squares(prediction_of(logits), image)
    assert squares.number == 8
    assert squares.errors.item() == pytest.approx(first, rel=1e-5)
    assert squares.targets.item() == pytest.approx(3 + 3, rel=1e-5), "n - 1 of every patch"


def test_a_channel_of_a_patch_is_normalised_by_itself():
    """Modalities of other scale and offset have the same targets."""
    torch.manual_seed(0)
    one, logits = torch.randn(1, 1, 4, 4), torch.randn(1, 2, 4, 4)
    both = torch.cat([one, 1000 * one + 5], dim=1)
    expected = (loss_of(logits[:, :1], one) + loss_of(logits[:, 1:], one)) / 2
    assert loss_of(logits, both).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_gradient_reaches_hidden_patches_alone():
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss_of(logits, torch.randn(1, 1, 4, 4)).backward()
    for place in HIDDEN.values():
        assert (logits.grad[0, 0][place] != 0).all()
    for place in SEEN.values():
        assert (logits.grad[0, 0][place] == 0).all()


def test_air_asks_for_zero():
    """A constant patch has no variance to divide by."""
    assert loss_of(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), -1.0)).item() == pytest.approx(0, abs=EPS)
    assert loss_of(torch.ones(1, 1, 4, 4), torch.full((1, 1, 4, 4), -1.0)).item() == pytest.approx(1, abs=1e-3)


def test_half_precision_is_judged_in_float32():
    torch.manual_seed(0)
    logits, image = torch.randn(1, 1, 4, 4).bfloat16(), torch.randn(1, 1, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(logits, image)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loss_of(logits.float(), image).item(), rel=1e-6)
