"""The UNETR decoder: MONAI's network with its own weights, the papers' sizes, shapes, and mistakes."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import UNETR as MonaiUNETR

from sct.errors import UserError
from sct.models.completion.mta import MTA
from sct.models.completion.scatter import Scatter
from sct.models.decoders.unetr import UNETR
from sct.models.encoder import ViTEncoder
from sct.models.patch import halvings, kernel_at
from sct.models.reducers.stp import STP
from sct.models.segmenter import Segmenter
from sct.models.tokens import Dense, FeatureSpec

# name in MONAI's UNETR -> name in ours
ENCODER_NAMES = {
    "vit.patch_embedding.patch_embeddings.": "encoder.patch_embed.",
    "vit.patch_embedding.position_embeddings": "encoder.position",
    "vit.": "encoder.",
    ".attn.out_proj.": ".attn.proj.",
    ".mlp.linear": ".mlp.fc",
}
DECODER_NAMES = {
    "encoder1.": "decoder.image_skip.",
    **{f"encoder{level + 1}.": f"decoder.skips.{level - 1}." for level in (1, 2, 3)},
    **{f"decoder{level + 2}.": f"decoder.ups.{level}." for level in (0, 1, 2, 3)},
    "out.": "decoder.head.",
}


def from_monai(weights):
    """MONAI's state dict with the names of ours; it also holds norms of a cross-attention that it never runs."""
    renamed = {}
    for name, weight in weights.items():
        if ".norm_cross_attn." in name:
            continue
        if name.startswith("vit."):
            for old, new in ENCODER_NAMES.items():
                name = name.replace(old, new)
        else:
            part = name.split(".")[0] + "."
            name = DECODER_NAMES[part] + name.removeprefix(part)
        renamed[name] = weight
    return renamed


@pytest.mark.parametrize("image_size", [(32, 48, 32), (48, 32)], ids=["3d", "2d"])
@torch.no_grad()
def test_gives_the_output_of_monai_with_its_weights(image_size):
    torch.manual_seed(0)
    theirs = MonaiUNETR(
        in_channels=2,
        out_channels=3,
        img_size=image_size,
        feature_size=8,
        hidden_size=48,
        mlp_dim=192,
        num_heads=4,
        spatial_dims=len(image_size),
    ).eval()
    for p in theirs.parameters():
        p.add_(torch.randn_like(p), alpha=0.02)
    encoder = ViTEncoder(
        image_size=image_size,
        in_channels=2,
        patch_size=16,
        dim=48,
        depth=12,
        num_heads=4,
        qkv_bias=False,
        class_token=False,
        norm_eps=1e-5,
        taps=3,
    )
    ours = Segmenter(encoder=encoder, completion=Scatter, decoder=partial(UNETR, feature_size=8), num_classes=3)
    ours.load_state_dict(from_monai(theirs.state_dict()))
    image = torch.randn(2, 2, *image_size)
    torch.testing.assert_close(ours.eval()(image), theirs(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "channels", "classes", "layout", "ratio", "millions"),
    [
        (96, 1, 14, "deep", None, 93.31),
        (96, 1, 14, "deep", 0.9, 107.58),
        (128, 4, 3, "deep", None, 96.33),
        (128, 4, 3, "deep", 0.75, 112.40),
        (128, 4, 3, "shallow", None, 91.30),
        (128, 4, 3, "shallow", 0.75, 107.38),
    ],
)
def test_parameters_of_the_paper(size, channels, classes, layout, ratio, millions):
    dense = ratio is None
    with torch.device("meta"):
        encoder = ViTEncoder(
            image_size=(size,) * 3,
            in_channels=channels,
            patch_size=8,
            dim=768,
            depth=12,
            num_heads=12,
            taps=(3 if layout == "deep" else 2) if dense else 0,
            reducer=None if dense else partial(STP, ratio=ratio),
        )
        decoder = partial(UNETR, layout=layout)
        network = Segmenter(encoder=encoder, completion=Scatter if dense else MTA, decoder=decoder, num_classes=classes)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=5e-3)


def little_decoder(*, patch_size=8, layout="shallow", grid=(2, 4), taps=0, dim=12):
    spec = FeatureSpec(tuple(g * patch_size for g in grid), 2, (patch_size,) * len(grid), dim, 2, num_taps=taps)
    return UNETR(spec=spec, num_classes=3, feature_size=4, layout=layout), spec


@pytest.mark.parametrize("grid", [(2, 4), (4, 2, 2)], ids=["2d", "3d"])
@pytest.mark.parametrize("layout", ["shallow", "deep"])
@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
def test_any_power_of_two_in_both_layouts(patch_size, layout, grid):
    decoder, spec = little_decoder(patch_size=patch_size, layout=layout, grid=grid)
    steps = patch_size.bit_length() - 1
    deep = layout == "deep"
    assert len(decoder.ups) == steps + deep
    assert len(decoder.skips) == decoder.num_skips == steps - 1 + deep
    x = torch.randn(2, spec.num_tokens, spec.dim)
    assert decoder(torch.randn(2, 2, *spec.image_size), Dense(spec.grid, x)).logits.shape == (2, 3, *spec.image_size)


