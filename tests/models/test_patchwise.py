"""The light decoder: patches, rungs, the image's detail, and patches that are not decoded."""

import pytest
import torch
from torch import nn

from sct.errors import UserError
from sct.models.decoders.patchwise import Patchwise, Rung, from_patches, to_patches
from sct.models.tokens import Dense, FeatureSpec

C, Q = 12, 3


def patchwise(grid=(2, 3), *, patch_size=8, channels=2, overlapping=False, **settings):
    """A decoder, an image and dense tokens of a grid, in float64 and with loud weights."""
    torch.manual_seed(0)
    size = tuple(g * patch_size for g in grid)
    spec = FeatureSpec(size, channels, (patch_size,) * len(grid), C, 2, num_stages=1, overlapping=overlapping)
    decoder = Patchwise(spec=spec, num_classes=Q, width=4, hidden=8, **settings).double().eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    image = torch.randn(2, channels, *size, dtype=torch.float64)
    x = torch.randn(2, spec.num_tokens, C, dtype=torch.float64)
    return decoder, image, Dense(grid, x, depth=torch.zeros(2, spec.num_tokens, dtype=torch.long))


@pytest.mark.parametrize(("grid", "cells"), [((2, 3), (2, 2)), ((2, 1, 3), (4, 4, 2))])
def test_patches_by_hand_and_back(grid, cells):
    size = [g * s for g, s in zip(grid, cells, strict=True)]
    x = torch.randn(2, *size, 5)
    patches = to_patches(x, grid)
    assert patches.shape == (2, torch.Size(grid).numel(), *cells, 5)
    for number, place in enumerate(torch.cartesian_prod(*(torch.arange(g) for g in grid)).tolist()):
        window = [slice(p * s, (p + 1) * s) for p, s in zip(place, cells, strict=True)]
        assert torch.equal(patches[:, number], x[(slice(None), *window)])
    assert torch.equal(from_patches(patches, grid), x)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_rung_is_a_transposed_convolution_with_norm(dims):
    torch.manual_seed(0)
    rung = Rung(6, 4, step=(2,) * dims)
    x = torch.randn(3, *[2] * dims, 6)
    transposed = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims](6, 4, kernel_size=2, stride=2)
    with torch.no_grad():
        # rows of the linear: places of the kernel, then channels
        weight = rung.expand.weight.reshape(*[2] * dims, 4, 6)
        transposed.weight.copy_(weight.permute(dims + 1, dims, *range(dims)))
        # a linear has a bias at every place of the kernel
        rung.expand.bias.copy_(transposed.bias.repeat(2**dims))
    expected = nn.functional.gelu(rung.norm(transposed(x.movedim(-1, 1)).movedim(1, -1)))
    torch.testing.assert_close(rung(x), expected)


@pytest.mark.parametrize("grid", [(2, 3), (2, 1, 2)])
@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_without_detail_a_token_makes_its_patch_and_nothing_else(grid, patch_size):
    decoder, image, dense = patchwise(grid, patch_size=patch_size, detail=0)
    before = to_patches(decoder(image, dense).logits.movedim(1, -1), grid)
    dense.x[1, 1] += torch.randn(C)
    after = to_patches(decoder(image, dense).logits.movedim(1, -1), grid)
    changed = (before != after).flatten(2).any(dim=2)
    assert changed.tolist() == [[False] * len(changed[0]), [False, True, *[False] * (len(changed[0]) - 2)]]
    # and the voxels of a patch differ from each other
    assert after[0, 0].flatten(0, -2).std(dim=0).min() > 1e-3


def test_detail_tells_voxels_of_one_patch_apart():
    decoder, image, dense = patchwise(detail=4)
    logits = decoder(image, dense).logits
    other = image.clone()
    other[0, :, 3, 3] += 1
    moved = (decoder(other, dense).logits - logits).abs().amax(dim=1)
    assert moved[0, 2:4, 2:4].min() > 5 * moved[0, 8:].max()
    assert moved[1].max() == 0


