"""CUP and the U-Net decoder: their formulas, with and without a pyramid, closed forms, and mistakes."""

import pytest
import torch
import torch.nn.functional as F

from sct.errors import UserError
from sct.models.decoders.cup import CUP
from sct.models.decoders.unet import UNet
from sct.models.tokens import Dense, FeatureSpec
from sct.profiling.macs import count_parameters

CLASSES, DIM = 3, 12
GRIDS = [(3, 2), (2, 3, 2)]


def little_features(*grid, patch=8, pyramid=(4, 5)):
    """Image, tokens and pyramid of `pyramid` channels, finest first; the last has twice the grid's resolution."""
    torch.manual_seed(0)
    size = tuple(patch * n for n in grid)
    spec = FeatureSpec(size, 2, (patch,) * len(grid), DIM, 2, pyramid_channels=pyramid)
    maps = [torch.randn(2, C, *(n * 2 ** (len(pyramid) - i) for n in grid)) for i, C in enumerate(pyramid)]
    return torch.randn(2, 2, *size), Dense(grid, torch.randn(2, spec.num_tokens, DIM), pyramid=maps), spec


def little_decoder(kind, spec):
    if kind is UNet:
        return UNet(spec=spec, num_classes=CLASSES)
    widths = [7, 6, 5, 4][: max(spec.patch_size).bit_length() - 1]
    return CUP(spec=spec, num_classes=CLASSES, hidden=8, widths=widths)


def on_grid(dense):
    return dense.x.transpose(1, 2).reshape(2, DIM, *dense.grid)


def doubled(x):
    return F.interpolate(x, scale_factor=2, mode={4: "bilinear", 5: "trilinear"}[x.ndim])


def conv_bn_relu(x, layers):
    convolution, norm, _ = layers
    kernel = convolution.weight
    y = {4: F.conv2d, 5: F.conv3d}[x.ndim](x, kernel, padding=1)
    return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()


@pytest.mark.parametrize("grid", GRIDS, ids=["2d", "3d"])
@torch.no_grad()
def test_cup_against_its_definition(grid):
    image, dense, spec = little_features(*grid)
    decoder = little_decoder(CUP, spec).eval()
    x = conv_bn_relu(on_grid(dense), decoder.enter)
    # patch 8, a pyramid of two: the last step has no map to join
    for step, skip in zip(decoder.steps, [dense.pyramid[1], dense.pyramid[0], None], strict=True):
        x = doubled(x)
        x = x if skip is None else torch.cat([x, skip], dim=1)
        for layers in step:
            x = conv_bn_relu(x, layers)
    expected = {2: F.conv2d, 3: F.conv3d}[len(grid)](x, decoder.classify.weight, decoder.classify.bias, padding=1)
    torch.testing.assert_close(decoder(image, dense).logits, expected)
    assert [step[1][0].out_channels for step in decoder.steps] == [7, 6, 5]


@pytest.mark.parametrize("grid", GRIDS, ids=["2d", "3d"])
@torch.no_grad()
def test_unet_against_its_definition(grid):
    image, dense, spec = little_features(*grid, pyramid=(4, 6))
    decoder = UNet(spec=spec, num_classes=CLASSES).eval()
    convolve = {2: F.conv2d, 3: F.conv3d}[len(grid)]
    x = convolve(on_grid(dense), decoder.enter.weight)
    for step, skip in zip(decoder.steps, dense.pyramid[::-1], strict=True):
        x = torch.cat([doubled(x), skip], dim=1)
        for layers in step:
            x = conv_bn_relu(x, layers)
    # patch 8, a pyramid of two: the finest map has half the image's resolution
    expected = doubled(convolve(x, decoder.classify.weight, decoder.classify.bias))
    torch.testing.assert_close(decoder(image, dense).logits, expected)
    assert decoder.enter.bias is None


# of every patch size, the pyramids that do not go beyond the image; UNet wants one
PYRAMIDS = [
    (kind, steps, levels) for kind in (CUP, UNet) for steps in (1, 2, 3, 4) for levels in range(kind is UNet, steps + 1)
]


