"""The thin decoder: what it reads, at which resolution it works, and how its weights lie in memory."""

import copy

import pytest
import torch
from torch import nn

from sct.errors import UserError
from sct.models.decoders.thin import Thin
from sct.models.tokens import Dense, FeatureSpec


def thin(grid=(2, 2, 2), *, patch_size=4, voxels=0):
    """A decoder, an image and dense tokens of a grid."""
    torch.manual_seed(0)
    size = tuple(g * patch_size for g in grid)
    spec = FeatureSpec(size, 2, (patch_size,) * len(grid), 12, 2)
    dense = Dense(grid, torch.randn(1, spec.num_tokens, 12))
    return Thin(spec=spec, num_classes=3, width=4, voxels=voxels).eval(), torch.randn(1, 2, *size), dense


@pytest.mark.parametrize(("grid", "patch_size"), [((3, 2), 8), ((2, 1, 2), 8), ((2, 2, 2), 4)])
@pytest.mark.parametrize("voxels", [0, 3])
def test_few_channels_are_as_large_as_the_image(grid, patch_size, voxels):
    decoder, image, dense = thin(grid, patch_size=patch_size, voxels=voxels)
    leaves = {module: name for name, module in decoder.named_modules() if not list(module.children())}
    names = {module: name for module, name in leaves.items() if not isinstance(module, nn.ModuleList)}
    sizes = {}

    def note(module, given, output):
        sizes[names[module]] = output.shape

    for module in names:
        module.register_forward_hook(note)
    logits = decoder(image, dense).logits
    assert logits.shape == (1, 3, *image.shape[2:])
    large = {name: shape[1] for name, shape in sizes.items() if shape[2:].numel() >= image.shape[2:].numel()}
    assert large.pop("head") == 3
    assert all(channels in (3, 6) for channels in large.values())
    # the norms are folded into three of them
    assert len(large) == (1 if voxels else 0)
    unused = {name for name in names.values() if name.startswith("whole") and name != "whole.up"}
    assert sizes.keys() == set(names.values()) - unused


@pytest.mark.parametrize("voxels", [0, 3])
def test_it_reads_the_image_and_every_token(voxels):
    decoder, image, dense = thin(voxels=voxels)
    image.requires_grad_(), dense.x.requires_grad_()
    decoder(image, dense).logits.square().sum().backward()
    assert (image.grad != 0).all()
    assert (dense.x.grad != 0).any(dim=2).all()


@pytest.mark.parametrize("voxels", [0, 3])
def test_an_edge_within_a_patch_is_seen_where_it_is(voxels):
    decoder, image, dense = thin((2, 2), voxels=voxels)
    image.zero_()
    before = decoder(image, dense).logits
    image[..., 4:, :2] = 3
    moved = (decoder(image, dense).logits - before).abs().amax(dim=1)[0]
    if not voxels:  # with them the border moves too, by as much
        assert moved[4:, :2].max() == moved.max()
    assert moved[4:, :2].mean() > 1.5 * moved[:4, 4:].mean()


def test_weights_stay_channels_last():
    """Without it the decoder takes two to three times as long on a CPU."""
    decoder, _, _ = thin(voxels=3)
    other = copy.deepcopy(decoder)
    other.load_state_dict({name: value.contiguous() for name, value in decoder.state_dict().items()})
    for network in (decoder, other):
        assert network.head.weight.is_contiguous(memory_format=torch.channels_last_3d)
        assert network.whole.join[0].convolution.weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("voxels", [3, 8])
def test_one_voxel_moves_no_further_than_its_neighbours_at_the_images_own_resolution(voxels):
    """Beside what the lower resolutions say, which a voxel changes too."""
    decoder, image, _ = thin(voxels=voxels)
    below = torch.randn(1, 4, *(edge // 2 for edge in image.shape[2:]))
    whole = decoder.whole.eval()
    with torch.no_grad():
        before = whole(below, image)
        image[0, :, 4, 4, 4] += 1
        moved = (whole(below, image) - before).abs().amax(dim=(0, 1)).nonzero()
    assert len(moved)
    assert ((moved - 4).abs() <= 2).all()


def test_patches_that_no_doubling_reaches_are_refused():
    with pytest.raises(UserError, match="power of two"):
        thin(patch_size=6)


def test_tokens_begin_as_large_as_features():
    torch.manual_seed(0)
    spec = FeatureSpec((16, 16, 16), 1, (8, 8, 8), 192, 3)
    entered = Thin(spec=spec, num_classes=2).enter(5 * torch.randn(1, 8, 192))
    assert 0.7 < entered.std() < 1.3
