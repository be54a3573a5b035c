"""The naive decoder of SETR: it classifies each token alone, then interpolates.

Letters: B batch, N tokens of the grid, C width, Q classes, S spatial size.
"""

from typing import Literal

from torch import Tensor

from sct.models.blocks.layers import init_weights
from sct.models.decoders.base import Decoder
from sct.models.exits import class_canvas, predict
from sct.models.grid import resize
from sct.models.heads import FCNHead
from sct.models.tokens import Decoded, Dense, FeatureSpec


class FCN(Decoder):
    """`FCNHead` on the tokens; its class logits are interpolated linearly to the image. The image itself is not used.

    Tokens that left early (DToP, completion=scatter) keep their early logits.

    hidden: channels between the two linear layers
    norm: normalisation: batch (as published) or layer (for small batches)
    """

    def __init__(
        self, *, spec: FeatureSpec, num_classes: int, hidden: int = 256, norm: Literal["batch", "layer"] = "batch"
    ) -> None:
        super().__init__()
        self.head = FCNHead(spec.dim, num_classes=num_classes, hidden=hidden, norm=norm)
        self.apply(init_weights)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) -> logits (B, Q, *S), and masks on the grid."""
        head = predict(self.head, dense, canvas=class_canvas)
        return Decoded(resize(head.masks, image.shape[2:]), head)
