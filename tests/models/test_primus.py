"""The blocks of Primus with every pruning method, and each of their parts against its definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from little_models import Combination, little_batch, little_config, little_criterion, little_network

from sct.config.check import build
from sct.config.command import compose_config
from sct.errors import UserError
from sct.models.blocks.layers import Attention, Block, Layout
from sct.models.blocks.rotary import rotary_table, rotated
from sct.models.decoders.primus import published_widths
from sct.models.encoder import ViTEncoder
from sct.models.grid import join
from sct.models.reducers.asvit import encoder_macs
from sct.models.segmenter import Segmenter
from sct.models.stems.pyramid import PyramidEmbedding
from sct.models.tokens import Tokens
from sct.profiling.macs import count_parameters

PRUNING = ["asvit", "cropr", "dtop", "dynamicvit", "evit", "minscore", "random", "stp", "tome"]
# of the class token's attention
CLASS_TOKEN = ("asvit", "evit", "minscore")
SETTINGS = {
    "asvit": ("encoder.reducer.thresholds=[0.005,0.01]", "encoder.reducer.threshold_rate=0.1"),
    "dtop": ("encoder.reducer.head=fcn", "encoder.reducer.p0=0.4", "encoder.reducer.k=1"),
    "evit": ("encoder.reducer.fuse=true", "encoder.reducer.inside_block=true"),
}


def primus(method, dims):
    token = f"encoder.class_token={str(method in CLASS_TOKEN).lower()}"
    overrides = ["+variant=primus", token, *SETTINGS.get(method, ())]
    which = Combination(method, "scatter" if dims == 2 else "mta", "primus", dims)
    return which, little_network(which, *overrides)


def little_encoder(**settings):
    torch.manual_seed(0)
    sizes = {"image_size": (8, 12, 8), "in_channels": 1, "patch_size": 4, "dim": 24, "depth": 2, "num_heads": 2}
    return ViTEncoder(**{**sizes, "rotary": True, "position_init": "none", **settings}).double().eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", PRUNING)
def test_every_pruning_method_works_on_the_blocks_of_primus(method, dims):
    which, network = primus(method, dims)
    assert network.encoder.rotary is not None
    image, label = little_batch(which)
    with torch.no_grad():
        together, alone = network(image), torch.cat([network(image[:1]), network(image[1:])])
        alive = network.encoder(image).alive
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert alive[0].min() < network.encoder.spec.num_tokens, "tokens are pruned"
    criterion = little_criterion(little_config(which))
    criterion(network.train()(image), label, image=image)["loss"].backward()
    grads = {name: p.grad for name, p in network.encoder.blocks.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.isfinite().all() or not grad.any()] == []


@pytest.mark.parametrize("packed", [False, True], ids=["equal", "packed"])
@pytest.mark.parametrize("class_token", [False, True], ids=["patches", "class token"])
@torch.no_grad()
def test_attention_of_tokens_alive_is_that_of_the_grid_with_the_others_masked(class_token, packed):
    encoder = little_encoder(class_token=class_token)
    attention, P, N = encoder.blocks[0].attn, encoder.num_prefix, encoder.spec.num_tokens
    x = encoder.embed(torch.randn(2, 1, 8, 12, 8, dtype=torch.float64))
    index = torch.arange(N).expand(2, -1)
    whole, keep = Tokens(x[:, P:], index), torch.zeros(2, N, dtype=torch.bool)
    for row, seed in zip(keep, (1, 2), strict=True):
        row[torch.randperm(N, generator=torch.Generator().manual_seed(seed))[: 7 - 2 * packed * seed]] = True
    alive = whole.select(keep) if packed else whole.take(keep.nonzero()[:, 1].reshape(2, -1))
    found = attention(join(x[:, :P], alive), encoder.layout(alive))[0]
    seen = F.pad(keep.double(), (P, 0), value=1.0)
    full = attention(x, Layout(seen=seen, rotation=encoder.layout(whole).rotation))[0]
    torch.testing.assert_close(found.reshape(-1, 24), full[seen.bool()], rtol=0, atol=1e-6)


def test_tokens_without_a_place_are_not_rotated():
    encoder = little_encoder(class_token=True)
    N = encoder.spec.num_tokens
    tokens = Tokens(torch.zeros(1, 3, 24), torch.tensor([[0, N - 1, N]]))
    class_token, _, last, fused = encoder.layout(tokens).rotation[0].unbind(0)
    none = torch.cat([torch.ones(6), torch.zeros(6)]).double()
    assert torch.equal(class_token, none)
    assert torch.equal(fused, none)
    assert not torch.equal(last, none)


@pytest.mark.parametrize("axis", [0, 1, 2])
@torch.no_grad()
def test_an_image_moved_by_one_patch_has_the_same_attention(axis):
    encoder = little_encoder(class_token=False)
    image = torch.randn(1, 1, 8, 12, 8, dtype=torch.float64)
    places = torch.arange(encoder.spec.num_tokens).reshape(encoder.grid)
    # the last tokens along the axis come in again on the other side
    inside = places.narrow(axis, 0, encoder.grid[axis] - 1).flatten()
    moved = inside + places.stride(axis)
    outputs = []
    for window, index in ((image, inside), (image.roll(4, dims=2 + axis), moved)):
        x = encoder.embed(window)
        tokens = Tokens(x[:, index], index.unsqueeze(0))
        outputs.append(encoder.blocks[0].attn(tokens.x, encoder.layout(tokens))[0])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_method_reads_attention_with_the_rotation_and_keys_without_it():
    torch.manual_seed(0)
    attention, x = Attention(24, num_heads=2).double(), torch.randn(1, 7, 24, dtype=torch.float64)
    table = rotary_table((2, 3), head_dim=12).double()
    rotation = torch.cat([table[-1:], table[:-1]]).unsqueeze(0)
    q, k, _ = attention.qkv(x).unflatten(2, (3, 2, 12)).permute(2, 0, 3, 1, 4)
    logits = q[:, :, :1] @ rotated(k, rotation).mT / math.sqrt(12)
    _, stats = attention(x, Layout(rotation=rotation), wants=("class_row", "keys"))
    torch.testing.assert_close(stats.class_row, logits.softmax(dim=-1).squeeze(2).transpose(1, 2))
    torch.testing.assert_close(stats.keys, k.mean(dim=1))


@torch.no_grad()
def test_a_block_against_its_definition():
    torch.manual_seed(0)
    settings = {"activation": "swiglu", "mlp_norm": True, "attention_norm": True, "layer_scale": 0.1}
    block = Block(12, num_heads=2, mlp_ratio=8 / 3, norm_eps=1e-5, **settings).double()
    for parameter in block.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    attention, mlp, y = block.attn, block.mlp, block.norm1(x)
    q, k, v = attention.qkv(y).unflatten(2, (3, 2, 6)).permute(2, 0, 3, 1, 4)
    context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    normed = F.layer_norm(context, (12,), attention.norm.weight, attention.norm.bias, eps=1e-5)
    attended = x + block.scale1.scale * attention.proj(normed)
    z = block.norm2(attended)
    hidden = F.silu(mlp.fc1(z)) * mlp.gated(z)
    assert hidden.shape[-1] == 32
    normed = F.layer_norm(hidden, (32,), mlp.norm.weight, mlp.norm.bias, eps=1e-5)
    torch.testing.assert_close(block(x), attended + block.scale2.scale * mlp.fc2(normed))


def test_deeper_blocks_start_with_smaller_weights():
    plain, shrunk = (little_encoder(depth=3, rotary=False, depth_init=depth_init) for depth_init in (False, True))
    for number, (before, after) in enumerate(zip(plain.blocks, shrunk.blocks, strict=True), start=1):
        factor = math.sqrt(2 * number)
        torch.testing.assert_close(after.attn.proj.weight * factor, before.attn.proj.weight)
        torch.testing.assert_close(after.mlp.fc2.weight * factor, before.mlp.fc2.weight)
        assert torch.equal(after.mlp.fc1.weight, before.mlp.fc1.weight)
    assert [block.scale1.scale.unique().item() for block in little_encoder(layer_scale=0.5).blocks] == [0.5, 0.5]


@torch.no_grad()
def test_maps_of_a_pyramid_are_projected_to_the_tokens():
    torch.manual_seed(0)
    embedding = PyramidEmbedding((2, 3), dim=5, patch_size=(8, 8, 4)).double()
    assert embedding.scales.tolist() == pytest.approx([1e-5, 1e-5])
    embedding.scales.copy_(torch.tensor([0.5, 2.0]))
    # the finest of three maps is left out: the first one is one step coarser than the image, where the last axis waits
    maps = [torch.randn(1, 2, 8, 8, 8, dtype=torch.float64), torch.randn(1, 3, 4, 4, 4, dtype=torch.float64)]
    fine, coarse = embedding.projections
    assert (fine.kernel_size, coarse.kernel_size) == ((4, 4, 4), (2, 2, 2))
    expected = 0.5 * F.conv3d(maps[0], fine.weight, fine.bias, stride=4)
    expected += 2.0 * F.conv3d(maps[1], coarse.weight, coarse.bias, stride=2)
    torch.testing.assert_close(embedding(maps), expected)


@pytest.mark.parametrize("option", ["rotary", "attention_norm"])
def test_options_of_plain_attention_are_refused_with_another_attention(option):
    which = Combination("ap_setr", "scatter", "fcn", 2)
    with pytest.raises(UserError, match=rf"encoder\.{option}=true.*set encoder\.{option}=false, or encoder\.attention"):
        little_network(which, f"encoder.{option}=true")


def test_the_budget_of_asvit_counts_a_gated_mlp():
    encoder = little_encoder(activation="swiglu", mlp_ratio=8 / 3, class_token=False)
    N, C = encoder.spec.num_tokens, encoder.spec.dim
    layers = sum(module.weight.numel() for module in encoder.modules() if isinstance(module, torch.nn.Linear))
    expected = N * (layers + encoder.patch_embed.weight.numel()) + encoder.depth * 2 * N**2 * C
    assert encoder_macs([], spec=encoder.spec, blocks=(1,)).item() == expected


def test_a_projection_of_maps_needs_a_stem():
    with pytest.raises(UserError, match=r"encoder\.pyramid_embed=true.*no stem.*encoder\.pyramid_embed=false"):
        little_encoder(pyramid_embed=True)


@pytest.mark.parametrize(
    ("name", "published", "stem_biases"),
    [("primus", 23_419_407, 0), ("primus_v2", 24_192_399, 64), ("primus_v3", 70_629_046, 64)],
)
def test_parameters_are_those_of_the_package(name, published, stem_biases):
    """And a bias of the keys, a bias of each place of the decoder's steps, but no bias before a norm of the stem."""
    cfg = compose_config("train", overrides=[f"encoder={name}", "completion=scatter", "decoder=primus"])
    with torch.device("meta"):
        network = Segmenter(
            encoder=build(cfg.encoder, key="encoder", image_size=(64, 64, 64), in_channels=1, num_classes=3),
            completion=build(cfg.completion, key="completion"),
            decoder=build(cfg.decoder, key="decoder"),
            num_classes=3,
        )
    key_biases, place_biases = 12 * 396, 7 * sum(published_widths(396, num_classes=3, num_steps=3))
    assert count_parameters(network) == published + key_biases + place_biases - stem_biases
