"""Rotary positions against loops and complex numbers; what holds for tokens whose neighbours were dropped."""

import itertools
import math

import pytest
import torch

from sct.errors import UserError
from sct.models.blocks.layers import Attention, Layout
from sct.models.blocks.rotary import rotary_angles, rotary_table, rotated

GRIDS = [(4, 3), (3, 2, 4)]


@pytest.mark.parametrize(("grid", "head_dim"), [((2, 3), 8), ((2, 3, 4), 12), ((2, 3, 4), 16), ((2, 3), 6)])
def test_angles_against_a_loop(grid, head_dim):
    per_axis = head_dim // (2 * len(grid))
    expected = torch.zeros(math.prod(grid), head_dim // 2, dtype=torch.float64)
    for row, place in enumerate(itertools.product(*map(range, grid))):
        for axis, coordinate in enumerate(place):
            for i in range(per_axis):
                expected[row, axis * per_axis + i] = coordinate / 10000 ** (i / per_axis)
    torch.testing.assert_close(rotary_angles(grid, head_dim=head_dim), expected)


def test_a_rotation_is_a_product_of_complex_numbers():
    torch.manual_seed(0)
    x, table = torch.randn(1, 3, 6, 8, dtype=torch.float64), rotary_table((2, 3), head_dim=8)[:-1].double()
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)))
    turned = pairs * torch.polar(torch.ones(6, 4, dtype=torch.float64), rotary_angles((2, 3), head_dim=8))
    torch.testing.assert_close(
        rotated(x, table.unsqueeze(0)), torch.view_as_real(turned).flatten(-2), rtol=0, atol=1e-6
    )


def test_a_token_without_a_place_is_not_rotated():
    x, table = torch.randn(1, 2, 1, 12), rotary_table((2, 2, 2), head_dim=12)
    assert table.shape == (9, 12)
    assert torch.equal(rotated(x, table[-1:].unsqueeze(0)), x)
    assert torch.equal(rotated(x, table[:1].unsqueeze(0)), x), "the first place has the angles 0"
    assert not torch.equal(rotated(x, table[1:2].unsqueeze(0)), x)


@pytest.mark.parametrize(("grid", "head_dim"), [((2, 2, 2), 4), ((2, 2), 2), ((2, 2), 5)])
def test_heads_that_cannot_be_rotated_are_refused(grid, head_dim):
    with pytest.raises(UserError, match=rf"rotary=true.*heads of {head_dim} channel.*at least {2 * len(grid)}"):
        rotary_angles(grid, head_dim=head_dim)


def attention_on(grid):
    torch.manual_seed(0)
    attention = Attention(24, num_heads=2).double()
    N = math.prod(grid)
    table = rotary_table(grid, head_dim=12).double()
    return attention, torch.randn(1, N, 24, dtype=torch.float64), table[:N].unsqueeze(0)


@pytest.mark.parametrize("grid", GRIDS, ids=["2d", "3d"])
@torch.no_grad()
def test_attention_of_a_pruned_set_is_that_of_the_whole_set_with_the_others_masked(grid):
    attention, x, rotation = attention_on(grid)
    kept = torch.randperm(x.shape[1])[: x.shape[1] // 2].sort().values
    mask = torch.zeros(1, x.shape[1], dtype=torch.float64).index_fill(1, kept, 1.0)
    whole = attention(x, Layout(seen=mask, rotation=rotation))[0]
    pruned = attention(x[:, kept], Layout(rotation=rotation[:, kept]))[0]
    torch.testing.assert_close(pruned, whole[:, kept], rtol=0, atol=1e-6)
    renumbered = attention(x[:, kept], Layout(rotation=rotation[:, : len(kept)]))[0]
    assert (renumbered - pruned).abs().max() > 1e-3, "places that are counted anew give another result"


@pytest.mark.parametrize("grid", GRIDS, ids=["2d", "3d"])
@torch.no_grad()
def test_scores_depend_on_distances_alone(grid):
    """All tokens moved by one place along an axis: the same products of queries and keys."""
    attention, x, rotation = attention_on(grid)
    places = torch.arange(x.shape[1]).reshape(grid)
    q, k, _ = attention.qkv(x).unflatten(2, (3, 2, 12)).permute(2, 0, 3, 1, 4)
    scores = []
    for axis, size in enumerate(grid):
        before, after = (places.narrow(axis, start, size - 1).flatten() for start in (0, 1))
        q_of, k_of = q[:, :, before], k[:, :, before]
        here, there = (rotated(q_of, r) @ rotated(k_of, r).mT for r in (rotation[:, before], rotation[:, after]))
        torch.testing.assert_close(here, there, rtol=0, atol=1e-6)
        scores.append((here - q_of @ k_of.mT).abs().max())
    assert min(scores) > 1e-2, "each axis has its part in the scores"
