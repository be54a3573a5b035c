"""Networks of MONAI as baselines, with the same data, training and evaluation.

Letters: B batch, Q classes, S spatial size.
"""

import inspect
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from sct.errors import UserError
from sct.models.decoders.base import Decoder
from sct.models.tokens import Decoded, Dense, FeatureSpec


class MonaiNetwork(Decoder):
    """A complete network of MONAI; its input is the image alone, so its encoder is `ImageOnly`.

    `network` is called with in_channels and out_channels, and with spatial_dims and img_size if it takes them.

    network: a network class of MONAI and its settings, with _partial_: true
    multiple_of: the sides of the window must be divisible by this number, for the network's down-sampling
    """

    def __init__(
        self, *, spec: FeatureSpec, num_classes: int, network: Callable[..., nn.Module], multiple_of: int = 1
    ) -> None:
        super().__init__()
        if any(size % multiple_of for size in spec.image_size):
            raise UserError(
                f"data.roi_size={list(spec.image_size)} must be divisible by {multiple_of} for this network "
                "(model.multiple_of); change data.roi_size."
            )
        parameters = inspect.signature(network).parameters
        sizes = {"spatial_dims": spec.spatial_dims, "img_size": spec.image_size}
        sizes = {name: value for name, value in sizes.items() if name in parameters}
        self.network = network(in_channels=spec.in_channels, out_channels=num_classes, **sizes)
        supervised = getattr(self.network, "deep_supervision", False)
        self.num_levels = cast(int, self.network.deep_supr_num) if supervised else 0
        # MONAI's modules have no `no_weight_decay`
        names = (f"network.{name}" for name, _ in self.network.named_parameters())
        self.no_weight_decay = tuple(name for name in names if "position" in name or "token" in name)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S); dense has no tokens -> Decoded with logits (B, Q, *S)."""
        output = self.network(image)
        # with deep supervision, MONAI's networks give the logits of all levels in training, stacked at full resolution
        logits, *coarser = output.unbind(dim=1) if output.ndim > image.ndim else [output]
        return Decoded(logits, levels=coarser)
