"""Primus's decoder: transposed convolutions from the tokens to the voxels, and nothing at full resolution but logits.

Letters: B batch, N tokens of the grid, C width, W channels at the last step, m steps from the tokens to the image,
Q classes (or regions), D dimensions, S spatial size, t voxels of the last step along each axis.
"""

from collections.abc import Sequence
from itertools import chain, pairwise

from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.convolutions import CHANNELS_LAST, init_he, transposed_conv
from sct.models.decoders.base import ALL, TwoStageDecoder, doubling_steps
from sct.models.decoders.levels import LevelHeads
from sct.models.decoders.patchwise import Rung, from_patches
from sct.models.patch import in_config
from sct.models.tokens import Decoded, Dense, FeatureSpec


class Primus(TwoStageDecoder):
    """m - 1 steps of transposed convolution, LayerNorm and GELU, then a transposed convolution to the logits.

    m is log2 of the patch size. Kernel and stride of a step are equal, so every token alone becomes the voxels of its
    patch, and all that a voxel knows of other patches comes from the transformer. A step is computed as a linear layer
    from a place to its places one step finer; each of these has a bias of its own.
    Along an axis with a smaller patch, the finest steps keep the resolution (in the authors' program the coarsest).

    widths: channels after each step but the last, m - 1 numbers; null: as published, a geometric row from the encoder's
        width to twice the number of classes, in multiples of 8
    deep_supervision: also logits of the coarser levels in training, except the coarsest, each with a loss of its own
    """

    reach = 0
    num_alive = 0

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_classes: int,
        widths: Sequence[int] | None = None,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        steps = doubling_steps(spec.patch_size, decoder="primus")
        if widths is None:
            widths = published_widths(spec.dim, num_classes=num_classes, num_steps=len(steps))
        if len(widths) != len(steps) - 1:
            raise UserError(
                f"decoder.widths={list(widths)} has {len(widths)} widths, but decoder=primus needs one for each "
                f"doubling but the last: {len(steps) - 1} for encoder.patch_size={in_config(spec.patch_size)}. "
                "decoder.widths=null computes them."
            )
        self.stride = steps[0]
        channels = [spec.dim, *widths]
        self.rungs = nn.ModuleList(
            Rung(above, out, step=step, norm_eps=1e-6)
            for (above, out), step in zip(pairwise(channels), reversed(steps[1:]), strict=True)
        )
        self.num_features = channels[-1]
        self.head = transposed_conv(self.num_features, num_classes, step=self.stride)
        self.level_heads = LevelHeads(
            channels[:0:-1], num_classes=num_classes, spatial_dims=spec.spatial_dims, enabled=deep_supervision
        )
        self.num_levels = len(self.level_heads)
        self.head.apply(init_he)
        self.rungs.apply(init_rung)
        # features are in channels-last memory, so the head is, too
        self.to(memory_format=CHANNELS_LAST[spec.spatial_dims])  # type: ignore[call-overload]

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """Dense tokens (B, N, C) -> Decoded with logits (B, Q, *S); of the image only the size is used."""
        finest, *coarser = self.climb(dense)
        features = as_map(finest, dense)
        levels = self.level_heads(chain([features], (as_map(x, dense) for x in coarser)))
        return Decoded(self.voxels(features, image), levels=levels)

    def features(self, image: Tensor, dense: Dense) -> Tensor:
        """Dense tokens (B, N, C) -> features (B, W, *S / t) in channels-last memory; the image is not used."""
        return as_map(self.climb(dense)[0], dense)

    def climb(self, dense: Dense) -> list[Tensor]:
        """Dense tokens (B, N, C) -> features (B N, *s, W_i) of every patch after each step, finest first."""
        B, N, C = dense.x.shape
        steps = [dense.x.reshape(B * N, *[1] * len(dense.grid), C)]
        for rung in self.rungs:
            steps.append(rung(steps[-1]))
        return steps[::-1]

    def voxels(self, features: Tensor, image: Tensor, rows: slice = ALL) -> Tensor:
        """features (B, W, *S / t) -> logits (B, Q, *S); the image is not used."""
        return self.head(features)[:, :, rows]


def as_map(x: Tensor, dense: Dense) -> Tensor:
    """Features (B N, *s, W) of patches of s^D places -> the map (B, W, *g s) of the grid g, in channels-last memory."""
    B, N, _ = dense.x.shape
    return from_patches(x.reshape(B, N, *x.shape[1:]), dense.grid).movedim(-1, 1)


def init_rung(module: nn.Module) -> None:
    """A rung starts as the transposed convolution that it equals, see `init_he`. For `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=0.01, mode="fan_out")
        nn.init.zeros_(module.bias)


def published_widths(dim: int, *, num_classes: int, num_steps: int) -> list[int]:
    """Channels after each of the first m - 1 steps: dim (2 Q / dim)^(i / m), as multiples of 8, at least 8."""
    ratio = (2 * num_classes / dim) ** (1 / num_steps)
    return [8 * max(1, round(dim * ratio**step / 8)) for step in range(1, num_steps)]
