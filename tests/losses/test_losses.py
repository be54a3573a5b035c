"""Losses against their formulas."""

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss, DiceLoss
from scipy.special import expit, log_softmax
from scipy.stats import bernoulli, entropy
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sct.data.cases import LabelMap
from sct.data.outputs import Regions, numbered
from sct.errors import UserError
from sct.losses import blocks
from sct.losses.criterion import Criterion
from sct.losses.dice_bce import DiceBCE
from sct.losses.dice_ce import DiceCE
from sct.models.tokens import Encoded, HeadOutput, Prediction, Tokens

BRATS = Regions.from_settings(LabelMap(("background", "1", "2", "3")), {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]})


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


@pytest.mark.parametrize(("make", "channels"), [(DiceCE, 4), (DiceBCE, 3)])
def test_blocks_of_voxels_give_what_all_at_once_gives(monkeypatch, make, channels):
    torch.manual_seed(0)
    shape = (2, 6, 7, 8)
    target = torch.randint(channels, shape) if make is DiceCE else torch.randint(2, (2, channels, *shape[1:]))
    logits = torch.randn(2, channels, *shape[1:]).requires_grad_()

    def loss_and_gradient():
        parts = make()(logits, target)
        return parts, *torch.autograd.grad(parts["loss"], logits)

    parts, gradient = loss_and_gradient()
    # of 2 images 50 of 336 voxels a block: the last one is smaller
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 100)
    with Sizes() as sizes:
        by_block = loss_and_gradient()
    torch.testing.assert_close(by_block, (parts, gradient))
    assert sizes.found.pop("aten.empty_like.default") == logits.numel(), "the gradient itself"
    assert max(sizes.found.values()) == 2 * channels * 50, "nothing else is larger than a block"


class Sizes(TorchDispatchMode):
    """Numbers in the largest result of every operation that makes a new tensor."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.found[str(func)] = max(self.found.get(str(func), 0), result.numel())
        return result


def test_perfect_and_worst_prediction():
    # class 2 is not there: leaving it out counts as right
    target = torch.randint(2, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1) * 100.0
    assert DiceCE()(right, target)["loss"].item() == pytest.approx(0, abs=1e-5)
    wrong = torch.nn.functional.one_hot(1 - target, 3).movedim(-1, 1) * 100.0
    found = DiceCE()(wrong, target)
    assert found["dice"].item() == pytest.approx(2 / 3, abs=1e-5)
    assert found["ce"].item() == pytest.approx(100)


@pytest.mark.parametrize("make", [DiceCE, DiceBCE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_scored_in_float32(dtype, make):
    torch.manual_seed(0)
    # 64^3 voxels: sums that overflow or stall in half precision
    logits = torch.randn(1, 2, 64, 64, 64).to(dtype)
    target = torch.randint(2, (1, 64, 64, 64) if make is DiceCE else logits.shape)
    half = make()(logits, target)
    full = make()(logits.float(), target)
    assert {value.dtype for value in half.values()} == {torch.float32}
    assert all(torch.equal(half[name], full[name]) for name in full)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("make", [DiceCE, DiceBCE])
def test_log_dice_equals_its_formula_over_what_is_present(make, batch):
    """-log(Dice), mean over the pairs of image and class (or region) that are there; with batch over the classes."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 5, 6))
    # class 3 is in no image, class 2 only in the second
    labels = rng.integers(0, 2, size=(2, 5, 6))
    labels[1, 0] = 2
    masks = np.stack([labels == q for q in range(4)], axis=1)
    p, y = (np.exp(log_softmax(logits, axis=1)) if make is DiceCE else expit(logits)), masks.astype(float)
    axes = (0, 2, 3) if batch else (2, 3)
    score = (2 * (p * y).sum(axes) + 1e-5) / ((p**2 + y).sum(axes) + 1e-5)
    expected = -np.log(score[y.sum(axes) > 0]).mean()
    assert score.size - (y.sum(axes) > 0).sum() == (1 if batch else 3), "something is absent"
    target = torch.tensor(labels if make is DiceCE else masks)
    found = make(batch=batch, log=True)(torch.tensor(logits), target)
    assert found["dice"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [DiceCE, DiceBCE])
