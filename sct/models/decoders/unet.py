"""The expanding path of a small U-Net: APFormer's decoder.

Letters: B batch, N tokens of the grid, C width, Q classes, S spatial size.
"""

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.convolutions import double_conv, size_keeping_conv
from sct.models.decoders.base import Decoder, doubling_steps
from sct.models.decoders.levels import LevelHeads
from sct.models.grid import resize, to_grid
from sct.models.patch import kernel_at
from sct.models.tokens import Decoded, Dense, FeatureSpec


class UNet(Decoder):
    """Joins the tokens with the maps of the encoder's pyramid, from coarse to fine.

    A 1x1 convolution maps the tokens to the width of the coarsest map. A step is linear up-sampling by 2, concatenation
    with the map, and a double convolution to the width of the next finer map. Where the finest map is coarser than the
    image, the logits are interpolated. Along an axis with a smaller patch, the finest steps keep the resolution, and
    convolutions there have extent 1.

    deep_supervision: also logits of the coarser levels in training, except the coarsest, each with a loss of its own
    """

    def __init__(self, *, spec: FeatureSpec, num_classes: int, deep_supervision: bool = False) -> None:
        super().__init__()
        if not spec.pyramid_channels:
            raise UserError(
                "decoder=unet needs the pyramid of an encoder with a convolutional stem, and this encoder has none. "
                "Choose encoder=apformer, transunet or ap_transunet, or, for this encoder, decoder=unetr or cup."
            )
        steps, widths, point = (
            doubling_steps(spec.patch_size, decoder="unet"),
            spec.pyramid_channels,
            (1,) * spec.spatial_dims,
        )
        self.enter = size_keeping_conv(spec.dim, widths[-1], kernel_size=point, bias=False)
        self.steps = nn.ModuleList(
            double_conv(
                2 * width, finer, mid_channels=width, kernel_size=kernel_at(len(steps) - number, spec.patch_size)
            )
            for number, (width, finer) in enumerate(
                zip(reversed(widths), [*reversed(widths[:-1]), widths[0]], strict=True), start=1
            )
        )
        self.classify = size_keeping_conv(widths[0], num_classes, kernel_size=point)
        self.level_heads = LevelHeads(
            widths[:-1], num_classes=num_classes, spatial_dims=spec.spatial_dims, enabled=deep_supervision
        )
        self.num_levels = len(self.level_heads)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) and pyramid -> Decoded with logits (B, Q, *S)."""
        x = self.enter(to_grid(dense.x, dense.grid))
        maps: list[Tensor] = []
        for step, skip in zip(self.steps, reversed(dense.pyramid), strict=True):
            x = step(torch.cat([resize(x, skip.shape[2:]), skip], dim=1))
            maps.append(x)
        logits = self.classify(x)
        if logits.shape[2:] != image.shape[2:]:
            logits = resize(logits, image.shape[2:])
        return Decoded(logits, levels=self.level_heads(reversed(maps[:-1])))
