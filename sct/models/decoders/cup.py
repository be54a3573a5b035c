"""TransUNet's cascaded up-sampler (CUP).

Letters: B batch, N tokens of the grid, C width, Q classes, S spatial size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.convolutions import conv_bn_relu, double_conv, size_keeping_conv
from sct.models.decoders.base import Decoder, doubling_steps
from sct.models.decoders.levels import LevelHeads
from sct.models.grid import resize, to_grid
from sct.models.patch import in_config, kernel_at
from sct.models.tokens import Decoded, Dense, FeatureSpec


class CUP(Decoder):
    """Convolution to `hidden` channels, a step for each factor 2 of the patch size, and a 3^d convolution to classes.

    A step is linear up-sampling by 2, concatenation with the pyramid's map of the same resolution (if the encoder has
    one), and a double convolution to `widths[i]` channels. Without a pyramid it is the paper's CUP on a plain ViT.
    Along an axis with a smaller patch, the finest steps keep the resolution, and convolutions there have extent 1.
    Interpolation here aligns the borders of the maps; in TransUNet's program it aligns their corners.

    hidden: channels after the first convolution
    widths: channels after each doubling of the resolution, one value for each factor 2 of encoder.patch_size
    deep_supervision: also logits of the coarser levels in training, except the coarsest, each with a loss of its own
    """

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_classes: int,
        hidden: int = 512,
        widths: Sequence[int] = (256, 128, 64, 16),
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        steps = doubling_steps(spec.patch_size, decoder="cup")
        if len(widths) != len(steps):
            raise UserError(
                f"decoder.widths={list(widths)} has {len(widths)} widths, but decoder=cup needs one for each doubling "
                f"from the token grid to the image: {len(steps)} for encoder.patch_size={in_config(spec.patch_size)}."
            )
        # factors of each step, and levels that the steps lead to, coarse to fine
        self.factors = tuple(reversed(steps))
        kernels = [kernel_at(level, spec.patch_size) for level in reversed(range(len(steps)))]
        # channels of the skip connection of each step, coarse to fine; 0: no skip connection
        skips = [*reversed(spec.pyramid_channels), *[0] * (len(steps) - len(spec.pyramid_channels))]
        self.enter = conv_bn_relu(spec.dim, hidden, kernel_size=kernel_at(len(steps), spec.patch_size))
        self.steps = nn.ModuleList(
            double_conv(above + skip, width, mid_channels=width, kernel_size=kernel)
            for above, skip, width, kernel in zip([hidden, *widths[:-1]], skips, widths, kernels, strict=True)
        )
        self.classify = size_keeping_conv(widths[-1], num_classes, kernel_size=kernels[-1])
        self.level_heads = LevelHeads(
            list(reversed(widths[:-1])),
            num_classes=num_classes,
            spatial_dims=spec.spatial_dims,
            enabled=deep_supervision,
        )
        self.num_levels = len(self.level_heads)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) and pyramid -> Decoded with logits (B, Q, *S)."""
        x = self.enter(to_grid(dense.x, dense.grid))
        skips = [*reversed(dense.pyramid)]
        maps: list[Tensor] = []
        for number, (step, factors) in enumerate(zip(self.steps, self.factors, strict=True)):
            x = resize(x, [size * factor for size, factor in zip(x.shape[2:], factors, strict=True)])
            x = step(torch.cat([x, *skips[number : number + 1]], dim=1))
            maps.append(x)
        return Decoded(self.classify(x), levels=self.level_heads(reversed(maps[:-1])))
