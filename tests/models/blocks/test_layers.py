"""Attention, stochastic depth and positions against their definitions."""

import itertools
import math

import pytest
import torch

from sct.errors import UserError
from sct.models.blocks.layers import Attention, AttentionStats, Block, DropPath, Layout, sincos_positions
from sct.models.blocks.mlp import Mlp
from sct.models.encoder import ViTEncoder


def test_attention_equals_softmax_of_products():
    torch.manual_seed(0)
    B, L, H, D = 2, 7, 3, 4
    attention = Attention(H * D, num_heads=H).double()
    x = torch.randn(B, L, H * D, dtype=torch.float64)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    heads, rows = [], []
    for h in range(H):
        part = slice(h * D, (h + 1) * D)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(D)).softmax(dim=-1)
        heads.append(weights @ v[..., part])
        rows.append(weights[:, 0])
    out, stats = attention(x, wants=("class_row", "keys"))
    torch.testing.assert_close(out, attention.proj(torch.cat(heads, dim=-1)))
    torch.testing.assert_close(stats.class_row, torch.stack(rows, dim=2))
    keys = torch.stack([k[..., h * D : (h + 1) * D] for h in range(H)]).mean(dim=0)
    torch.testing.assert_close(stats.keys, keys)
    same, none = attention(x)
    assert torch.equal(out, same)
    assert none == AttentionStats()


def test_width_must_be_divisible_by_heads():
    with pytest.raises(UserError, match=r"dim=10.*num_heads=3"):
        Attention(10, num_heads=3)


def test_block_halves():
    torch.manual_seed(0)
    block = Block(12, num_heads=2)
    x = torch.randn(2, 5, 12)
    attended = x + block.attn(block.norm1(x))[0]
    torch.testing.assert_close(block.attend(x)[0], attended)
    torch.testing.assert_close(block(x), attended + block.mlp(block.norm2(attended)))


def test_drop_path():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    drop = DropPath(0.25)
    assert torch.equal(drop.eval()(x), x)
    out = drop.train()(x)
    assert torch.equal(out, out[:, :1, :1].expand_as(out)), "whole samples"
    kept = out[:, 0, 0] > 0
    torch.testing.assert_close(out[kept][0, 0, 0].item(), 1 / 0.75)
    assert abs(kept.float().mean() - 0.75) < 0.03


@pytest.mark.parametrize(("grid", "dim"), [((2, 3), 24), ((2, 3, 4), 24), ((2, 3, 4), 32)])
def test_sincos_positions_against_a_loop(grid, dim):
    half = dim // (2 * len(grid))
    expected = torch.zeros(math.prod(grid), dim)
    for row, place in enumerate(itertools.product(*map(range, grid))):
        for axis, coordinate in enumerate(place):
            for i in range(half):
                angle = coordinate / 10000 ** (i / half)
                expected[row, 2 * axis * half + i] = math.sin(angle)
                expected[row, (2 * axis + 1) * half + i] = math.cos(angle)
    torch.testing.assert_close(sincos_positions(grid, dim), expected)


def test_sincos_positions_of_vit_b_split_in_six():
    table = sincos_positions((2, 2, 2), 768).reshape(8, 6, 128)
    first, last = table[0], table[7]
    # at the origin every sine is 0 and every cosine 1; one step away the first frequency is 1
    assert torch.equal(first, torch.tensor([0.0, 1.0] * 3).unsqueeze(1).expand(6, 128))
    torch.testing.assert_close(last[:, 0], torch.tensor([math.sin(1), math.cos(1)] * 3))
    assert len(sincos_positions((3, 4, 5), 768).unique(dim=0)) == 60


def test_drop_path_drops_whole_images_of_a_packed_batch():
    torch.manual_seed(0)
    lengths = (3, 1, 4) * 400
    out = DropPath(0.25).train()(torch.ones(1, sum(lengths), 2), lengths=lengths)
    images = [part.unique() for part in out[0].split(lengths)]
    assert all(len(values) == 1 for values in images), "an image is kept or dropped as a whole"
    kept = torch.cat(images) > 0
    torch.testing.assert_close(torch.cat(images)[kept], torch.full((int(kept.sum()),), 1 / 0.75))
    assert abs(kept.float().mean() - 0.75) < 0.05
    first, last = torch.cat(images)[:-1], torch.cat(images)[1:]
    assert (first != last).any(), "the images draw for themselves"


def test_both_halves_of_a_block_are_dropped_by_image():
    torch.manual_seed(0)
    block, x = Block(12, num_heads=2, drop_path=0.5), torch.randn(64, 3, 12)
    for half in (lambda: block.attend(x)[0], lambda: block.feed(x)):
        block.eval()
        whole = half() - x
        block.train()
        some = half() - x
        kept = some.flatten(1).any(dim=1)
        assert 0 < kept.float().mean() < 1
        torch.testing.assert_close(some[kept], 2 * whole[kept])


def test_the_mlp_drops_behind_both_of_its_linear_layers():
    torch.manual_seed(0)
    mlp = Mlp(6, hidden=8, dropout=0.5)
    for layer in (mlp.fc1, mlp.fc2):
        torch.nn.init.constant_(layer.weight, 0.1)
        torch.nn.init.constant_(layer.bias, 1.0)
    hidden = []
    mlp.fc2.register_forward_pre_hook(lambda module, args: hidden.append(args[0]))
    x = torch.ones(1, 500, 6)
    out = mlp.train()(x)
    for values in (hidden[0], out):
        assert abs((values == 0).float().mean() - 0.5) < 0.05
    assert (mlp.eval()(x) != 0).all()


def test_drop_path_rates_rise_linearly_over_the_blocks():
    encoder = ViTEncoder(image_size=(8, 8), in_channels=1, patch_size=4, dim=8, depth=5, num_heads=2, drop_path=0.2)
    assert [block.drop_path.rate for block in encoder.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_dropout_of_an_encoder_is_behind_the_embedding_and_in_every_mlp():
    encoder = ViTEncoder(image_size=(40, 40), in_channels=1, patch_size=4, dim=8, depth=2, num_heads=2, dropout=0.5)
    torch.nn.init.constant_(encoder.position, 1.0)
    image = torch.zeros(4, 1, 40, 40)
    torch.manual_seed(0)
    assert abs((encoder.train().embed(image) == 0).float().mean() - 0.5) < 0.05
    assert (encoder.eval().embed(image) != 0).all()
    assert [block.mlp.dropout.p for block in encoder.blocks] == [0.5, 0.5]


def test_the_mask_of_a_token_is_the_factor_of_its_mlps_update():
    torch.manual_seed(0)
    block, x = Block(12, num_heads=2), torch.randn(1, 3, 12)
    fed = block.feed(x, Layout(active=torch.tensor([[1.0, 0.0, 0.5]])))
    update = block.feed(x) - x
    torch.testing.assert_close(fed - x, update * torch.tensor([1.0, 0.0, 0.5]).reshape(1, 3, 1))
