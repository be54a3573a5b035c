"""Pruning depth of the patches of a whole volume: how many pruning stages each patch survives.

Letters: B windows of a batch, C channels of the image, S spatial size, G the grid of patches.
"""

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

from sct.data.cases import Volume, window_shape
from sct.data.module import SegmentationData
from sct.inference.base import Inferer, Request
from sct.inference.look import View, whole_or
from sct.models.base import Encoder
from sct.models.grid import pruning_depth

# depth of a voxel outside the network's input: cropped away, or in a skipped window
NOT_SEEN = 0.0


class DepthOfPatches:
    """An encoder as a model with one output channel: the number of pruning stages that a voxel's patch survived."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __call__(self, image: Tensor) -> Tensor:
        """image (B, C, *S) -> depth (B, 1, *S) float32."""
        return spread(pruning_depth(self.encoder(image)), size=image.shape[2:])


def spread(depth: Tensor, *, size: torch.Size) -> Tensor:
    """The depth of patches (B, *G) for every voxel: (B, 1, *size) float32."""
    return F.interpolate(depth.unsqueeze(1).float(), size=size)


def patch_means(depth: Tensor, *, patch_size: tuple[int, ...]) -> Tensor:
    """The mean of a depth map (*S) over each patch, rounded to an integer: (*G) int64."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[depth.ndim]
    return pool(depth[None, None].float(), patch_size, ceil_mode=True)[0, 0].round().long().cpu()


def patch_shape(encoder: Encoder, *, num_dims: int) -> tuple[int, ...]:
    """Voxels of a patch along each axis of an image with `num_dims` axes."""
    return window_shape(encoder.spec.patch_size, num_dims=num_dims)


def depth_map(
    encoder: Encoder,
    volume: Volume,
    inferer: Inferer,
    *,
    data: SegmentationData,
    device: torch.device,
    view: View | None = None,
) -> np.ndarray:
    """The number of pruning stages that each voxel's patch survived, uint8, on the grid of the volume's source file.

    0: dropped at the first stage, or never an input of the network (cropped away, skipped, or outside of what a first
    look has chosen, the `view`). Where windows overlap, the mean over the windows is rounded.
    """
    background = torch.full((1,), NOT_SEEN)
    depth = torch.full(volume.image.shape[1:], NOT_SEEN, device=device)
    for part in whole_or(view, shape=depth.shape):
        image = volume.image[(slice(None), *part.box)]
        found = inferer(
            DepthOfPatches(encoder),
            image,
            Request(data.roi_size, background, device, part.wanted),
        )
        depth[part.box] = found[0].to(device)
    patch = patch_shape(encoder, num_dims=depth.ndim)
    stages = patch_means(depth, patch_size=patch)
    for axis, edge in enumerate(patch):
        stages = stages.repeat_interleave(edge, dim=axis)
    stages = stages[tuple(slice(size) for size in depth.shape)]
    # each source voxel gets the value of the nearest voxel of the network's grid; outside, the added rim is nearest
    dims = depth.ndim
    rimmed = np.pad(stages.numpy().astype(np.uint8), 1, constant_values=int(NOT_SEEN))
    relative = np.linalg.inv(volume.affine) @ volume.source_affine
    return scipy.ndimage.affine_transform(
        rimmed,
        relative[:dims, :dims],
        offset=relative[:dims, 3] + 1,
        output_shape=volume.source_shape,
        order=0,
        mode="nearest",
    )
