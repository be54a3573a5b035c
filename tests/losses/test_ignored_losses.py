"""Voxels to ignore count in no loss: the loss with them is the loss over the others alone, by hand for every loss.

Letters: B images, Q channels, V voxels, K of them that count.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, Regions
from sct.losses.criterion import Criterion, gate_loss
from sct.losses.dice_bce import DiceBCE
from sct.losses.dice_ce import DiceCE
from sct.losses.query import QueryLoss
from sct.models.tokens import Early, Encoded, HeadOutput, Prediction, Tokens

B, Q, SIZE = 2, 3, 8
MAP = LabelMap(("background", "a", "b"), has_ignored=True)
FULL = LabelMap(("background", "a", "b"))
REGIONS = {"all": [1, 2], "inner": [2]}


@pytest.fixture
def voxels():
    """Logits (B, Q, 8, 8), labels (B, 8, 8) of which the last three columns are to be ignored, and what is left."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, Q, SIZE, SIZE, generator=generator)
    labels = torch.randint(0, 3, (B, SIZE, SIZE), generator=generator)
    labels[..., 5:] = 3
    logits[..., 5:] *= 20  # what is judged by mistake is seen
    return logits, labels


def pixel_losses():
    for squared, batch, log in ((True, False, False), (False, True, False), (True, True, True)):
        settings = {"squared": squared, "batch": batch, "log": log}
        yield pytest.param(DiceCE(**settings), Classes, id=f"ce-{squared}-{batch}-{log}")
        yield pytest.param(DiceBCE(**settings), Regions.from_settings, id=f"bce-{squared}-{batch}-{log}")


def prediction(logits, **encoded):
    tokens = Tokens(torch.zeros(B, 4, 1), torch.arange(4).expand(B, -1))
    return Prediction(logits, Encoded((2, 2), tokens, torch.zeros(B, 1, 1), **encoded))


def criterion(pixel, make, label_map, **parts):
    outputs = make(label_map) if make is Classes else make(label_map, REGIONS)
    return Criterion(outputs=outputs, pixel=pixel, **parts)


@pytest.mark.parametrize(("pixel", "make"), pixel_losses())
def test_the_others_alone_decide(voxels, pixel, make):
    logits, labels = voxels
    logits = logits[:, :2] if make is not Classes else logits
    logits = logits.clone().requires_grad_()
    found = criterion(pixel, make, MAP)(prediction(logits), labels, image=logits)
    alone = criterion(pixel, make, FULL)(prediction(logits[..., :5]), labels[..., :5], image=logits)
    assert found.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, msg=name)
    (gradient,) = torch.autograd.grad(found["loss"], logits)
    assert not gradient[..., 5:].any()
    assert gradient[..., :5].abs().min() > 0


@pytest.mark.parametrize(("pixel", "make"), pixel_losses())
def test_where_nothing_counts_nothing_is_lost(voxels, pixel, make):
    logits = (voxels[0][:, :2] if make is not Classes else voxels[0]).clone().requires_grad_()
    labels = torch.full((B, SIZE, SIZE), 3)
    loss = criterion(pixel, make, MAP)(prediction(logits), labels, image=logits)["loss"]
    assert loss.item() == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient.any()


@pytest.mark.parametrize("loss", [DiceCE, DiceBCE])
def test_distillation(voxels, loss):
    logits, labels = voxels
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)) * 3
    found = loss.divergence(logits, teacher, labels != 3)
    torch.testing.assert_close(found, loss.divergence(logits[..., :5], teacher[..., :5]))


def test_distillation_of_the_criterion(voxels):
    logits, labels = voxels

    class Teacher(nn.Module):
        def forward(self, image):
            return image.flip(1)

    def distilled(label_map, columns):
        judge = criterion(DiceCE(), Classes, label_map)
        judge.teacher = Teacher()
        part = logits[..., :columns]
        return judge(prediction(part), labels[..., :columns], image=part)["distill"]

    torch.testing.assert_close(distilled(MAP, SIZE), distilled(FULL, 5))


def test_class_queries(voxels):
    logits, labels = voxels
    # class b is in the ignored voxels alone of the first image: it is absent there
    labels[0][labels[0] == 2] = 1
    classes = torch.randn(B, Q, 2, generator=torch.Generator().manual_seed(2))
    judge = criterion(DiceCE(), Classes, MAP, query=QueryLoss())
    found = judge.judge(HeadOutput(logits, classes), MAP.cleared(labels), known=labels != 3)
    alone = QueryLoss()(HeadOutput(logits[..., :5], classes), labels[..., :5])
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_early_heads(voxels):
    logits, labels = voxels

    def early(label_map, columns):
        part = logits[..., :columns]
        heads = [HeadOutput(part), HeadOutput(2 * part)]
        stages = Early(torch.zeros(B, Q, 4), torch.zeros(B, 4, dtype=torch.bool), stages=heads)
        return criterion(DiceCE(), Classes, label_map)(
            prediction(part, early=stages), labels[..., :columns], image=part
        )["early"]

    torch.testing.assert_close(early(MAP, SIZE), early(FULL, 5))


def test_the_gate_is_judged_by_the_patches_that_are_known():
    gate = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(3))
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, 1, 1] = 2
    labels[0, 2:4, :4] = 3  # a part of a patch with foreground
    labels[0, 5, 5] = 3  # a part of a patch without
    labels[0, :4, 4:] = 3  # a whole patch
    found = criterion(DiceCE(), Classes, MAP)(prediction(torch.randn(1, 3, 8, 8), gate=gate), labels, image=gate)[
        "gate"
    ]
    each = F.cross_entropy(gate, torch.tensor([[[1, 0], [0, 0]]]), reduction="none")[0]
    torch.testing.assert_close(found, (each[0, 0] + each[1, 0] + each[1, 1]) / 3)
    nothing = torch.full_like(labels, 3)
    assert gate_loss(gate, torch.zeros_like(labels), nothing != 3).item() == 0


def test_the_gate_judges_patches_with_another_size_along_each_axis():
    gate, labels = torch.randn(1, 2, 2, 4), torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, 5, 3] = 1  # patches of 4 x 2: the second of the lower row
    expected = F.cross_entropy(gate, torch.tensor([[[0, 0, 0, 0], [0, 1, 0, 0]]]))
    torch.testing.assert_close(gate_loss(gate, labels, None), expected)
    everything = torch.ones_like(labels, dtype=torch.bool)
    torch.testing.assert_close(gate_loss(gate, labels, everything), expected)


def test_no_mask_is_made_where_nothing_is_ignored(voxels):
    """A loss of the user's that knows no mask goes on to work."""
    logits, labels = voxels

    class Own(DiceCE):
        def forward(self, logits, target):
            assert target is given
            return super().forward(logits, target)

    given = labels.clamp(max=2)
    criterion(Own(), Classes, FULL)(prediction(logits), given, image=logits)
    assert FULL.known(given) is None
    assert FULL.cleared(given) is given
