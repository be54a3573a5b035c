"""The decoder of SegViT: attention-to-mask (ATM) on the last layer of the encoder alone, as in DToP.

Letters: B batch, N tokens of the grid, C width, Q classes, S spatial size.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sct.errors import UserError
from sct.models.blocks.layers import init_weights
from sct.models.decoders.base import Decoder
from sct.models.exits import mask_canvas, predict
from sct.models.grid import resize
from sct.models.heads import ATMHead
from sct.models.tokens import Decoded, Dense, FeatureSpec


class ATM(Decoder):
    """`ATMHead` on the tokens; masks are interpolated linearly and multiplied by the probability of their class.

    logits = log(softmax(class)[present] x sigmoid(mask)). The masks are interpolated as logits, which keeps borders
    sharp; `interpolate="probabilities"` interpolates the products, as the authors' program does. Tokens that left
    early (DToP, completion=scatter) keep their early masks; these are multiplied by the class probabilities of this
    head, too.

    width: channels of the head; null: half the encoder's width
    num_heads: number of attention heads
    num_layers: number of decoder layers, in which class tokens attend to the image tokens
    interpolate: what is interpolated to the image: logits of the masks, or probabilities (as the authors' program)
    """

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_classes: int,
        width: int | None = None,
        num_heads: int = 6,
        num_layers: int = 3,
        interpolate: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        super().__init__()
        if spec.overlapping:
            raise UserError(
                "decoder=atm needs classes that exclude each other, but data has overlapping regions. Choose "
                "another decoder, such as fcn or unetr, or data.regions=null with loss=dice_ce."
            )
        self.interpolate = interpolate
        self.head = ATMHead(spec.dim, num_classes=num_classes, width=width, num_heads=num_heads, num_layers=num_layers)
        self.apply(init_weights)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) -> logits (B, Q, *S), masks on the grid and class scores."""
        head = predict(self.head, dense, canvas=mask_canvas)
        assert head.classes is not None
        present = head.classes.log_softmax(dim=-1)[..., 0]
        # a sum of logarithms: finite also where the product would round to zero
        if self.interpolate == "logits":
            masks = F.logsigmoid(resize(head.masks, image.shape[2:]))
        else:
            masks = resize(head.masks.float().sigmoid(), image.shape[2:]).clamp_min(1e-30).log()
        return Decoded(masks + present.reshape(*present.shape, *[1] * len(dense.grid)), head)
