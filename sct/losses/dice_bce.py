"""Dice plus binary cross-entropy of overlapping regions: the sigmoid twin of `dice_ce`.

Letters: B batch, Q regions, S spatial size.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from sct.losses.base import PixelLoss, known_mean
from sct.losses.blocks import sum_over_blocks
from sct.losses.dice_ce import dice_loss


class DiceBCE(PixelLoss):
    """dice_weight * soft Dice + bce_weight * BCE; `squared`, `batch` and `log` as in `DiceCE`.

    Dice is the mean over images and regions, BCE over voxels and regions. With batch and log off the STP paper's loss
    on BraTS.

    dice_weight: weight of soft Dice in the loss
    bce_weight: weight of the binary cross-entropy
    squared: the squares of the probabilities in the denominator of Dice
    batch: Dice of all images of a micro-batch as one, not of each image
    log: minus the logarithm of Dice instead of 1 - Dice, of what is present: rare classes or regions are found sooner
    """

    overlapping = True

    def __init__(
        self,
        *,
        dice_weight: float = 1.0,
        bce_weight: float = 1.0,
        squared: bool = True,
        batch: bool = False,
        log: bool = False,
    ) -> None:
        super().__init__()
        self.dice_weight, self.bce_weight = dice_weight, bce_weight
        self.squared, self.batch, self.log = squared, batch, log

    def forward(self, logits: Tensor, target: Tensor, known: Tensor | None = None) -> dict[str, Tensor]:
        """logits and masks (B, Q, *S), voxels that count (B, *S) -> {"loss", "dice", "bce"}, scalars in float32."""
        sums = partial(sigmoid_sums, squared=self.squared)
        counted = [] if known is None else [known.flatten(1).unsqueeze(1)]
        bce, overlap, sizes, truth = sum_over_blocks(sums, logits.flatten(2), target.flatten(2), *counted)
        num_voxels = target.numel() if known is None else logits.shape[1] * known.sum().clamp_min(1)
        bce, dice = bce / num_voxels, dice_loss(overlap, sizes, truth, batch=self.batch, log=self.log)
        return {"loss": self.dice_weight * dice + self.bce_weight * bce, "dice": dice, "bce": bce}

    @staticmethod
    def divergence(logits: Tensor, teacher: Tensor, known: Tensor | None = None) -> Tensor:
        """KL divergence of the Bernoulli distributions sigmoid(teacher) from sigmoid(logits), mean over regions too."""
        ours, theirs = logits.float(), teacher.float()
        inside = theirs.sigmoid() * (F.logsigmoid(theirs) - F.logsigmoid(ours))
        outside = (-theirs).sigmoid() * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
        return known_mean(inside + outside, None if known is None else known.unsqueeze(1))


def sigmoid_sums(
    logits: Tensor, target: Tensor, known: Tensor | None = None, *, squared: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the loss sums over voxels, of logits and masks (B, Q, V), and the voxels that count, bool (B, 1, V).

    Returns the binary cross-entropy (), and what Dice is made of, (B, Q) each, as `softmax_sums` of `dice_ce`.
    """
    logits, truth = logits.float(), target.float()
    weight = None if known is None else known.float()
    bce = F.binary_cross_entropy_with_logits(logits, truth, weight=weight, reduction="sum")
    probs = logits.sigmoid() if weight is None else logits.sigmoid() * weight
    predicted = probs.square() if squared else probs
    voxels = truth.sum(dim=2)
    return bce, (probs * truth).sum(dim=2), predicted.sum(dim=2) + voxels, voxels