def test_nothing_present_is_no_dice(make):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.zeros(1, 4, 4, dtype=torch.int64) if make is DiceCE else torch.zeros(1, 3, 4, 4)
    found = make(log=True)(logits, target)
    found["loss"].backward()
    assert logits.grad.isfinite().all()
    if make is DiceBCE:
        assert found["dice"] == 0
    else:
        assert found["dice"] > 0, "the background is present"


def test_gradient_of_log_dice_does_not_fade_with_the_probability_of_a_class():
    """A class of 4 of 256 voxels gets the same push at probability 1e-2 and 1e-4; from 1 - Dice a hundredth of it."""

    def push(log, probability):
        other = np.log(1 / probability - 1)
        logits = torch.stack([torch.full((1, 16, 16), float(other)), torch.zeros(1, 16, 16)], dim=1).requires_grad_()
        target = torch.zeros(1, 16, 16, dtype=torch.int64)
        target[0, 3, 4:8] = 1
        DiceCE(ce_weight=0, log=log)(logits, target)["loss"].backward()
        return -logits.grad[0, 1][target[0] == 1].sum().item()

    assert push(True, 1e-4) == pytest.approx(push(True, 1e-2), rel=0.05)
    assert push(False, 1e-4) == pytest.approx(push(False, 1e-2) / 100, rel=0.1)


def test_gradient_reaches_every_logit():
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    DiceCE()(logits, torch.zeros(1, 4, 4, dtype=torch.int64))["loss"].backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.count_nonzero() == logits.numel()


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5)], ids=["2d", "3d"])
@pytest.mark.parametrize("squared", [True, False])
def test_dice_bce_equals_its_formula(shape, squared):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, *shape))
    masks = rng.random(logits.shape) < 0.3
    masks[1, 2] = False
    p, y = expit(logits), masks.astype(float)
    scores = []
    for b in range(2):
        for q in range(3):
            size = (p[b, q] ** 2 + y[b, q] ** 2).sum() if squared else (p[b, q] + y[b, q]).sum()
            scores.append((2 * (p[b, q] * y[b, q]).sum() + 1e-5) / (size + 1e-5))
    bce = -np.where(masks, np.log(p), np.log(1 - p)).mean()
    found = DiceBCE(dice_weight=0.5, bce_weight=2.0, squared=squared)(torch.tensor(logits), torch.tensor(masks))
    assert set(found) == {"loss", "dice", "bce"}
    assert found["dice"].item() == pytest.approx(1 - np.mean(scores), rel=1e-5)
    assert found["bce"].item() == pytest.approx(bce, rel=1e-5)
    assert found["loss"].item() == pytest.approx(0.5 * (1 - np.mean(scores)) + 2 * bce, rel=1e-5)


