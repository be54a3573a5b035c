"""Where windows lie on an image, how much each of their voxels counts, and which of them hold only air.

Legend: C channels, S the image's size, W the window's, n windows along each axis.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map
from torch import Tensor


def pad_to_window(
    image: Tensor, window: Sequence[int], *, multiple: Sequence[int] | None = None
) -> tuple[Tensor, list[int]]:
    """An image (C, *S) padded with zeros on both sides to `padded_shape`, and the voxels put before each axis."""
    wanted = padded_shape(image.shape[1:], window, multiple=multiple)
    lack = [want - have for want, have in zip(wanted, image.shape[1:], strict=True)]
    before = [missing // 2 for missing in lack]
    pads = [pad for missing in reversed(lack) for pad in (missing // 2, missing - missing // 2)]
    return (F.pad(image, pads) if any(pads) else image), before


def padded_shape(shape: Sequence[int], window: Sequence[int], *, multiple: Sequence[int] | None = None) -> list[int]:
    """At least one window along every axis of an image of `shape`, and a multiple of `multiple`."""
    sizes = [max(size, edge) for size, edge in zip(shape, window, strict=True)]
    return [-(-size // step) * step for size, step in zip(sizes, multiple or [1] * len(sizes), strict=True)]


def window_starts(
    shape: Sequence[int], window: Sequence[int], *, overlap: float, multiple: Sequence[int] | None = None
) -> list[list[int]]:
    """First voxels of the windows along every axis, multiples of `multiple`; the last window ends with the image."""
    starts = []
    for size, edge, whole in zip(shape, window, multiple or [1] * len(window), strict=True):
        step = max(whole, int(edge * (1 - overlap)) // whole * whole)
        starts.append([*range(0, size - edge, step), size - edge])
    return starts


def window_weight(window: Sequence[int], *, blending: str) -> Tensor:
    """Weight (*W) of a window's voxels, float32, as MONAI's sliding window gives it."""
    weight = compute_importance_map(tuple(window), mode=blending, sigma_scale=0.125)
    assert isinstance(weight, Tensor)
    return weight


def occupied(mask: Tensor, *, starts: Sequence[Sequence[int]], window: Sequence[int]) -> Tensor:
    """Which windows hold a voxel of a mask (*S) bool: (*n) bool.

    Windows are boxes, so that one axis is reduced after the other: as cheap as reading the mask a few times.
    """
    for axis, (places, edge) in enumerate(zip(starts, window, strict=True)):
        mask = torch.stack([mask.narrow(axis, place, edge).any(dim=axis) for place in places], dim=axis)
    return mask
