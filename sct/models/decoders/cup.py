"""TransUNet's cascaded up-sampler (CUP).

Letters: B batch, N tokens of the grid, C width, Q classes, S spatial size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.convolutions import CONVOLUTION, conv_bn_relu, double_conv
from sct.models.decoders.base import Decoder, doubling_steps
from sct.models.grid import resize, to_grid
from sct.models.tokens import Decoded, Dense, FeatureSpec


class CUP(Decoder):
    """Convolution to `hidden` channels, a step for each factor 2 of the patch size, and a 3^d convolution to classes.

    A step is linear up-sampling by 2, concatenation with the pyramid's map of the same resolution (if the encoder has
    one), and a double convolution to `widths[i]` channels. Without a pyramid it is the paper's CUP on a plain ViT.
    Interpolation here aligns the borders of the maps; in TransUNet's program it aligns their corners.

    hidden: channels after the first convolution
    widths: channels after each doubling of the resolution, one value for each factor 2 of encoder.patch_size
    """

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_classes: int,
        hidden: int = 512,
        widths: Sequence[int] = (256, 128, 64, 16),
    ) -> None:
        super().__init__()
        steps = doubling_steps(spec.patch_size, decoder="cup")
        if len(widths) != steps:
            raise UserError(
                f"decoder.widths={list(widths)} has {len(widths)} widths, but decoder=cup needs one for each doubling "
                f"from the token grid to the image: {steps} for encoder.patch_size={spec.patch_size}."
            )
        dims = spec.spatial_dims
        # channels of the skip connection of each step, coarse to fine; 0: no skip connection
        skips = [*reversed(spec.pyramid_channels), *[0] * (steps - len(spec.pyramid_channels))]
        self.enter = conv_bn_relu(dims, spec.dim, hidden)
        self.steps = nn.ModuleList(
            double_conv(dims, above + skip, width, mid_channels=width)
            for above, skip, width in zip([hidden, *widths[:-1]], skips, widths, strict=True)
        )
        self.classify = CONVOLUTION[dims](widths[-1], num_classes, 3, padding=1)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) and pyramid -> Decoded with logits (B, Q, *S)."""
        x = self.enter(to_grid(dense.x, dense.grid))
        skips = [*reversed(dense.pyramid)]
        for number, step in enumerate(self.steps):
            x = resize(x, [2 * size for size in x.shape[2:]])
            x = step(torch.cat([x, *skips[number : number + 1]], dim=1))
        return Decoded(self.classify(x))
