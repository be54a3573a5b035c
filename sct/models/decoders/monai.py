"""Networks of MONAI as baselines, through the same data, training and evaluation.

Letters: B batch, Q classes, S spatial size.
"""

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from sct.errors import UserError
from sct.models.decoders.base import Decoder
from sct.models.tokens import Decoded, Dense, FeatureSpec


class MonaiNetwork(Decoder):
    """A whole network of MONAI; it looks at the image alone, so the encoder in front of it is `ImageOnly`.

    `network` is called with in_channels and out_channels, and with spatial_dims and img_size where it has them.
    `multiple_of`: what the network's own down-sampling needs the image size to be divisible by.

    network: a network class of MONAI and its settings, _partial_: true
    multiple_of: number of voxels that the network's down-sampling needs the window's sides to be divisible by
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
        known = inspect.signature(network).parameters
        sizes = {"spatial_dims": spec.spatial_dims, "img_size": spec.image_size}
        given = {name: value for name, value in sizes.items() if name in known}
        self.network = network(in_channels=spec.in_channels, out_channels=num_classes, **given)
        # MONAI's modules do not say it themselves
        names = (f"network.{name}" for name, _ in self.network.named_parameters())
        self.no_weight_decay = tuple(name for name in names if "position" in name or "token" in name)

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), features of no token -> Decoded with logits (B, Q, *S)."""
        return Decoded(self.network(image))
