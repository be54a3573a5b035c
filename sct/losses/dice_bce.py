"""Dice plus binary cross-entropy of overlapping regions: the sigmoid twin of `dice_ce`.

Letters: B batch, Q regions, S spatial size.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from sct.losses.base import PixelLoss
from sct.losses.blocks import sum_over_blocks
from sct.losses.dice_ce import dice_loss


class DiceBCE(PixelLoss):
    """dice_weight * soft Dice + bce_weight * BCE; `squared` squares the terms of Dice's denominator.

    Dice is the mean over images and regions, BCE over voxels and regions. The STP paper's loss on BraTS.
    """

    overlapping = True

    def __init__(self, *, dice_weight: float = 1.0, bce_weight: float = 1.0, squared: bool = True) -> None:
        super().__init__()
        self.dice_weight, self.bce_weight, self.squared = dice_weight, bce_weight, squared

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """logits (B, Q, *S) and masks (B, Q, *S) -> {"loss", "dice", "bce"}, scalars in float32."""
        sums = partial(sigmoid_sums, squared=self.squared)
        bce, overlap, sizes = sum_over_blocks(sums, logits.flatten(2), target.flatten(2))
        bce, dice = bce / target.numel(), dice_loss(overlap, sizes)
        return {"loss": self.dice_weight * dice + self.bce_weight * bce, "dice": dice, "bce": bce}

    @staticmethod
    def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence of the Bernoulli distributions sigmoid(teacher) from sigmoid(logits), mean over regions too."""
        ours, theirs = logits.float(), teacher.float()
        inside = theirs.sigmoid() * (F.logsigmoid(theirs) - F.logsigmoid(ours))
        outside = (-theirs).sigmoid() * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
        return (inside + outside).mean()


def sigmoid_sums(logits: Tensor, target: Tensor, *, squared: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What the loss sums over voxels, of logits and masks (B, Q, V).

    Returns the binary cross-entropy (), and Dice's numerator and denominator (B, Q), as `softmax_sums` of `dice_ce`.
    """
    logits, truth = logits.float(), target.float()
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    probs = logits.sigmoid()
    predicted = probs.square() if squared else probs
    return bce, (probs * truth).sum(dim=2), predicted.sum(dim=2) + truth.sum(dim=2)