@pytest.mark.parametrize("squared", [True, False])
def test_sigmoid_dice_equals_monai_in_value_and_gradient(squared):
    torch.manual_seed(0)
    masks = torch.randint(2, (2, 3, 3, 4, 5))
    ours, theirs = (torch.randn(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    loss = DiceBCE(squared=squared, bce_weight=0)(ours.requires_grad_(), masks)["loss"]
    monai = DiceLoss(sigmoid=True, squared_pred=squared)(theirs.requires_grad_(), masks.float())
    torch.testing.assert_close(loss, monai)
    loss.backward()
    monai.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_divergences_of_distributions():
    ours, theirs = np.random.default_rng(0).normal(size=(2, 1, 3, 2, 2)) * 3
    found = DiceCE.divergence(torch.tensor(ours), torch.tensor(theirs)).item()
    assert found == pytest.approx(entropy(np.exp(theirs), np.exp(ours), axis=1).mean(), rel=1e-5)
    p, q = (np.stack([1 - expit(x), expit(x)]) for x in (theirs, ours))
    assert DiceBCE.divergence(torch.tensor(ours), torch.tensor(theirs)).item() == pytest.approx(
        entropy(p, q, axis=0).mean(), rel=1e-5
    )
    for loss in (DiceCE, DiceBCE):
        same = torch.tensor([[[300.0], [-300.0], [0.0]]])
        assert loss.divergence(same, same).item() == 0, "and finite where probabilities round to 0 and 1"


def prediction(logits):
    tokens = Tokens(torch.zeros(1, 4, 1), torch.arange(4).expand(1, -1))
    return Prediction(logits, Encoded((2, 2), tokens, torch.zeros(1, 1, 1)))


def test_the_criterion_turns_labels_into_regions():
    labels = torch.tensor([[[0, 1], [2, 3]]])
    logits = torch.tensor([[[-1.0, 1], [1, 1]], [[-1, -1], [1, 1]], [[-1, -1], [-1, 1]]]).unsqueeze(0) * 50
    criterion = Criterion(outputs=BRATS, pixel=DiceBCE())
    image = torch.zeros(1, 1, 2, 2)
    assert criterion(prediction(logits), labels, image=image)["loss"].item() == pytest.approx(0, abs=1e-5)
    wrong = criterion(prediction(logits), 3 - labels, image=image)
    assert wrong["bce"].item() == pytest.approx(50 * 8 / 12)


def test_heads_of_training_alone_are_judged_as_regions_at_the_size_of_the_labels():
    labels = torch.tensor([[[0, 1], [2, 3]]])
    logits = torch.tensor([[[-1.0, 1], [1, 1]], [[-1, -1], [1, 1]], [[-1, -1], [-1, 1]]]).unsqueeze(0) * 50
    judged = prediction(logits)
    # one patch: every voxel gets the same, and 6 of the 12 masks are 1
    judged.encoded.auxiliary = [HeadOutput(torch.full((1, 3, 1, 1), value)) for value in (-50.0, 50.0)]
    found = Criterion(outputs=BRATS, pixel=DiceBCE(dice_weight=0), auxiliary_weight=0.5)(
        judged, labels, image=torch.zeros(1, 1, 2, 2)
    )
    assert found["auxiliary"].item() == pytest.approx(50 * 6 / 12 + 50 * 6 / 12)
    assert found["loss"].item() == pytest.approx(0.5 * 50, abs=1e-5)
    assert "early" not in found


def test_a_teacher_of_regions_is_followed():
    class Teacher(nn.Module):
        def forward(self, image):
            return torch.full((1, 3, 2, 2), 2.0)

    criterion = Criterion(outputs=BRATS, pixel=DiceBCE(), distill_weight=0.5)
    criterion.teacher = Teacher()
    parts = criterion(prediction(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 2, 2).long(), image=torch.zeros(1, 1, 2, 2))
    p = expit(2)
    assert parts["distill"].item() == pytest.approx(np.log(2) - bernoulli(p).entropy(), rel=1e-5)
    assert parts["loss"].item() == pytest.approx((parts["dice"] + parts["bce"] + 0.5 * parts["distill"]).item())
    # what methods are compared by has no teacher in it
    assert parts["pixel"].item() == pytest.approx((parts["dice"] + parts["bce"]).item())


def test_a_loss_of_other_outputs_is_refused():
    with pytest.raises(UserError, match=r"DiceCE.*softmax.*regions WT, TC, ET.*loss=dice_bce"):
        Criterion(outputs=BRATS, pixel=DiceCE())
    with pytest.raises(UserError, match=r"DiceBCE.*sigmoid.*classes 1, 2.*loss=dice_ce"):
        Criterion(outputs=numbered(3), pixel=DiceBCE())
