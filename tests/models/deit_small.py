"""ViT-S as a classifier of 224 x 224 images, for the costs that papers print.

They count what fvcore counts, norms included (5 an element), and the class head on top.
"""

from collections.abc import Callable

import torch
from torch import nn

from sct.models.encoder import ViTEncoder
from sct.profiling.macs import count_macs, count_parameters


class DeiTSmall(nn.Module):
    """Patch 16, width 384, 12 blocks, 6 heads; a linear of 1000 classes on the class token."""

    def __init__(self, reducer: Callable | None = None):
        super().__init__()
        self.encoder = ViTEncoder(
            image_size=(224, 224), in_channels=3, patch_size=16, dim=384, depth=12, num_heads=6, reducer=reducer
        )
        self.head = nn.Linear(384, 1000)

    def forward(self, image):
        return self.head(self.encoder(image).prefix[:, 0])


def cost(reducer: Callable | None = None) -> tuple[float, float]:
    """GMACs of an image and millions of parameters, on the meta device."""
    with torch.device("meta"):
        network = DeiTSmall(reducer)
        macs = count_macs(network, torch.empty(1, 3, 224, 224))["total"]
    return macs / 1e9, count_parameters(network) / 1e6
