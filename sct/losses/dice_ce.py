"""Dice plus cross-entropy, the loss of the STP paper.

Letters: B batch, Q classes, S spatial size.
"""

import torch.nn.functional as F
from monai.losses.dice import DiceLoss
from torch import Tensor, nn

from sct.models.tokens import Prediction


class DiceCE(nn.Module):
    """dice_weight * soft Dice (squared denominator, background included) + ce_weight * cross-entropy."""

    def __init__(self, *, dice_weight: float = 1.0, ce_weight: float = 1.0, squared: bool = True) -> None:
        super().__init__()
        self.dice = DiceLoss(include_background=True, to_onehot_y=True, softmax=True, squared_pred=squared)
        self.dice_weight, self.ce_weight = dice_weight, ce_weight

    def forward(self, prediction: Prediction, target: Tensor) -> dict[str, Tensor]:
        """logits (B, Q, *S) and labels (B, *S) -> {"loss", "dice", "ce"}, scalars in float32."""
        logits = prediction.logits.float()
        dice = self.dice(logits, target.unsqueeze(1))
        ce = F.cross_entropy(logits, target)
        return {"loss": self.dice_weight * dice + self.ce_weight * ce, "dice": dice, "ce": ce}
