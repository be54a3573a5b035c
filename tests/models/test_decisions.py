"""Decisions about tokens are made in float32: under mixed precision a method keeps what it keeps without.

The features are given in float32, as the residual stream of an encoder has them, in windows like those of the
Hippocampus (768 patches). In half precision many of their scores would be equal.
"""

import pytest
import torch
from little_models import options

from sct.config.check import build
from sct.config.command import compose_config
from sct.models.adaptive.dependencies import AdaptiveThreshold
from sct.models.adaptive.gate import QueryGate
from sct.models.blocks.layers import Attention, Layout
from sct.models.blocks.rotary import rotary_table
from sct.models.grid import presence
from sct.models.reducers.asvit import ASViT
from sct.models.reducers.dtop import DToP
from sct.models.tokens import Tokens

SIZE, PATCH = (32, 48, 32), 4
HALF = torch.bfloat16
METHODS = [
    (name,)
    for name in options("encoder")
    if compose_config("train", overrides=[f"encoder={name}"]).encoder.get("reducer") is not None
]
VARIANTS = [
    ("dtop", "encoder.reducer.head=fcn"),
    ("dtop", "encoder.reducer.context=top_share"),
    ("evit", "encoder.reducer.fuse=true"),
    ("evit", "encoder.reducer.head_importance=true"),
    ("asvit", "encoder.reducer.head_importance=false"),
]


def encoder_of(name, *overrides):
    """An encoder that prunes after its second block, with uneven attention and decided heads."""
    pruning = ("pruning.blocks=[2]", "pruning.ratio=0.5")
    cfg = compose_config("train", overrides=[f"encoder={name}", *pruning, *overrides]).encoder
    # without convolutions in front, which have a patch of their own
    cfg.update({"patch_size": PATCH, "dim": 96, "depth": 4, "num_heads": 6, "taps": 0, "stem": None})
    torch.manual_seed(0)
    encoder = build(cfg, key="encoder", image_size=SIZE, in_channels=1, num_classes=3)
    for block in encoder.blocks:
        block.attn.qkv.weight.data *= 6
    for parameter in encoder.reducer.parameters():
        if parameter.ndim > 1:
            parameter.data *= 6
    return encoder


@torch.no_grad()
def reduction_of(encoder, x, *, dtype):
    """What the reducer makes of the sequence x (B, P + N, C), as input of the block and as tokens."""
    P, N = encoder.num_prefix, encoder.spec.num_tokens
    tokens = Tokens(x[:, P:], torch.arange(N).expand(len(x), -1))
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        _, stats = encoder.blocks[1].attend(x, wants=encoder.reducer.wants)
        return encoder.reducer(tokens, stage=0, stats=stats.map_tokens(lambda values: values[:, P:]))


def middle(values):
    """A number between the two values in the middle."""
    return values.sort().values[len(values) // 2 - 1 :][:2].mean().item()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("which", [*METHODS, *VARIANTS], ids="-".join)
def test_mixed_precision_keeps_the_tokens_of_float32(which, training):
    encoder = encoder_of(*which)
    P, N = encoder.num_prefix, encoder.spec.num_tokens
    x = torch.randn(2, P + N, 96, generator=torch.Generator().manual_seed(2))
    reducer = encoder.reducer.train(training)
    first = reduction_of(encoder, x, dtype=torch.float32).aux
    # half of the tokens of the first image pass a threshold, or half exit
    if isinstance(reducer, ASViT):
        reducer.thresholds.data[0] = middle(first["score_1"][0]) * N / reducer.threshold_rate
    if isinstance(reducer, DToP):
        reducer.p0 = middle(first["confidence_1"][0])
    expected = presence(reduction_of(encoder, x, dtype=torch.float32).live, num_tokens=N)
    assert 0 < expected.mean() < 1
    found = presence(reduction_of(encoder, x, dtype=HALF).live, num_tokens=N)
    assert ((found > 0.5) != (expected > 0.5)).sum() == 0


def test_without_exact_scores_a_token_in_a_thousand_is_another():
    """The price of a faster attention in AS-ViT's pruning blocks, see `exact_scores`."""
    encoder = encoder_of("asvit", "encoder.reducer.exact_scores=false").eval()
    assert encoder.reducer.wants == ("class_row", "head_norms")
    P, N = encoder.num_prefix, encoder.spec.num_tokens
    x = torch.randn(4, P + N, 96, generator=torch.Generator().manual_seed(2))
    scores, rounded = (reduction_of(encoder, x, dtype=dtype).aux["score_1"] for dtype in (torch.float32, HALF))
    level = scores.median(dim=1, keepdim=True).values
    assert ((scores > level) != (rounded > level)).float().mean() < 0.003


@pytest.mark.parametrize("lengths", [None, (5, 9)], ids=["whole", "packed"])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
@torch.no_grad()
def test_statistics_of_attention_are_those_of_float32(lengths, qkv_bias, rotary):
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, qkv_bias=qkv_bias)
    for parameter in attention.parameters():
        parameter.copy_(torch.randn_like(parameter))
    # the first token of an image has no place
    table = rotary_table((3, 3), head_dim=8)
    rotation = table[[9, 1, 4, 7, 8, 9, *range(8)]].unsqueeze(0) if rotary else None
    x, layout = torch.randn(1, 14, 24), Layout(lengths=lengths, key_bias=torch.randn(1, 14), rotation=rotation)
    wants = ("class_row", "keys")
    exact = attention(x, layout, wants=wants)[1]
    with torch.autocast("cpu", dtype=HALF):
        found = attention(x, layout, wants=wants)[1]
    for name in wants:
        assert getattr(found, name).dtype == torch.float32
        torch.testing.assert_close(getattr(found, name), getattr(exact, name))


@torch.no_grad()
def test_the_gate_and_the_thresholds_of_apformer_decide_in_float32():
    torch.manual_seed(0)
    gate, features = QueryGate(spatial_dims=2, in_channels=8, threshold=0.5), torch.randn(2, 8, 16, 16)
    threshold, q = AdaptiveThreshold(head_dim=8), torch.randn(2, 3, 16, 8)
    attention = torch.randn(2, 3, 16, 16).softmax(dim=-1)
    expected = gate(features), threshold(q, attention)
    with torch.autocast("cpu", dtype=HALF):
        found = gate(features), threshold(q, attention)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["stp", "dynamicvit", "cropr"])
def test_an_encoder_without_positions_and_class_token_scores_its_half_precision_features(method):
    encoder = encoder_of(method, "encoder.position_init=none", "encoder.class_token=false")
    for training in (True, False):
        with torch.autocast("cpu", dtype=HALF):
            encoded = encoder.train(training)(torch.randn(1, 1, *SIZE))
        assert encoded.aux["score_1"].dtype == torch.float32