@pytest.mark.parametrize(("patch_size", "grid"), [((16, 4), (2, 4)), ((2, 16, 8), (4, 2, 2)), ((1, 8), (4, 2))])
@pytest.mark.parametrize("layout", ["shallow", "deep"])
@torch.no_grad()
def test_the_finest_steps_keep_an_axis_with_a_smaller_patch(patch_size, grid, layout):
    """On the way of every skip connection, which then meets the way up at each level."""
    size = tuple(g * edge for g, edge in zip(grid, patch_size, strict=True))
    spec = FeatureSpec(size, 2, patch_size, 12, 2)
    decoder = UNETR(spec=spec, num_classes=3, feature_size=4, layout=layout)
    dense = Dense(grid, torch.randn(1, spec.num_tokens, 12))
    assert decoder(torch.randn(1, 2, *size), dense).logits.shape == (1, 3, *size)
    steps = halvings(patch_size)
    for level, skip in enumerate(decoder.skips[: len(steps) - 1], start=1):
        ways = [skip.transp_conv_init, *(block[0] for block in skip.blocks)]
        # coarse to fine, from the token grid
        assert [tuple(way.conv.stride) for way in ways] == list(reversed(steps[level:]))
        kernels = [tuple(block[1].conv1.conv.kernel_size) for block in skip.blocks]
        assert kernels == [kernel_at(finer, patch_size) for finer in range(len(steps) - 2, level - 1, -1)]


def test_layouts_at_patch_8_are_those_of_the_paper():
    deep, _ = little_decoder(layout="deep", grid=(2, 2))
    shallow, _ = little_decoder(layout="shallow", grid=(2, 2))
    assert [up.transp_conv.conv.out_channels for up in deep.ups] == [4, 8, 16, 32]
    assert [up.transp_conv.conv.out_channels for up in shallow.ups] == [4, 8, 16]
    # skip 2 is one extra up-sampling step, skip 3 none, skip 4 a residual block at the token grid
    assert [type(skip).__name__ for skip in deep.skips] == ["UnetrPrUpBlock", "UnetrPrUpBlock", "UnetrBasicBlock"]
    assert [len(skip.blocks) for skip in deep.skips[:2]] == [1, 0]
    assert [len(skip.blocks) for skip in shallow.skips] == [1, 0]
    assert isinstance(shallow.bottleneck, torch.nn.Identity)


@pytest.mark.parametrize(("dims", "pool"), [(2, F.avg_pool2d), (3, F.avg_pool3d)])
def test_bottleneck_pools_with_kernel_3_stride_2_padding_1(dims, pool):
    decoder, _ = little_decoder(layout="deep", grid=(2,) * dims)
    x = torch.randn(1, 5, *[6, 4, 8][:dims])
    torch.testing.assert_close(decoder.bottleneck(x), pool(x, kernel_size=3, stride=2, padding=1))
    assert decoder.bottleneck(torch.randn(1, 5, *[2] * dims)).shape == (1, 5, *[1] * dims)


def test_recomputing_changes_neither_output_nor_gradient():
    decoder, spec = little_decoder(grid=(2, 2))
    image, x = torch.randn(2, 2, *spec.image_size), torch.randn(2, spec.num_tokens, spec.dim)
    results = []
    for decoder.recompute in (False, True):
        decoder.zero_grad()
        logits = decoder.train()(image, Dense(spec.grid, x)).logits
        logits.square().sum().backward()
        results.append([logits, *(p.grad.clone() for p in decoder.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


@torch.no_grad()
def test_taps_serve_the_skips_from_fine_to_coarse():
    decoder, spec = little_decoder(layout="deep", grid=(2, 2), taps=3)
    x, *taps = torch.randn(4, 1, spec.num_tokens, spec.dim).unbind()
    image = torch.randn(1, 2, *spec.image_size)
    seen = []
    for skip in decoder.skips:
        skip.register_forward_pre_hook(lambda module, args: seen.append((module, args[0])))
    decoder(image, Dense(spec.grid, x, list(taps)))
    for module, feature in seen:
        level = list(decoder.skips).index(module)
        assert torch.equal(feature, taps[level].transpose(1, 2).reshape(1, spec.dim, 2, 2))
    assert len(seen) == 3
    # without taps, all skips read the completed tokens
    without = decoder(image, Dense(spec.grid, x)).logits
    assert torch.equal(without, decoder(image, Dense(spec.grid, x, [x] * 3)).logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 6}, r"encoder\.patch_size=6.*power of two"),
        ({"patch_size": 1}, r"encoder\.patch_size=1.*power of two"),
        ({"layout": "deepest"}, r"decoder\.layout='deepest'.*shallow.*deep"),
        ({"layout": "deep", "grid": (2, 3)}, r"grid \(2, 3\).*data\.roi_size divisible by 16.*decoder\.layout=shallow"),
        ({"taps": 3}, r"2 skip connections from tokens.*encoder\.taps gives 3; set encoder\.taps=2"),
        ({"taps": 2, "layout": "deep"}, r"3 skip connections from tokens.*encoder\.taps gives 2; set encoder\.taps=3"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        little_decoder(**settings)
