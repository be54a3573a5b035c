"""Token completion: every token at its own place, marked by its source, against loops."""

import pytest
import torch
from little_models import PLAIN, little_batch, little_network
from torch import nn

from sct.models.blocks.layers import sincos_positions
from sct.models.completion.mim import MIM
from sct.models.completion.mta import MTA
from sct.models.completion.scatter import Scatter
from sct.models.grid import to_grid
from sct.models.tokens import Encoded, FeatureSpec, Tokens

SPEC = FeatureSpec((8, 12), 1, (2, 2), 24, 2, num_prefix=1, num_stages=3)
GRID, N, C = (4, 6), 24, 24


def random_encoded(counts=(8, 6, 4, 6), *, batch=2):
    """Sparse features with a different random assignment of places in every image; the last count is the final set."""
    order = torch.rand(batch, N).argsort(dim=1)
    sets = [
        Tokens(torch.randn(batch, count, C), index.sort(dim=1).values)
        for count, index in zip(counts, order.split(list(counts), dim=1), strict=True)
    ]
    return Encoded(GRID, sets[-1], torch.randn(batch, 1, C), dropped=sets[:-1])


def livened(completion):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in completion.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    return completion


def opened(completion):
    """Without blocks, last norm and last linear: what enters the blocks comes out."""
    completion.blocks = completion.norm = completion.restore = nn.Identity()
    return completion


def placed(encoded):
    """(image, place, source, token) of every token, source counted as the stages, the final set last."""
    for source, tokens in enumerate((*encoded.dropped, encoded.final)):
        for b in range(tokens.x.shape[0]):
            for x, place in zip(tokens.x[b], tokens.index[b].tolist(), strict=True):
                yield b, place, source, x


@pytest.mark.parametrize("dim", [None, 16])
@pytest.mark.parametrize("final_block_token", [False, True], ids=["paper", "program"])
def test_mta_assembles_every_token_at_its_place(dim, final_block_token):
    torch.manual_seed(0)
    completion = livened(MTA(spec=SPEC, dim=dim, final_block_token=final_block_token))
    assert len(completion.block_tokens) == 3 + final_block_token
    encoded = random_encoded()
    positions = sincos_positions(GRID, dim or C)
    expected = torch.full((2, N, dim or C), torch.nan)
    for b, place, source, x in placed(encoded):
        # the final set has passed the encoder's norm
        x = completion.project[source](completion.norms.norms[source](x) if source < 3 else x)
        if source < 3 or final_block_token:
            x = x + completion.block_tokens[source][0, 0]
        expected[b, place] = x + positions[place]
    torch.testing.assert_close(opened(completion)(encoded).x, expected)


def test_mim_fills_every_missing_place_with_the_mask_token():
    torch.manual_seed(0)
    completion = livened(MIM(spec=SPEC, dim=16))
    encoded = random_encoded()
    positions = sincos_positions(GRID, 16)
    expected = completion.mask_token[0] + positions.expand(2, -1, -1)
    for b, place, source, x in placed(encoded):
        if source == 3:
            expected[b, place] = completion.project(x) + positions[place]
    torch.testing.assert_close(opened(completion)(encoded).x, expected)


def test_scatter_restores_the_grid():
    torch.manual_seed(0)
    completion = livened(Scatter(spec=SPEC))
    encoded = random_encoded()
    encoded.taps = [torch.randn(2, N, C)]
    expected = torch.full((2, N, C), torch.nan)
    for b, place, source, x in placed(encoded):
        expected[b, place] = completion.norms.norms[source](x) if source < 3 else x
    dense = completion(encoded)
    torch.testing.assert_close(dense.x, expected)
    assert dense.taps is encoded.taps


def test_scatter_of_a_dense_encoder_is_the_identity():
    x = torch.randn(2, N, C)
    tokens = Tokens(x, torch.arange(N).expand(2, -1))
    dense_spec = FeatureSpec((8, 12), 1, (2, 2), C, 2, num_prefix=1, num_taps=1)
    completion = Scatter(spec=dense_spec)
    assert completion.spec == dense_spec
    assert list(completion.parameters()) == []
    assert torch.equal(completion(Encoded(GRID, tokens, x[:, :1], taps=[x])).x, x)


@pytest.mark.parametrize("kind", [MTA, MIM])
def test_class_token_takes_part_and_is_dropped(kind):
    torch.manual_seed(0)
    completion = livened(kind(spec=SPEC))
    encoded, entering = random_encoded(), []
    completion.blocks.register_forward_pre_hook(lambda module, args: entering.append(args[0]))
    before = completion(encoded)
    # as a token of the final set
    project = completion.project[-1] if kind is MTA else completion.project
    torch.testing.assert_close(entering[0][:, :1], project(encoded.prefix))
    assert before.x.shape == (2, N, C)
    assert before.grid == GRID
    assert before.taps == []
    assert completion.spec.num_taps == 0
    encoded.prefix = torch.randn(2, 1, C)
    assert not torch.allclose(completion(encoded).x, before.x)


@pytest.mark.parametrize("kind", [MTA, MIM])
def test_works_without_a_class_token(kind):
    torch.manual_seed(0)
    encoded = random_encoded()
    encoded.prefix = encoded.prefix[:, :0]
    bare = FeatureSpec((8, 12), 1, (2, 2), C, 2, num_stages=3)
    assert kind(spec=bare)(encoded).x.shape == (2, N, C)


@pytest.mark.parametrize("kind", [MTA, MIM])
def test_positions_are_frozen_and_zero_for_the_class_token(kind):
    completion = kind(spec=SPEC)
    assert not completion.position.requires_grad
    assert not completion.position[0, 0].any()
    assert torch.equal(completion.position[0, 1:], sincos_positions(GRID, C))


@pytest.mark.parametrize("kind", [MTA, MIM])
def test_learned_tokens_begin_at_zero_and_depth_counts_blocks(kind):
    completion = kind(spec=SPEC, depth=2, num_heads=3)
    tokens = completion.block_tokens if kind is MTA else [completion.mask_token]
    assert not any(token.any() for token in tokens)
    assert [block.attn.num_heads for block in completion.blocks] == [3, 3]


def test_mta_gets_gradients_everywhere_when_nothing_was_dropped():
    network = little_network(PLAIN, "pruning.ratio=0.0").train()
    prediction = network(little_batch(PLAIN)[0])
    assert [tokens.x.shape[1] for tokens in prediction.encoded.dropped] == [0, 0]
    prediction.logits.square().sum().backward()
    trained = {name: p.grad for name, p in network.completion.named_parameters() if p.requires_grad}
    # a gradient that is missing, not zero, stops data-parallel training
    assert [name for name, grad in trained.items() if grad is None] == []
    used = {name for name, grad in trained.items() if grad.any()}
    silent = {name.split(".")[0] for name in set(trained) - used}
    assert silent == {"norms", "project", "block_tokens"}
    assert {"project.2.weight", "project.2.bias"} <= used


@pytest.mark.parametrize("grid", [(2, 3), (2, 3, 4)])
def test_to_grid_puts_row_major_tokens_in_place(grid):
    number = torch.arange(torch.Size(grid).numel(), dtype=torch.float32)
    x = torch.stack([number, -number], dim=-1).unsqueeze(0)
    volume = to_grid(x, grid)
    assert volume.shape == (1, 2, *grid)
    assert torch.equal(volume[0, 0], number.reshape(grid))
    assert torch.equal(volume[0, 1], -number.reshape(grid))
