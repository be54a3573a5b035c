"""Dice plus cross-entropy: in its plain form the loss of the STP paper, by default in a form that finds rare classes.

Letters: B batch, Q classes, S spatial size, V voxels of it.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.losses.base import PixelLoss, known_mean
from sct.losses.blocks import sum_over_blocks

SMOOTH = 1e-5


class DiceCE(PixelLoss):
    """dice_weight * soft Dice + ce_weight * cross-entropy; `squared` squares the terms of Dice's denominator.

    batch: Dice of all images of the micro-batch as one, as TransUNet trains on slices: most classes are absent from
    most slices, and the Dice of an absent class alone is all but constant.
    log: minus the logarithm of Dice instead of 1 - Dice, of the classes that are present, see `dice_loss`.
    dice_weight: weight of soft Dice in the loss
    ce_weight: weight of the cross-entropy
    squared: the squares of the probabilities in the denominator of Dice
    """

    overlapping = False

    def __init__(
        self,
        *,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        squared: bool = True,
        batch: bool = False,
        log: bool = False,
    ) -> None:
        super().__init__()
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.squared, self.batch, self.log = squared, batch, log

    def forward(self, logits: Tensor, target: Tensor, known: Tensor | None = None) -> dict[str, Tensor]:
        """logits (B, Q, *S), labels and voxels that count (B, *S) -> {"loss", "dice", "ce"}, scalars in float32."""
        sums = partial(softmax_sums, squared=self.squared)
        counted = [] if known is None else [known.flatten(1)]
        ce, overlap, sizes, truth = sum_over_blocks(sums, logits.flatten(2), target.flatten(1), *counted)
        num_voxels = target.numel() if known is None else known.sum().clamp_min(1)
        ce, dice = ce / num_voxels, dice_loss(overlap, sizes, truth, batch=self.batch, log=self.log)
        return {"loss": self.dice_weight * dice + self.ce_weight * ce, "dice": dice, "ce": ce}

    @staticmethod
    def divergence(logits: Tensor, teacher: Tensor, known: Tensor | None = None) -> Tensor:
        """KL divergence of softmax(teacher) from softmax(logits), both (B, Q, *S), mean over voxels that count."""
        ours, theirs = logits.float().log_softmax(dim=1), teacher.float().log_softmax(dim=1)
        return known_mean((theirs.exp() * (theirs - ours)).sum(dim=1), known)


def softmax_sums(
    logits: Tensor, labels: Tensor, known: Tensor | None = None, *, squared: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the loss sums over voxels, of logits (B, Q, V), labels (B, V) and the voxels that count, bool (B, V).

    Returns the cross-entropy (), and of every image and class, (B, Q): probability on the truth; probability, squared
    or not, plus voxels of the truth; and voxels of the truth alone. There is no one-hot target.
    """
    log_probs = logits.float().log_softmax(dim=1)
    probs = log_probs.exp()
    if known is None:
        ce = F.nll_loss(log_probs, labels, reduction="sum")
        ones = torch.ones_like(log_probs[:, 0])
    else:
        ones = known.to(probs.dtype)
        ce = (F.nll_loss(log_probs, labels, reduction="none") * ones).sum()
        probs = probs * ones.unsqueeze(1)
    of_truth = probs.gather(1, labels.unsqueeze(1)).squeeze(1)
    zeros = probs.new_zeros(probs.shape[:2])
    overlap = zeros.scatter_add(1, labels, of_truth)
    truth = zeros.scatter_add(1, labels, ones)
    predicted = (probs.square() if squared else probs).sum(dim=2)
    return ce, overlap, predicted + truth, truth


def dice_loss(overlap: Tensor, sizes: Tensor, truth: Tensor, *, batch: bool = False, log: bool = False) -> Tensor:
    """1 - Dice from its sums (B, Q), mean over images and classes, background included; equal to MONAI's DiceLoss.

    batch: the images count as one
    log: -log(Dice), mean over the classes that the truth has (of every image, or with `batch` of all), 0 where it has
        none. Near Dice 1 both are the same. Where a class has the probability p everywhere, the gradient of 1 - Dice on
        its logits is proportional to p. Cross-entropy takes p down to the share of the class first, and a rare class
        then waits until the others have been learnt. The gradient of -log(Dice) does not depend on p.
    """
    if batch:
        overlap, sizes, truth = overlap.sum(dim=0), sizes.sum(dim=0), truth.sum(dim=0)
    score = (2 * overlap + SMOOTH) / (sizes + SMOOTH)
    if not log:
        return (1 - score).mean()
    present = (truth > 0).to(score.dtype)
    return -(score.log() * present).sum() / present.sum().clamp_min(1)
