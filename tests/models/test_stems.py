"""Stems: weight standardisation by hand, strides and shapes, parameters in closed form, and mistakes."""

import pytest
import torch
import torch.nn.functional as F

from sct.errors import UserError
from sct.models.stems.residual import ResidualStem
from sct.models.stems.resnet import Bottleneck, ResNetStem, StandardisedConv2d, StandardisedConv3d, standardise
from sct.models.stems.unet import UNetStem
from sct.profiling.macs import count_parameters

SIZES = [(32, 48), (32, 16, 48)]
STEMS = {
    "resnet": lambda dims: ResNetStem(
        spatial_dims=dims, in_channels=2, patch_size=(16,) * dims, units=(1, 2, 1), width=4
    ),
    "unet": lambda dims: UNetStem(spatial_dims=dims, in_channels=2, patch_size=(4,) * dims, widths=(3, 4, 6)),
    "residual": lambda dims: ResidualStem(spatial_dims=dims, in_channels=2, patch_size=(4,) * dims, widths=(3, 4, 6)),
}


def little_stem(name, dims):
    torch.manual_seed(0)
    stem = STEMS[name](dims)
    with torch.no_grad():
        for p in stem.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return stem


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_standardise_by_hand(dims):
    weight = torch.randn(3, 4, *[3] * dims, dtype=torch.float64) * 0.05 + 0.3
    expected = torch.empty_like(weight)
    for channel in range(3):
        values = weight[channel].flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        expected[channel] = (weight[channel] - mean) / (variance + 1e-5) ** 0.5
    torch.testing.assert_close(standardise(weight), expected, rtol=1e-12, atol=1e-12)

    kind, convolve = {2: (StandardisedConv2d, F.conv2d), 3: (StandardisedConv3d, F.conv3d)}[dims]
    layer = kind(4, 3, 3, stride=2, padding=1, bias=False, dtype=torch.float64)
    layer.weight.copy_(weight)
    x = torch.randn(2, 4, *[7] * dims, dtype=torch.float64)
    torch.testing.assert_close(layer(x), convolve(x, expected, stride=2, padding=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
@pytest.mark.parametrize("name", STEMS)
@torch.no_grad()
def test_the_pyramid_halves_down_to_the_output(name, size):
    stem = little_stem(name, len(size)).eval()
    finest = {"resnet": 2, "unet": 1, "residual": 1}[name]
    output, pyramid = stem(torch.randn(2, 2, *size))
    assert stem.pyramid_channels == {"resnet": (4, 16, 32), "unet": (3, 4), "residual": (3, 4)}[name]
    expected = [(2, C, *(s // (finest * 2**i) for s in size)) for i, C in enumerate(stem.pyramid_channels)]
    assert [tuple(x.shape) for x in pyramid] == expected
    assert output.shape == (2, stem.out_channels, *(s // {"resnet": 16, "unet": 4, "residual": 4}[name] for s in size))
    assert tuple(output.shape[2:]) == tuple(s // 2 for s in pyramid[-1].shape[2:])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", STEMS)
def test_every_parameter_gets_a_gradient(name, dims):
    stem = little_stem(name, dims)
    output, _ = stem(torch.randn(2, 2, *[32] * dims))
    output.square().sum().backward()
    assert [name for name, p in stem.named_parameters() if not p.grad.any()] == []
    assert [name for name, p in stem.named_parameters() if not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
@pytest.mark.parametrize("name", STEMS)
@torch.no_grad()
def test_evaluation_is_deterministic_and_by_image(name, size):
    stem = little_stem(name, len(size)).eval()
    image = torch.randn(2, 2, *size)
    output, pyramid = stem(image)
    again, pyramid_again = stem(image)
    assert all(map(torch.equal, [output, *pyramid], [again, *pyramid_again]))
    alone = [stem(image[:1]), stem(image[1:])]
    torch.testing.assert_close(output, torch.cat([x for x, _ in alone]), rtol=1e-5, atol=1e-5)
    for level, both in enumerate(pyramid):
        torch.testing.assert_close(both, torch.cat([maps[level] for _, maps in alone]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_resnet_of_the_paper():
    """Shapes, norms, and 11.89 M parameters: an ImageNet ResNet-50 V2 up to its third stage."""
    with torch.device("meta"):
        stem = ResNetStem(spatial_dims=2, in_channels=3, patch_size=(16, 16))
        output, pyramid = stem(torch.empty(1, 3, 224, 224))
    assert [tuple(x.shape[1:]) for x in (*pyramid, output)] == [
        (64, 112, 112),
        (256, 56, 56),
        (512, 28, 28),
        (1024, 14, 14),
    ]
    parameters = 3 * 64 * 49 + 2 * 64
    above = 64
    for width, units in ((64, 3), (128, 4), (256, 9)):
        for unit in range(units):
            parameters += above * width + 9 * width**2 + width * 4 * width + 2 * (width + width + 4 * width)
            # the shortcut and its norm
            parameters += (above * 4 * width + 2 * 4 * width) if unit == 0 else 0
            above = 4 * width
    assert count_parameters(stem) == parameters == 11_894_848
    units = [module for module in stem.modules() if isinstance(module, Bottleneck)]
    assert len(units) == 16
    norms = [module for module in stem.modules() if isinstance(module, torch.nn.GroupNorm)]
    shortcuts = [unit.shortcut[1] for unit in units if not isinstance(unit.shortcut, torch.nn.Identity)]
    assert [(norm.num_groups, norm.eps) for norm in shortcuts] == [(256, 1e-5), (512, 1e-5), (1024, 1e-5)]
    assert {(norm.num_groups, norm.eps) for norm in norms if norm not in shortcuts} == {(32, 1e-6)}


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_bottleneck_against_its_definition(stride):
    torch.manual_seed(0)
    unit = Bottleneck(8, mid_channels=4, kernel_size=(3, 3), stride=(stride, stride)).double()
    for p in unit.parameters():
        p.add_(torch.randn_like(p), alpha=0.3)
    x = torch.randn(2, 8, 6, 4, dtype=torch.float64)
    weights = [unit.branch[i].weight for i in (0, 3, 6)]
    norms = [unit.branch[i] for i in (1, 4, 7)]
    y = x
    for number, (weight, norm) in enumerate(zip(weights, norms, strict=True)):
        mean, spread = weight.mean(dim=(1, 2, 3), keepdim=True), weight.var(dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (weight - mean) / (spread + 1e-5).sqrt()
        y = norm(F.conv2d(y, weight, stride=stride if number == 1 else 1, padding=weight.shape[-1] // 2))
        y = y.relu() if number < 2 else y
    expected = (y + unit.shortcut(x)).relu()
    torch.testing.assert_close(unit(x), expected)
    # every channel of the shortcut is normalised by itself
    norm = unit.shortcut[1]
    by_itself = (unit.shortcut(x) - norm.bias.reshape(-1, 1, 1)) / norm.weight.reshape(-1, 1, 1)
    assert by_itself.mean(dim=(2, 3)).abs().max() < 1e-9


@torch.no_grad()
def test_pooling_takes_the_maximum_of_what_is_inside():
    stem = little_stem("resnet", 2)
    x = torch.rand(1, 1, 8, 6)
    expected = torch.tensor([[x[0, 0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(3)] for i in range(4)])
    assert torch.equal(stem.pool(x)[0, 0], expected)
    # the windows that lie wholly inside are those of pooling without padding
    assert torch.equal(stem.pool(x)[..., :3, :2], F.max_pool2d(x, 3, stride=2))


def test_unet_stem_has_294000_parameters():
    stem = UNetStem(spatial_dims=2, in_channels=3, patch_size=(8, 8))
    by_level = [
        9 * 3 * 16 + 9 * 16 * 16 + 4 * 16,
        9 * 16 * 32 + 9 * 32 * 32 + 4 * 32,
        9 * 32 * 64 + 9 * 64 * 64 + 4 * 64,
        9 * 64 * 128 + 9 * 128 * 128 + 4 * 128,
    ]
    assert [count_parameters(level) for level in stem.levels] == by_level
    assert count_parameters(stem) == 294_000


def test_mistakes():
    for units in ((), (2, 0)):
        with pytest.raises(UserError, match=r"encoder\.stem\.units=.*at least one"):
            ResNetStem(spatial_dims=2, in_channels=1, patch_size=(16, 16), units=units)


@pytest.mark.parametrize("patch_size", [(8, 8), (2, 2), (12, 4)])
def test_a_patch_that_the_steps_do_not_lead_to(patch_size):
    with pytest.raises(UserError, match=r"encoder\.patch_size=.* must be 4, the stride of encoder\.stem.*patch_size=4"):
        UNetStem(spatial_dims=2, in_channels=1, patch_size=patch_size, widths=(3, 4, 6))


@pytest.mark.parametrize("patch_size", [(16, 16, 4), (2, 16, 8), (16, 1, 16)])
@torch.no_grad()
def test_an_axis_with_a_smaller_patch_is_halved_last(patch_size):
    """The finest steps keep it, and convolutions and poolings do not look along it there."""
    torch.manual_seed(0)
    stem = ResNetStem(spatial_dims=3, in_channels=1, patch_size=patch_size, units=(1, 2, 1), width=4).eval()
    size = [2 * edge for edge in patch_size]
    image = torch.randn(1, 1, *size)
    output, pyramid = stem(image)
    assert tuple(output.shape[2:]) == (2, 2, 2)
    for level, features in enumerate(pyramid, start=1):
        # steps of the patch that lead from here to the grid of 2 x 2 x 2
        assert tuple(features.shape[2:]) == tuple(2 * min(edge, 2 ** (4 - level)) for edge in patch_size)
    for axis, edge in enumerate(patch_size):
        if edge < 16:
            root = stem.root[0].weight
            assert root.shape[2 + axis] == 1
