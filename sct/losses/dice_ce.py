"""Dice plus cross-entropy, the loss of the STP paper.

Letters: B batch, Q classes, S spatial size, V voxels of it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.losses.base import PixelLoss

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
        log_probs = logits.float().flatten(2).log_softmax(dim=1)
        labels = target.flatten(1)
        ce = F.nll_loss(log_probs, labels)
        dice = dice_loss(log_probs.exp(), labels, squared=self.squared, batch=self.batch)
        return {"loss": self.dice_weight * dice + self.ce_weight * ce, "dice": dice, "ce": ce}

    @staticmethod
    def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence of softmax(teacher) from softmax(logits), both (B, Q, *S), mean over voxels."""
        ours, theirs = logits.float().log_softmax(dim=1), teacher.float().log_softmax(dim=1)
        return (theirs.exp() * (theirs - ours)).sum(dim=1).mean()


def dice_loss(probs: Tensor, labels: Tensor, *, squared: bool, batch: bool) -> Tensor:
    """1 - Dice of probs (B, Q, V) against labels (B, V), mean over images and classes, background included.

    batch: the images count as one

    Equal to MONAI's DiceLoss; sums are taken without a one-hot target or other full-size copies, which at
    14 classes of 96^3 voxels would be the peak of a training step's memory.
    """
    B, Q, _ = probs.shape
    zeros = probs.new_zeros(B, Q)
    of_truth = probs.gather(1, labels.unsqueeze(1)).squeeze(1)
    overlap = zeros.scatter_add(1, labels, of_truth)
    truth = zeros.scatter_add(1, labels, torch.ones_like(of_truth))
    # the norm's backward pass makes one full-size tensor, that of a product of two would make three
    predicted = torch.linalg.vector_norm(probs, dim=2).square() if squared else probs.sum(dim=2)
    if batch:
        overlap, predicted, truth = (part.sum(dim=0) for part in (overlap, predicted, truth))
    return (1 - (2 * overlap + SMOOTH) / (predicted + truth + SMOOTH)).mean()
