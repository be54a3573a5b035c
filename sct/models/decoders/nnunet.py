"""nnU-Net's plain U-Net as a baseline, with the same data, training and evaluation.

Letters: B batch, Q classes, S spatial size.
"""

import math
import sys
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.convolutions import CONVOLUTION, INSTANCE_NORM
from sct.models.decoders.base import Decoder
from sct.models.tokens import Decoded, Dense, FeatureSpec


class NnUNet(Decoder):
    """`PlainConvUNet` of the package dynamic-network-architectures, with the settings of nnU-Net's planner.

    Convolutions have kernels of 3^dims. Raises `UserError` where the package is not installed.

    features: channels of each stage; all stages except the first halve the resolution
    last_stride: by how much the last stage divides each axis, such as [1, 1, 2], where the planner leaves the axes that
        have too few voxels; null: it halves all
    num_convs: number of convolutions of each stage, in the contracting and in the expanding path
    deep_supervision: also logits of the coarser levels in training, except the coarsest, each with a loss of its own
    """

    def __init__(
        self, *, spec: FeatureSpec, num_classes: int, features: Sequence[int] = (32, 64, 128, 256, 320, 320),
        num_convs: int = 2, last_stride: Sequence[int] | None = None, deep_supervision: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_levels = len(features) - 3 if deep_supervision else 0
        try:
            from dynamic_network_architectures.architectures.unet import PlainConvUNet
        except ImportError as error:
            raise UserError(
                "model=nnunet needs the package dynamic-network-architectures: "
                f"{sys.executable} -m pip install --no-deps dynamic-network-architectures  (its plain "
                "U-Net needs nothing else)."
            ) from error
        stages = len(features)
        strides = [[1] * spec.spatial_dims, *[[2] * spec.spatial_dims] * (stages - 1)]
        if last_stride is not None:
            if len(last_stride) != spec.spatial_dims or not set(last_stride) <= {1, 2}:
                raise UserError(
                    f"model.last_stride={list(last_stride)} must be {spec.spatial_dims} numbers that are 1 or 2, or "
                    "null."
                )
            strides[-1] = list(last_stride)
        multiples = [math.prod(along) for along in zip(*strides, strict=True)]
        if any(size % multiple for size, multiple in zip(spec.image_size, multiples, strict=True)):
            raise UserError(
                f"data.roi_size={list(spec.image_size)} must be divisible by {multiples} for the {stages} stages of "
                "model.features; change one of them."
            )
        self.network = PlainConvUNet(
            spec.in_channels,
            stages,
            list(features),
            CONVOLUTION[spec.spatial_dims],
            3,
            strides,
            num_convs,
            num_classes,
            num_convs,
            conv_bias=True,
            norm_op=INSTANCE_NORM[spec.spatial_dims],
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=self.num_levels > 0,
        )
        # the package makes a head for every level, coarsest first; one without a loss would get no gradient
        heads = self.network.decoder.seg_layers
        heads[: -1 - self.num_levels].requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """In evaluation the heads of coarser levels are not computed."""
        self.network.decoder.deep_supervision = mode and self.num_levels > 0
        return super().train(mode)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S); dense has no tokens -> Decoded with logits (B, Q, *S)."""
        if not (self.training and self.num_levels):
            return Decoded(self.network(image))
        logits, *coarser = self.network(image)
        return Decoded(logits, levels=coarser[: self.num_levels])
