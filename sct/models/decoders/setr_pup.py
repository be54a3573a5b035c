"""The progressive up-sampling decoder of SETR (PUP).

Letters: B batch, N tokens of the grid, C width, Q classes, S spatial size.
"""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sct.models.blocks.convolutions import size_keeping_conv
from sct.models.decoders.base import Decoder, doubling_steps
from sct.models.grid import resize, to_grid
from sct.models.patch import kernel_at
from sct.models.tokens import Decoded, Dense, FeatureSpec


class SETRPUP(Decoder):
    """Steps of 3^d convolution, norm, ReLU and linear up-sampling by 2, then a 1x1 convolution to the classes.

    There is one step for each factor 2 of the patch size. As in SETR's program, the 1x1 convolution is computed before
    the last up-sampling: both are linear and commute, and its cost is 2^d times lower there. `norm="batch"` is the
    paper's, `norm="instance"` is for small batches.
    Along an axis with a smaller patch, the finest steps keep the resolution, and convolutions there have extent 1.

    hidden: channels of the convolutions
    norm: normalisation: batch (as published) or instance (for small batches)
    """

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_classes: int,
        hidden: int = 256,
        norm: Literal["batch", "instance"] = "batch",
    ) -> None:
        super().__init__()
        norms: dict[str, dict[int, Callable[..., nn.Module]]] = {
            "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
            "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
        }
        make_norm = norms[norm][spec.spatial_dims]
        steps = doubling_steps(spec.patch_size, decoder="setr_pup")
        # factors of the steps between the convolutions, coarse to fine; the last step is after them
        self.factors = tuple(reversed(steps[1:]))
        # from the token grid to half of the image's resolution
        kernels = [kernel_at(level, spec.patch_size) for level in range(len(steps), 0, -1)]
        widths = [spec.dim] + [hidden] * (len(steps) - 1)
        self.steps = nn.ModuleList(
            # no bias: the norm would subtract it
            nn.Sequential(
                size_keeping_conv(width, hidden, kernel_size=kernel, bias=False), make_norm(hidden, affine=True)
            )
            for width, kernel in zip(widths, kernels, strict=True)
        )
        self.classify = size_keeping_conv(hidden, num_classes, kernel_size=(1,) * spec.spatial_dims)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) -> Decoded with logits (B, Q, *S)."""
        x = to_grid(dense.x, dense.grid)
        for number, step in enumerate(self.steps):
            if number:
                factors = self.factors[number - 1]
                x = resize(x, [size * factor for size, factor in zip(x.shape[2:], factors, strict=True)])
            x = F.relu(step(x))
        return Decoded(resize(self.classify(x), image.shape[2:]))
