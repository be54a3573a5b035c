"""SegViT's loss for heads of class queries (ATM): is a class present, and where.

Letters: B batch, Q classes, S spatial size, V voxels of it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sct.config.parts import part
from sct.losses.base import known_mean
from sct.models.grid import resize
from sct.models.tokens import HeadOutput


@part
class QueryLoss(nn.Module):
    """class_weight * CE of presence + focal_weight * focal + dice_weight * Dice of the masks of present classes.

    Presence is decided for every class of every image; `absent_weight` is the weight of absent ones in the CE.
    Focal loss with `alpha` and `gamma` on every voxel of a mask. Queries are the classes, so nothing is matched.

    class_weight: weight of the cross-entropy of presence
    focal_weight: weight of the focal loss of the masks
    dice_weight: weight of the Dice of the masks
    absent_weight: weight of absent classes in the cross-entropy of presence
    alpha: weight of foreground in the focal loss, 0 to 1
    gamma: exponent of the focal loss: how little voxels count that are right already
    """

    def __init__(
        self,
        *,
        class_weight: float = 1.0,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        absent_weight: float = 0.1,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.class_weight, self.focal_weight, self.dice_weight = class_weight, focal_weight, dice_weight
        self.absent_weight, self.alpha, self.gamma = absent_weight, alpha, gamma

    def forward(self, head: HeadOutput, target: Tensor, known: Tensor | None = None) -> dict[str, Tensor]:
        """Masks (B, Q, *grid) and classes (B, Q, 2), labels (B, *S) -> {"loss", "class", "focal", "mask_dice"}.

        known (B, *S) bool: which voxels count; the labels have background in the others. None: all count.
        """
        assert head.classes is not None
        logits = resize(head.masks.float(), target.shape[1:]).flatten(2)
        Q = logits.shape[1]
        truth = F.one_hot(target.flatten(1), Q).transpose(1, 2).to(logits.dtype)
        counted = None
        if known is not None:
            counted = known.flatten(1).unsqueeze(1).expand_as(truth)
            truth = truth * counted
        present = truth.amax(dim=2) > 0
        # index 0 of the two logits is "present"
        labels = (~present).long()
        weights = logits.new_tensor([1.0, self.absent_weight])
        by_class = F.cross_entropy(head.classes.float().flatten(0, 1), labels.flatten(), weight=weights)
        masks, truth = logits[present], truth[present]
        counted = None if counted is None else counted[present]
        focal = focal_loss(masks, truth, counted, alpha=self.alpha, gamma=self.gamma)
        dice = mask_dice(masks, truth, counted)
        loss = self.class_weight * by_class + self.focal_weight * focal + self.dice_weight * dice
        return {"loss": loss, "class": by_class, "focal": focal, "mask_dice": dice}


def focal_loss(logits: Tensor, truth: Tensor, known: Tensor | None = None, *, alpha: float, gamma: float) -> Tensor:
    """Mean focal loss of binary masks over the voxels that count: logits, truth and known (M, V)."""
    ce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    right = probability * truth + (1 - probability) * (1 - truth)
    return known_mean((alpha * truth + (1 - alpha) * (1 - truth)) * ce * (1 - right) ** gamma, known)


def mask_dice(logits: Tensor, truth: Tensor, known: Tensor | None = None) -> Tensor:
    """1 - Dice of binary masks, logits, truth and what counts (M, V), with the usual + 1 against empty ones; mean over
    masks."""
    probability = logits.sigmoid() if known is None else logits.sigmoid() * known
    overlap = (probability * truth).sum(dim=1)
    return (1 - (2 * overlap + 1) / (probability.sum(dim=1) + truth.sum(dim=1) + 1)).mean()
