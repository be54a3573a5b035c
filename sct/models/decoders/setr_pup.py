"""The progressive up-sampling decoder of SETR (PUP).

Letters: B batch, N tokens of the grid, C width, Q classes, S spatial size.
"""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sct.models.decoders.base import Decoder, doubling_steps
from sct.models.grid import resize, to_grid
from sct.models.tokens import Decoded, Dense, FeatureSpec


class SETRPUP(Decoder):
    """Steps of 3^d convolution, norm, ReLU and linear up-sampling by 2, then a 1x1 convolution to the classes.

    There is one step for each factor 2 of the patch size. As in SETR's program, the 1x1 convolution is computed before
    the last up-sampling: both are linear and commute, and its cost is 2^d times lower there. `norm="batch"` is the
    paper's, `norm="instance"` is for small batches.

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
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spec.spatial_dims]
        norms: dict[str, dict[int, Callable[..., nn.Module]]] = {
            "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
            "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
        }
        make_norm = norms[norm][spec.spatial_dims]
        steps = doubling_steps(spec.patch_size, decoder="setr_pup")
        widths = [spec.dim] + [hidden] * steps
        self.steps = nn.ModuleList(
            # no bias: the norm would subtract it
            nn.Sequential(convolution(width, hidden, 3, padding=1, bias=False), make_norm(hidden, affine=True))
            for width in widths[:-1]
        )
        self.classify = convolution(hidden, num_classes, 1)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) -> Decoded with logits (B, Q, *S)."""
        x = to_grid(dense.x, dense.grid)
        for number, step in enumerate(self.steps):
            if number:
                x = resize(x, [2 * size for size in x.shape[2:]])
            x = F.relu(step(x))
        return Decoded(resize(self.classify(x), image.shape[2:]))
