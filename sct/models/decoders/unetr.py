"""The UNETR decoder for any power-of-two patch size, in 2-D and 3-D.

Letters: B batch, N tokens of the grid, C width, Q classes, S spatial size, f feature size.
"""

from collections.abc import Sequence
from typing import Any, Literal

from monai.networks.blocks.dynunet_block import UnetOutBlock, UnetResBlock, get_conv_layer
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.recompute import recomputed
from sct.models.decoders.base import Decoder, doubling_steps
from sct.models.decoders.levels import LevelHeads
from sct.models.grid import to_grid
from sct.models.patch import Extent, in_config, kernel_at
from sct.models.tokens import Decoded, Dense, FeatureSpec


class UNETR(Decoder):
    """Up-sampling steps from the token grid to the image, with a skip connection at each scale.

    For patch size 2^m:

    | layout | steps | skip connections from tokens | as in |
    |---|---|---|---|
    | shallow | m | m - 1 | MONAI's UNETR (m = 4), the STP paper's BraTS network (m = 3) |
    | deep | m + 1 | m, one of them at the token grid | the STP paper's BTCV network |

    `layout="deep"` first pools the tokens to half the grid. Full resolution has `feature_size` channels, and each
    halving of the resolution doubles them. A sparse encoder has no intermediate snapshots; all skip connections then
    read the completed tokens.

    Along an axis with a smaller patch, the finest steps keep the resolution: there, transposed convolutions and
    convolutions have extent 1 along this axis.

    `recompute` computes the activations of all steps except the last again in the backward pass, instead of keeping
    them. They are about a third of the activations of a full-size sparse network.

    feature_size: channels at full resolution; each halving of the resolution doubles them
    layout: shallow, or deep (with one level below the token grid)
    recompute: compute activations again in the backward pass: less memory, more time in training
    deep_supervision: also logits of the coarser levels in training, except the coarsest, each with a loss of its own
    """

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_classes: int,
        feature_size: int = 16,
        layout: Literal["shallow", "deep"] = "shallow",
        recompute: bool = True,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        steps = doubling_steps(spec.patch_size, decoder="unetr")
        if layout not in ("shallow", "deep"):
            raise UserError(f"decoder.layout={layout!r} must be 'shallow' or 'deep'.")
        deep = layout == "deep"
        if deep and any(size % 2 for size in spec.grid):
            raise UserError(
                f"decoder.layout=deep halves the token grid {spec.grid}, which must be even: make data.roi_size "
                f"divisible by {in_config([2 * edge for edge in spec.patch_size])}, or set decoder.layout=shallow."
            )
        dims, grid_level = spec.spatial_dims, len(steps)
        levels = grid_level + int(deep)
        self.num_skips = levels - 1
        self.recompute = recompute
        if spec.num_taps not in (0, self.num_skips):
            raise UserError(
                f"decoder=unetr with layout={layout} at patch size {in_config(spec.patch_size)} has {self.num_skips} "
                f"skip connections from tokens, but encoder.taps gives {spec.num_taps}; set "
                f"encoder.taps={self.num_skips}."
            )
        block: dict[str, Any] = {"spatial_dims": dims, "norm_name": "instance", "res_block": True}
        # the step up to each level, and the kernels there
        ups = [*steps, (2,) * dims][:levels]
        kernels = [kernel_at(level, spec.patch_size) for level in range(levels)]
        # channels[i] at 1 / 2^i of the full resolution
        channels = [feature_size * 2**i for i in range(levels)]
        self.image_skip = UnetrBasicBlock(
            in_channels=spec.in_channels, out_channels=channels[0], stride=1, kernel_size=kernels[0], **block
        )
        self.skips = nn.ModuleList()
        for level in range(1, levels):
            if level == grid_level:
                settings: dict[str, Any] = {"kernel_size": kernels[level], "stride": 1, **block}
                self.skips.append(UnetrBasicBlock(in_channels=spec.dim, out_channels=channels[level], **settings))
            else:
                between = slice(level, grid_level)
                self.skips.append(projection(spec.dim, channels[level], steps=ups[between], kernels=kernels[between]))
        self.bottleneck = halving_pool(dims) if deep else nn.Identity()
        self.ups = nn.ModuleList(
            UnetrUpBlock(in_channels=above, out_channels=out, upsample_kernel_size=step, kernel_size=kernel, **block)
            for above, out, step, kernel in zip([*channels[1:], spec.dim], channels, ups, kernels, strict=True)
        )
        # at full resolution a training step has its peak of memory
        self.ups[0].conv_block = LeanResBlock(
            dims, 2 * feature_size, feature_size, kernel_size=kernels[0], stride=1, norm_name="instance"
        )
        self.head = UnetOutBlock(spatial_dims=dims, in_channels=feature_size, out_channels=num_classes)
        self.level_heads = LevelHeads(
            channels[1:], num_classes=num_classes, spatial_dims=dims, enabled=deep_supervision
        )
        self.num_levels = len(self.level_heads)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) -> Decoded with logits (B, Q, *S)."""
        taps = dense.taps or [dense.x] * self.num_skips
        x = self.bottleneck(to_grid(dense.x, dense.grid))
        coarser: list[Tensor] = []
        for level in range(self.num_skips, 0, -1):
            skip = self.run(self.skips[level - 1], to_grid(taps[level - 1], dense.grid))
            x = self.run(self.ups[level], x, skip)
            coarser.append(x)
        logits = self.head(self.ups[0](x, self.run(self.image_skip, image)))
        return Decoded(logits, levels=self.level_heads(reversed(coarser)))

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """Runs a block; in training with `recompute` its activations are not kept."""
        if self.training and self.recompute:
            return recomputed(block, *inputs)
        return block(*inputs)


class LeanResBlock(UnetResBlock):
    """MONAI's residual block with the same weights and output; it keeps a seventh less for the backward pass.

    The shortcut is computed first, so its backward pass comes last, when the activations of the main branch are freed.
    The activations of the shortcut (one 1x1 convolution) are then computed again. The sum is a new tensor: MONAI adds
    in place into a view, which needs copies in the backward pass.
    """

    def forward(self, inp: Tensor) -> Tensor:
        """inp (B, C_in, *S) -> (B, C_out, *S)."""
        residual = recomputed(self.shortcut, inp)
        out = self.norm2(self.conv2(self.lrelu(self.norm1(self.conv1(inp)))))
        return self.lrelu(out + residual)

    def shortcut(self, inp: Tensor) -> Tensor:
        return self.norm3(self.conv3(inp))


def projection(dim: int, channels: int, *, steps: Sequence[Extent], kernels: Sequence[Extent]) -> nn.Module:
    """From the token grid up to a level: MONAI's block with a step and a kernel of its own at each level, finest first.

    A transposed convolution to `channels`, then for each further step a transposed convolution and a residual block.
    """
    dims, (*finer, first) = len(steps[0]), steps
    common: dict[str, Any] = {"spatial_dims": dims, "in_channels": channels, "out_channels": channels}
    block = UnetrPrUpBlock(
        dims, dim, channels, num_layer=0, kernel_size=3, stride=1, upsample_kernel_size=first, norm_name="instance",
        conv_block=True, res_block=True,
    )  # fmt: skip
    for step, kernel in zip(reversed(finer), reversed(kernels[:-1]), strict=True):
        up = get_conv_layer(kernel_size=step, stride=step, conv_only=True, is_transposed=True, **common)
        block.blocks.append(
            nn.Sequential(up, UnetResBlock(kernel_size=kernel, stride=1, norm_name="instance", **common))
        )
    return block


def halving_pool(spatial_dims: int) -> nn.Module:
    """Average pooling with kernel 3, stride 2, padding 1, by a separate layer: AvgPool3d's padding fails for size 2."""
    pad, pool = {2: (nn.ConstantPad2d, nn.AvgPool2d), 3: (nn.ConstantPad3d, nn.AvgPool3d)}[spatial_dims]
    return nn.Sequential(pad(1, 0.0), pool(kernel_size=3, stride=2))
