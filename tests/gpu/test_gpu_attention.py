"""Packed attention on a GPU: ragged sets in one kernel against image by image."""

import pytest
import torch
import torch.nn.functional as F

from sct.models.blocks.attention import packed_attention

# one token, less than a tile of the kernel, just over one, many
LENGTHS = (1, 37, 129, 700)
# float16 rounds to 11 bits, bfloat16 to 8; a token that sees another image is far off
TOLERANCE = {torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def qkv(*, heads, width, dtype, device):
    """The three parts of one projection (1, H, T, D), in memory as the network has them."""
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(1, sum(LENGTHS), 3, heads, width, generator=generator).to(device, dtype)
    return projected.permute(2, 0, 3, 1, 4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [64, 32, 12])
def test_packed_images_are_each_image_alone(dtype, width, gpu):
    q, k, v = qkv(heads=3, width=width, dtype=dtype, device=gpu)
    with torch.no_grad():
        found = packed_attention(q, k, v, lengths=LENGTHS)
    assert found.dtype == dtype
    assert found.shape == q.shape
    parts = zip(*(x.double().split(LENGTHS, dim=2) for x in (q, k, v)), found.split(LENGTHS, dim=2), strict=True)
    for *image, ours in parts:
        exact = F.scaled_dot_product_attention(*image)
        error = ((ours - exact).norm() / exact.norm()).item()
        assert error < TOLERANCE[dtype], f"an image of {ours.shape[2]} tokens"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_packed_images_are_each_images_own(dtype, gpu):
    leaf = qkv(heads=2, width=32, dtype=dtype, device=gpu).detach().requires_grad_()
    packed_attention(*leaf, lengths=LENGTHS).float().square().sum().backward()
    alone = leaf.detach().double().requires_grad_()
    for image in alone.split(LENGTHS, dim=3):
        F.scaled_dot_product_attention(*image).square().sum().backward()
    error = ((leaf.grad - alone.grad).norm() / alone.grad.norm()).item()
    assert error < 2 * TOLERANCE[dtype]
