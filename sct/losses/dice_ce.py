"""Dice plus cross-entropy, the loss of the STP paper.

Letters: B batch, Q classes, S spatial size, V voxels of it.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.losses.base import PixelLoss
from sct.losses.blocks import sum_over_blocks

SMOOTH = 1e-5


class DiceCE(PixelLoss):
    """dice_weight * soft Dice + ce_weight * cross-entropy; `squared` squares the terms of Dice's denominator.

    batch: Dice of all images of the micro-batch as one, as TransUNet trains on slices: most classes are absent from
    most slices, and the Dice of an absent class alone is all but constant.
    """

    overlapping = False

    def __init__(
        self, *, dice_weight: float = 1.0, ce_weight: float = 1.0, squared: bool = True, batch: bool = False
    ) -> None:
        super().__init__()
        self.dice_weight, self.ce_weight, self.squared, self.batch = dice_weight, ce_weight, squared, batch

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """logits (B, Q, *S) and labels (B, *S) -> {"loss", "dice", "ce"}, scalars in float32."""
        sums = partial(softmax_sums, squared=self.squared)
        ce, overlap, sizes = sum_over_blocks(sums, logits.flatten(2), target.flatten(1))
        ce, dice = ce / target.numel(), dice_loss(overlap, sizes, batch=self.batch)
        return {"loss": self.dice_weight * dice + self.ce_weight * ce, "dice": dice, "ce": ce}

    @staticmethod
    def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence of softmax(teacher) from softmax(logits), both (B, Q, *S), mean over voxels."""
        ours, theirs = logits.float().log_softmax(dim=1), teacher.float().log_softmax(dim=1)
        return (theirs.exp() * (theirs - ours)).sum(dim=1).mean()


def softmax_sums(logits: Tensor, labels: Tensor, *, squared: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What the loss sums over voxels, of logits (B, Q, V) and labels (B, V).

    Returns the cross-entropy (), and of every image and class, (B, Q): probability on the truth, and probability,
    squared or not, plus voxels of the truth, Dice's numerator and denominator. There is no one-hot target.
    """
    log_probs = logits.float().log_softmax(dim=1)
    ce = F.nll_loss(log_probs, labels, reduction="sum")
    probs = log_probs.exp()
    of_truth = probs.gather(1, labels.unsqueeze(1)).squeeze(1)
    zeros = probs.new_zeros(probs.shape[:2])
    overlap = zeros.scatter_add(1, labels, of_truth)
    truth = zeros.scatter_add(1, labels, torch.ones_like(of_truth))
    predicted = (probs.square() if squared else probs).sum(dim=2)
    return ce, overlap, predicted + truth


def dice_loss(overlap: Tensor, sizes: Tensor, *, batch: bool = False) -> Tensor:
    """1 - Dice from its sums (B, Q), mean over images and classes, background included; equal to MONAI's DiceLoss.

    batch: the images count as one
    """
    if batch:
        overlap, sizes = overlap.sum(dim=0), sizes.sum(dim=0)
    return (1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean()
