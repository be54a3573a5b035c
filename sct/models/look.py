"""A first look: which patches of an image may hold foreground, before a window of it is predicted.

Letters: B batch, C channels of the image, D width, F statistics of a patch (4 for each channel), S spatial size, G the
grid of patches. A patch that reaches beyond the image is filled up with the image's outermost voxels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.config.parts import part
from sct.errors import UserError
from sct.models.patch import Extent, patch_sizes, token_grid
from sct.models.tokens import FeatureSpec

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
# of a patch, each a channel: mean, largest and smallest value, standard deviation
NUM_STATISTICS = 4


def patch_statistics(image: Tensor, *, patch_size: Extent) -> Tensor:
    """Mean, largest and smallest value and standard deviation of each patch of an image (B, C, *S): (B, 4 C, *G)."""
    missing = [-length % edge for length, edge in zip(image.shape[2:], patch_size, strict=True)]
    if any(missing):
        image = F.pad(image, [pad for end in reversed(missing) for pad in (0, end)], mode="replicate")
    mean, square, largest, smallest = image, image * image, image, image
    # the outermost axis first: the values that are reduced together then lie in rows, which is 3 to 10 times faster
    for axis, edge in enumerate(patch_size, start=2):
        mean, square = (values.unflatten(axis, (-1, edge)).mean(axis + 1) for values in (mean, square))
        largest = largest.unflatten(axis, (-1, edge)).amax(axis + 1)
        smallest = smallest.unflatten(axis, (-1, edge)).amin(axis + 1)
    deviation = (square - mean * mean).clamp_min(0).sqrt()
    return torch.cat([mean, largest, smallest, deviation], dim=1)


def framed(x: Tensor) -> Tensor:
    """x (B, D, *G) with one place more on each side, which repeats the outermost: (B, D, *(G + 2)).

    Beyond its end a scan goes on as it ends. With zeros there, the end of a scan would look like the edge of a crop,
    where half of an organ may be cut off: patches at the ends of scans would seem worth predicting.
    """
    for axis in range(2, x.ndim):
        x = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, -1, 1)], dim=axis)
    return x


@part
class FirstLook(nn.Module):
    """Convolutions on statistics of patches: one logit for each patch, whether it has a voxel of foreground.

    It sees a patch by four numbers a channel, and the patches round it up to `depth` patches away. A logit depends on
    nothing else, so a whole scan has the logits of its crops, but for patches that are nearer to the edge of a crop.
    It trains beside the network, on the same crops, and shares no weight with it. Whatever the network computes in, it
    computes in float32.

    patch_size: voxels of a patch: one number for all axes, or a list with one number for each axis
    dim: channels of the convolutions
    depth: number of convolutions with 3 patches along each axis
    """

    def __init__(self, *, spec: FeatureSpec, patch_size: int | Sequence[int], dim: int = 32, depth: int = 3) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("depth", depth)):
            if value < 1:
                raise UserError(f"look.{name}={value} must be at least 1.")
        convolution = CONVOLUTION[spec.spatial_dims]
        self.patch_size = patch_sizes(patch_size, num_axes=spec.spatial_dims, key="look.patch_size")
        token_grid(spec.image_size, self.patch_size, key="look.patch_size")  # crops to train on hold whole patches
        self.embed = convolution(NUM_STATISTICS * spec.in_channels, dim, kernel_size=1)
        self.layers = nn.ModuleList(convolution(dim, dim, kernel_size=3) for _ in range(depth))
        self.head = convolution(dim, 1, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, *S) -> logits (B, *G), float32."""
        with torch.autocast(image.device.type, enabled=False):
            return self.judge(patch_statistics(image.float(), patch_size=self.patch_size))

    def judge(self, statistics: Tensor) -> Tensor:
        """statistics (B, F, *G) -> logits (B, *G)."""
        x = F.gelu(self.embed(statistics))
        for layer in self.layers:
            x = x + F.gelu(layer(framed(x)))
        return self.head(x).squeeze(1)

    @torch.no_grad()
    def scan(self, image: Tensor, *, device: torch.device) -> Tensor:
        """Logits (*G) on the CPU of a whole image (C, *S), which is taken to `device` one row of patches at a time.

        An image with one axis more than the look is seen slice by slice: its first axis has patches of one voxel.
        """
        by_slice = image.ndim - 1 > len(self.patch_size)
        with torch.autocast(device.type, enabled=False):
            if by_slice:
                return torch.cat([self(slice.unsqueeze(0).to(device)) for slice in image.unbind(1)]).cpu()
            rows = image.split(self.patch_size[0], dim=1)
            statistics = [
                patch_statistics(row.unsqueeze(0).to(device, torch.float32), patch_size=self.patch_size) for row in rows
            ]
            return self.judge(torch.cat(statistics, dim=2))[0].cpu()
