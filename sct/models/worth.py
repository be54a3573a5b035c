"""What a patch is worth to the segmentation.

Letters: B batch, N tokens of the grid, Q label values, S spatial size.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.models.grid import foreground_patches, patches
from sct.models.patch import Extent

# what the labels alone tell
Shown = Literal["foreground", "boundary"]


def patch_worth(labels: Tensor, *, patch_size: Extent, kind: Shown) -> Tensor:
    """1 for patches that are worth to be kept, else 0: (B, N) float, of labels (B, *S).

    kind: foreground, a patch with any voxel that is not background; boundary, a patch with two labels, in itself or
    between itself and a voxel next to it
    """
    if kind == "foreground":
        return foreground_patches(labels, patch_size=patch_size).flatten(1).float()
    return boundary_patches(labels, patch_size=patch_size).flatten(1).float()


def class_counts(labels: Tensor, *, patch_size: Extent, num_values: int) -> Tensor:
    """Voxels of every label value 0 ... Q - 1 in each patch of labels (B, *S): (B, N, Q) float32.

    Voxels with another value are not counted, nor is the part of a patch beyond the image.
    """
    missing = [-length % edge for length, edge in zip(labels.shape[1:], patch_size, strict=True)]
    labels = F.pad(labels, [pad for end in reversed(missing) for pad in (0, end)], value=num_values)
    voxels = patches(labels.unsqueeze(1), size=patch_size)
    return torch.stack([(voxels == value).sum(dim=2) for value in range(num_values)], dim=2).float()


def boundary_patches(labels: Tensor, *, patch_size: Extent) -> Tensor:
    """Whether each patch of labels (B, *S), or the voxels next to it, have more than one label: bool (B, *grid).

    The edge of the image is no boundary. Along an axis of patches of one voxel (slices) no neighbour counts.
    """
    pool = {3: F.max_pool2d, 4: F.max_pool3d}[labels.ndim]
    margins = [int(side > 1) for side in patch_size]
    # the outermost voxel goes on beyond the image, up to a whole patch
    rims = [
        (margin, margin + -size % side)
        for margin, size, side in zip(margins, labels.shape[1:], patch_size, strict=True)
    ]
    values = F.pad(labels.float().unsqueeze(1), [edge for rim in reversed(rims) for edge in rim], mode="replicate")
    window = [side + 2 * margin for side, margin in zip(patch_size, margins, strict=True)]
    return (pool(values, window, patch_size) != -pool(-values, window, patch_size)).squeeze(1)