@pytest.mark.parametrize(("kind", "steps", "levels"), PYRAMIDS)
@torch.no_grad()
def test_any_patch_and_any_pyramid_up_to_the_image(kind, steps, levels):
    patch = 2**steps
    image, dense, spec = little_features(3, 2, patch=patch, pyramid=(4, 5, 6, 7)[:levels])
    decoder = little_decoder(kind, spec).eval()
    assert decoder(image, dense).logits.shape == (2, CLASSES, 3 * patch, 2 * patch)
    assert len(decoder.steps) == (steps if kind is CUP else levels)


@pytest.mark.parametrize("pyramid", [(4, 5), (4, 5, 6)])
@pytest.mark.parametrize("grid", GRIDS, ids=["2d", "3d"])
@pytest.mark.parametrize("kind", [CUP, UNet])
def test_every_parameter_and_every_map_gets_a_gradient(kind, grid, pyramid):
    image, dense, spec = little_features(*grid, pyramid=pyramid)
    inputs = [tensor.requires_grad_() for tensor in (dense.x, *dense.pyramid)]
    decoder = little_decoder(kind, spec)
    logits = decoder(image, dense).logits
    (logits * torch.randn_like(logits)).sum().backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(tensor.grad.any() for tensor in inputs)


@pytest.mark.parametrize("kind", [CUP, UNet])
@torch.no_grad()
def test_a_batch_of_two_is_two_batches_of_one(kind):
    image, dense, spec = little_features(3, 2)
    decoder = little_decoder(kind, spec).eval()
    together = decoder(image, dense).logits
    assert torch.equal(together, decoder(image, dense).logits)
    for b in range(2):
        alone = Dense(dense.grid, dense.x[b : b + 1], pyramid=[x[b : b + 1] for x in dense.pyramid])
        torch.testing.assert_close(decoder(image[b : b + 1], alone).logits, together[b : b + 1], rtol=1e-5, atol=1e-5)


def test_unet_decoder_of_apformer_has_130690_parameters():
    spec = FeatureSpec((256, 256), 3, (8, 8), 128, 6, pyramid_channels=(16, 32, 64))
    decoder = UNet(spec=spec, num_classes=2)
    by_step = [
        9 * 128 * 64 + 9 * 64 * 32 + 2 * (64 + 32),
        9 * 64 * 32 + 9 * 32 * 16 + 2 * (32 + 16),
        9 * 32 * 16 + 9 * 16 * 16 + 2 * (16 + 16),
    ]
    assert [count_parameters(step) for step in decoder.steps] == by_step
    assert count_parameters(decoder) == 128 * 64 + sum(by_step) + 16 * 2 + 2 == 130_690


def test_cup_of_transunet_has_7_39_million_parameters():
    spec = FeatureSpec((224, 224), 3, (16, 16), 768, 12, pyramid_channels=(64, 256, 512))
    decoder = CUP(spec=spec, num_classes=9)
    by_step = [
        9 * (512 + 512) * 256 + 9 * 256**2 + 4 * 256,
        9 * (256 + 256) * 128 + 9 * 128**2 + 4 * 128,
        9 * (128 + 64) * 64 + 9 * 64**2 + 4 * 64,
        9 * 64 * 16 + 9 * 16**2 + 4 * 16,
    ]
    assert [count_parameters(step) for step in decoder.steps] == by_step
    enter, classify = 9 * 768 * 512 + 2 * 512, 9 * 16 * 9 + 9
    assert count_parameters(decoder) == enter + sum(by_step) + classify == 7_388_505


@pytest.mark.parametrize("widths", [(256, 128, 64, 16), (16, 8)])
def test_cup_wants_a_width_for_every_doubling(widths):
    spec = FeatureSpec((32, 32), 1, (8, 8), DIM, 2)
    with pytest.raises(UserError, match=rf"decoder\.widths=.*{len(widths)} widths.*3 for encoder\.patch_size=8"):
        CUP(spec=spec, num_classes=2, widths=widths)


def test_cup_needs_doublings():
    for patch in (1, 6):
        with pytest.raises(UserError, match=f"decoder=cup.*encoder.patch_size={patch}"):
            CUP(spec=FeatureSpec((12, 12), 1, (patch, patch), DIM, 2), num_classes=2)


def test_unet_needs_a_pyramid():
    with pytest.raises(UserError, match=r"decoder=unet.*encoder=apformer, transunet or ap_transunet.*=unetr or cup"):
        UNet(spec=FeatureSpec((32, 32), 1, (8, 8), DIM, 2), num_classes=2)