def sure_of_background(decoder, dense, *, count):
    """Lets the first `count` tokens of every image alone be sure of background, and the others not."""
    with torch.no_grad():
        decoder.norm = nn.Identity()
        dense.x[..., 0] = -1
        dense.x[:, :count, 0] = 1
        dense.x[..., 1:] *= 0.01
        decoder.flat.weight.zero_()
        decoder.flat.weight[0, 0] = 1
        decoder.head.weight[0] = 0
        decoder.head.weight[0, 0] = 8
        decoder.head.bias.zero_()


@pytest.mark.parametrize("detail", [0, 4])
def test_patches_that_are_skipped(detail):
    decoder, image, dense = patchwise(detail=detail)
    sure_of_background(decoder, dense, count=3)
    dense.depth[0, 0] = 1  # sure of it, but kept longer
    whole = decoder(image, dense)
    assert whole.aux == {}
    decoder.skip_above = 0.99
    decoded = decoder(image, dense)
    skipped = torch.tensor([[False, True, True, *[False] * 3], [True, True, True, *[False] * 3]])
    assert decoded.aux["skipped"].tolist() == pytest.approx([2 / 6, 3 / 6])
    patches, expected = (to_patches(logits.movedim(1, -1), (2, 3)) for logits in (decoded.logits, whole.logits))
    torch.testing.assert_close(patches[~skipped], expected[~skipped], rtol=0, atol=1e-12)
    # what the token says, the same in every cell
    token = decoder.flat(dense.x[skipped])
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        said = token @ decoder.head.weight[..., corner[0], corner[1]] + decoder.head.bias
        every = patches[skipped][:, corner[0] :: 2, corner[1] :: 2]
        torch.testing.assert_close(every, said[:, None, None].expand_as(every))
    assert said.softmax(dim=-1)[:, 0].min() > 0.99


def test_an_image_is_the_same_alone_where_others_skip_more():
    decoder, image, dense = patchwise()
    sure_of_background(decoder, dense, count=2)
    decoder.skip_above = 0.9
    dense.depth[0] = 1
    together = decoder(image, dense)
    assert together.aux["skipped"].tolist() == pytest.approx([0, 2 / 6])
    for b in range(2):
        alone = decoder(image[b : b + 1], Dense(dense.grid, dense.x[b : b + 1], depth=dense.depth[b : b + 1]))
        torch.testing.assert_close(alone.logits[0], together.logits[b], rtol=0, atol=1e-12)


def test_all_skipped_trains_the_token_and_none_skipped_is_the_whole():
    decoder, image, dense = patchwise(skip_above=0.9)
    sure_of_background(decoder, dense, count=6)
    decoded = decoder.train()(image, dense)
    assert decoded.aux["skipped"].tolist() == [1, 1]
    decoded.logits.square().sum().backward()
    assert decoder.flat.weight.grad.abs().sum() > 0
    dense.depth += 1
    decoded = decoder(image, dense)
    assert decoded.aux["skipped"].tolist() == [0, 0]
    decoder.skip_above = None
    torch.testing.assert_close(decoder(image, dense).logits, decoded.logits, rtol=0, atol=1e-12)


def test_a_region_keeps_a_patch_from_being_skipped():
    """Background is where no region is likely: one that is keeps the patch, whatever the others say."""
    decoder, image, dense = patchwise(skip_above=0.9, overlapping=True)
    sure_of_background(decoder, dense, count=0)
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.bias.copy_(torch.tensor([-9.0, -9.0, -9.0]))
        assert decoder(image, dense).aux["skipped"].tolist() == [1, 1]
        decoder.head.bias[1] = 0
        assert decoder(image, dense).aux["skipped"].tolist() == [0, 0]


@pytest.mark.parametrize(("settings", "told"), [({"skip_above": 1.0}, "skip_above"), ({"patch_size": 6}, "power of")])
def test_mistakes(settings, told):
    with pytest.raises(UserError, match=told):
        patchwise(**settings)
