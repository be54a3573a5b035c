"""ToMe: the matching by hand, sizes and places, proportional attention, unmerging, and the statistics of tokens."""

import math

import pytest
import torch
from little_models import Combination, little_batch, little_network
from stp_by_hand import spec_of

from sct.models.blocks.layers import AttentionStats, Block, Layout
from sct.models.grid import pruning_depth
from sct.models.reducers.tome import Merged, ToMe, match
from sct.models.tokens import Tokens, gather_tokens
from sct.profiling.segmenter import tokens_alive

WHICH = Combination("tome", "scatter", "fcn", 2)
# directions of keys in degrees: even tokens 0, 2, 4 have the best partners 3, 1, 5 at 2, 20 and 1 degrees
ANGLES = [0.0, 70.0, 90.0, 2.0, 200.0, 201.0]


def keys_of(angles):
    """Unit keys (1, n, 2), scaled, since a cosine does not look at lengths."""
    turns = torch.tensor(angles).deg2rad()
    return (torch.stack([turns.cos(), turns.sin()], dim=-1) * torch.arange(1, len(angles) + 1).unsqueeze(-1)).unsqueeze(
        0
    )


def tome(n, **settings):
    return ToMe(spec=spec_of(n, dim=2), blocks=(1, 2), **settings)


def merge(angles, *, ratio, tokens=None):
    n = len(angles)
    if tokens is None:
        x = torch.tensor([[10.0**i, 1.0] for i in range(n)]).unsqueeze(0)
        tokens = Tokens(x, torch.arange(n).unsqueeze(0))
    return tome(n, ratio=ratio)(tokens, stage=0, stats=AttentionStats(keys=keys_of(angles)))


def test_matching_by_hand():
    merged, others, partner = match(keys_of(ANGLES), r=2)
    assert merged.tolist() == [[0, 2]], "tokens 0 and 4, with angles of 2 and 1 degrees"
    assert others.tolist() == [[1]]
    assert partner.tolist() == [[1, 2]], "tokens 3 and 5"


def test_one_stage_by_hand():
    reduction = merge(ANGLES, ratio=0.34)
    live, dropped = reduction.live, reduction.dropped
    assert (live.index.tolist(), live.size.tolist()) == ([[1, 2, 3, 5]], [[1, 1, 2, 2]])
    assert live.x[0, :, 0].tolist() == pytest.approx([10, 100, (1 + 1000) / 2, (1e4 + 1e5) / 2])
    assert live.key_bias.tolist() == [pytest.approx([0, 0, math.log(2), math.log(2)])]
    assert (dropped.index.tolist(), reduction.parent.tolist()) == ([[0, 4]], [[3, 5]])
    assert dropped.x[0, :, 0].tolist() == [1.0, 1e4]


def test_means_are_weighted_by_size():
    size = torch.tensor([[3.0, 1.0]])
    tokens = Merged(torch.tensor([[[4.0, 0.0], [8.0, 0.0]]]), torch.tensor([[2, 7]]), size=size)
    live = tome(9, ratio=0.5)(tokens, stage=1, stats=AttentionStats(keys=keys_of([0.0, 1.0]))).live
    assert (live.index.tolist(), live.size.tolist(), live.x[0, 0, 0].item()) == ([[7]], [[4.0]], 5.0)


def test_more_than_half_is_merged_in_several_matchings():
    reduction = merge(ANGLES, ratio=0.8)
    assert reduction.live.size.sum() == 6
    assert reduction.live.index.shape == (1, 1)
    last = reduction.live.index.item()
    # every chain of parents ends at the token that is left
    parents = dict(zip(reduction.dropped.index[0].tolist(), reduction.parent[0].tolist(), strict=True))
    assert len(parents) == 5
    for place in parents:
        for _ in range(3):  # matchings: 6 tokens, 3, 2, 1
            place = parents.get(place, place)
        assert place == last
    torch.testing.assert_close(reduction.live.x[0, 0, 0].item(), 111111 / 6, rtol=1e-6, atol=0)


def test_a_merged_token_acts_as_its_equal_parts():
    """Blocks on merged tokens of equal features give what they give on the tokens themselves."""
    torch.manual_seed(0)
    block = Block(8, num_heads=2)
    size = torch.tensor([1, 3, 2])
    x = torch.randn(1, 3, 8)
    apart, _ = block.attend(x.repeat_interleave(size, dim=1))
    together, _ = block.attend(x, Layout(key_bias=size.log().unsqueeze(0)))
    torch.testing.assert_close(together.repeat_interleave(size, dim=1), apart)


@torch.no_grad()
def test_places_end_equal_to_their_parents():
    encoder = little_network(WHICH).encoder
    reductions = []
    encoder.reducer.register_forward_hook(lambda module, inputs, output: reductions.append(output))
    encoded = encoder(little_batch(WHICH)[0])
    assert encoded.dropped == []
    assert encoded.final.x.shape == (2, 16, 24)
    first, second = reductions
    for reduction in (first, second):
        assert reduction.dropped.index.shape == reduction.parent.shape
        ours = gather_tokens(encoded.final.x, reduction.dropped.index)
        assert torch.equal(ours, gather_tokens(encoded.final.x, reduction.parent))
    groups = [len(image.unique(dim=0)) for image in encoded.final.x]
    assert groups == [4, 4], "16 places share the features of the 4 tokens that are left"
    depth = pruning_depth(encoded).flatten(1)
    for image in range(2):
        assert (depth[image, first.dropped.index[image]] == 0).all()
        assert (depth[image, second.dropped.index[image]] == 1).all()
        assert (depth[image, second.live.index[image]] == 2).all()
    assert [alive.tolist() for alive in encoded.alive] == [[8, 8], [4, 4]]
    assert tokens_alive(encoder, encoded).tolist() == [[8, 8], [4, 4], [4, 4]]


@torch.no_grad()
def test_later_attention_gets_the_log_of_sizes_and_the_class_token_none():
    seen = []
    for settings in ((), ("encoder.reducer.proportional=false",)):
        encoder = little_network(WHICH, *settings).encoder
        encoder.blocks[2].attn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].key_bias))
        encoder(little_batch(WHICH)[0])
    bias, none = seen
    assert none is None
    assert bias.shape == (2, 5)
    assert (bias[:, 0] == 0).all(), "the class token is of size 1"
    torch.testing.assert_close(bias[:, 1:].exp().sum(dim=1), torch.tensor([16.0, 16.0]))


def test_the_choice_has_no_gradient_and_the_means_have():
    x = torch.randn(1, 6, 2, requires_grad=True)
    tokens = Tokens(x, torch.arange(6).unsqueeze(0))
    keys = keys_of(ANGLES).requires_grad_()
    tome(6, ratio=0.34)(tokens, stage=0, stats=AttentionStats(keys=keys)).live.x.sum().backward()
    assert keys.grad is None
    torch.testing.assert_close(x.grad[0, :, 0], torch.tensor([0.5, 1, 1, 0.5, 0.5, 0.5]))


@torch.no_grad()
def test_under_mixed_precision_the_matching_is_that_of_float32():
    x = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0))
    keys = 1 + 0.02 * torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(1))
    reducer, tokens = tome(64, ratio=0.5), Tokens(x, torch.arange(64).unsqueeze(0))
    exact = reducer(tokens, stage=0, stats=AttentionStats(keys=keys))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = reducer(tokens, stage=0, stats=AttentionStats(keys=keys))
    assert torch.equal(mixed.parent, exact.parent)
    assert torch.equal(mixed.live.x, exact.live.x)
