"""What a patch is worth to the segmentation.

Letters: B batch, N tokens of the grid, S spatial size.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sct.models.grid import foreground_patches
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
