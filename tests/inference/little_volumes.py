"""Volumes and networks small enough to check by hand."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sct.data.cases import LabelMap
from sct.data.outputs import Regions

REGIONS = Regions(LabelMap(("background", "edema", "core", "enhancing")), (("whole", (1, 2, 3)), ("core", (2, 3))))


@dataclass
class FakeVolume:
    image: torch.Tensor
    affine: np.ndarray
    source_shape: tuple[int, ...]
    source_affine: np.ndarray


def rotation(num_dims):
    """An oblique affine with anisotropic voxels."""
    affine = np.eye(num_dims + 1)
    angle = 0.4
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:num_dims, :num_dims] = affine[:num_dims, :num_dims] @ np.diag([0.7, 1.3, 4.0][:num_dims])
    affine[:num_dims, -1] = [-120.5, 33.25, 801.0][:num_dims]
    return affine


def file_grid(shape, *, order, flips, scale):
    """Affine of a grid of `shape`, and shape and affine of a file: axis order[j] of the grid is j of the file, which
    is flipped where flips[j], and one voxel of the file is scale[order[j]] voxels of the grid; it is a little larger.
    """
    num_dims = len(shape)
    relative, source_shape = np.eye(num_dims + 1), []
    relative[:num_dims, :num_dims] = 0
    for source, axis in enumerate(order):
        source_shape.append(round(shape[axis] / scale[axis]) + 2)
        relative[axis, source] = -scale[axis] if flips[source] else scale[axis]
        # no place is exactly half a voxel outside; without another spacing, all are whole
        begin = -1.0 if scale[axis] == 1 else -1.37
        relative[axis, -1] = shape[axis] - 1 - begin if flips[source] else begin
    affine = rotation(num_dims)
    return {"affine": affine, "source_shape": tuple(source_shape), "source_affine": affine @ relative}


def random_network(*, spatial_dims, num_channels, in_channels=1):
    """Convolutions with padding: what it says of a voxel depends on its place in the window."""
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    torch.manual_seed(1)
    return nn.Sequential(
        convolution(in_channels, 6, 3, padding=1), nn.GELU(), convolution(6, num_channels, 5, padding=2)
    ).eval()
