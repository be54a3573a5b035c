"""Losses against their formulas."""

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss
from scipy.special import log_softmax

from sct.losses.dice_ce import DiceCE


def dice_by_formula(logits, target, *, squared, batch):
    """1 - mean over images and classes of 2 |p y| / (|p|^2 + |y|^2), background included; or images as one."""
    if batch:
        logits = np.concatenate(list(logits), axis=1)[None]
        target = np.concatenate(list(target), axis=0)[None]
    p = np.exp(log_softmax(logits, axis=1))
    scores = []
    for b in range(p.shape[0]):
        for q in range(p.shape[1]):
            y = (target[b] == q).astype(float)
            size = (p[b, q] ** 2 + y**2).sum() if squared else (p[b, q] + y).sum()
            scores.append((2 * (p[b, q] * y).sum() + 1e-5) / (size + 1e-5))
    return 1 - np.mean(scores)


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5)], ids=["2d", "3d"])
@pytest.mark.parametrize(("squared", "batch"), [(True, False), (False, False), (True, True), (False, True)])
def test_dice_ce_equals_its_formula(shape, squared, batch):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, *shape))
    # class 3 is in no image, class 2 only in the second
    target = rng.integers(0, 2, size=(2, *shape))
    target[1, 0] = 2
    dice = dice_by_formula(logits, target, squared=squared, batch=batch)
    ce = -np.take_along_axis(log_softmax(logits, axis=1), target[:, None], axis=1).mean()
    criterion = DiceCE(dice_weight=0.5, ce_weight=2.0, squared=squared, batch=batch)
    found = criterion(torch.tensor(logits), torch.tensor(target))
    assert set(found) == {"loss", "dice", "ce"}
    assert found["dice"].item() == pytest.approx(dice, rel=1e-5)
    assert found["ce"].item() == pytest.approx(ce, rel=1e-5)
    assert found["loss"].item() == pytest.approx(0.5 * dice + 2 * ce, rel=1e-5)


@pytest.mark.parametrize(("squared", "batch"), [(True, False), (False, False), (True, True)])
def test_equals_monai_in_value_and_gradient(squared, batch):
    torch.manual_seed(0)
    target = torch.randint(4, (2, 1, 3, 4, 5))
    ours, theirs = (torch.randn(2, 4, 3, 4, 5, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    loss = DiceCE(squared=squared, batch=batch)(ours.requires_grad_(), target.squeeze(1))["loss"]
    monai = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=squared, batch=batch)(
        theirs.requires_grad_(), target
    )
    torch.testing.assert_close(loss, monai)
    loss.backward()
    monai.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_perfect_and_worst_prediction():
    # class 2 is not there: leaving it out counts as right
    target = torch.randint(2, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1) * 100.0
    assert DiceCE()(right, target)["loss"].item() == pytest.approx(0, abs=1e-5)
    wrong = torch.nn.functional.one_hot(1 - target, 3).movedim(-1, 1) * 100.0
    found = DiceCE()(wrong, target)
    assert found["dice"].item() == pytest.approx(2 / 3, abs=1e-5)
    assert found["ce"].item() == pytest.approx(100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_scored_in_float32(dtype):
    torch.manual_seed(0)
    # 64^3 voxels: sums that overflow or stall in half precision
    logits = torch.randn(1, 2, 64, 64, 64).to(dtype)
    target = torch.randint(2, (1, 64, 64, 64))
    half = DiceCE()(logits, target)
    full = DiceCE()(logits.float(), target)
    assert {value.dtype for value in half.values()} == {torch.float32}
    assert all(torch.equal(half[name], full[name]) for name in full)


def test_gradient_reaches_every_logit():
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    DiceCE()(logits, torch.zeros(1, 4, 4, dtype=torch.int64))["loss"].backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.count_nonzero() == logits.numel()
