"""Pruning depth of the patches of an image: spread over voxels and back, with another size along each axis."""

from functools import partial

import pytest
import torch

from sct.inference.depth import DepthOfPatches, patch_means, patch_shape
from sct.models.encoder import ViTEncoder
from sct.models.grid import pruning_depth
from sct.models.reducers.stp import STP


@pytest.mark.parametrize(("patch_size", "size"), [([4, 4, 2], (16, 8, 6)), ([8, 2], (16, 12))])
@torch.no_grad()
def test_depth_of_voxels_is_the_depth_of_their_patch(patch_size, size):
    torch.manual_seed(0)
    encoder = ViTEncoder(
        image_size=size, in_channels=1, patch_size=patch_size, dim=12, depth=2, num_heads=2,
        reducer=partial(STP, blocks=(1, 2), ratio=0.5),
    ).eval()  # fmt: skip
    image = torch.randn(1, 1, *size)
    depth = pruning_depth(encoder(image))[0]
    assert set(depth.flatten().tolist()) == {0, 1, 2}
    voxels = DepthOfPatches(encoder)(image)[0, 0]
    expected = depth
    for axis, edge in enumerate(patch_size):
        expected = expected.repeat_interleave(edge, dim=axis)
    assert torch.equal(voxels.long(), expected)
    assert patch_shape(encoder, num_dims=len(size)) == tuple(patch_size)
    # slices of a volume are the first axis
    assert patch_shape(encoder, num_dims=len(size) + 1) == (1, *patch_size)
    assert torch.equal(patch_means(voxels, patch_size=tuple(patch_size)), depth)
