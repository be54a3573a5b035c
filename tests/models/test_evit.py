"""EViT: counts and costs of the paper, the class token's attention, the fused token, the schedule."""

from functools import partial

import pytest
import torch
from closed_form import vit
from deit_small import cost
from little_models import CLASSES, Combination, little_batch, little_config, little_criterion, little_network
from stp_by_hand import random_tokens, spec_of

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.grid import presence
from sct.models.reducers.evit import EViT
from sct.models.tokens import gather_tokens
from sct.profiling.macs import count_macs

FUSED = ("encoder.reducer.inside_block=true", "encoder.reducer.fuse=true")
MTA_2D = Combination("evit", "mta", "unetr", 2)


def given_evit(attention, *, num_tokens=16, **settings):
    """EViT and statistics in which the class token's attention (B, n, H) is known."""
    evit = EViT(spec=spec_of(num_tokens, dim=8), blocks=(1, 2), **settings)
    return evit, AttentionStats(attention, torch.ones_like(attention))


@pytest.mark.parametrize(("fuse", "counts"), [(True, [139, 99, 71]), (False, [138, 97, 68])], ids=["fused", "unfused"])
def test_counts_of_the_paper(fuse, counts):
    tokens, found = random_tokens(B=1, N=196), []
    for stage in range(3):
        evit, stats = given_evit(torch.rand(1, tokens.x.shape[1], 2), num_tokens=196, ratio=0.3, fuse=fuse)
        tokens = evit(tokens, stage=stage, stats=stats).live
        found.append(tokens.x.shape[1])
    assert found == counts


@pytest.mark.parametrize(
    ("ratio", "fused", "unfused"),
    [(0.1, 4.030, 3.996), (0.2, 3.484, 3.451), (0.3, 3.036, 3.003), (0.4, 2.641, 2.614), (0.5, 2.314, 2.287)],
)
def test_costs_of_the_paper(ratio, fused, unfused):
    """Counted with norms and class head; pruned inside the block, whose MLP then sees only what stays."""
    inside = partial(EViT, ratio=ratio, inside_block=True)
    assert cost(partial(inside, fuse=True))[0] == pytest.approx(fused, abs=1e-3)
    assert cost(inside)[0] == pytest.approx(unfused, abs=1e-3)
    assert cost(partial(EViT, ratio=ratio))[0] > 1.01 * unfused, "after the block, its MLP sees all"


def test_cost_of_the_dense_network():
    assert cost() == (pytest.approx(4.608, abs=1e-3), pytest.approx(22.05, abs=0.005))


@torch.no_grad()
def test_the_score_is_the_class_tokens_attention_in_the_pruning_block():
    encoder = little_network(MTA_2D).encoder
    image, _ = little_batch(MTA_2D)
    x = encoder.embed(image)
    attn = encoder.blocks[0].attn
    q, k, _ = attn.qkv(encoder.blocks[0].norm1(x)).reshape(2, 17, 3, 2, 12).permute(2, 0, 3, 1, 4)
    matrix = (q @ k.transpose(-2, -1) / 12**0.5).softmax(dim=-1)
    score = matrix.mean(dim=1)[:, 0, 1:]
    encoded = encoder(image)
    torch.testing.assert_close(encoded.aux["score_1"], score)
    output = encoder.blocks[0](x)[:, 1:]
    for b, best in enumerate(score.topk(8, dim=1).indices.tolist()):
        assert encoded.dropped[0].index[b].tolist() == sorted(set(range(16)) - set(best))
    torch.testing.assert_close(encoded.dropped[0].x, gather_tokens(output, encoded.dropped[0].index))


def test_the_choice_carries_no_gradient():
    attention = torch.rand(2, 16, 2, requires_grad=True)
    evit, stats = given_evit(attention, ratio=0.5)
    tokens = random_tokens()
    reduction = evit.train()(tokens, stage=0, stats=stats)
    assert torch.autograd.grad(reduction.live.x.sum(), attention, allow_unused=True) == (None,)
    assert not any(value.requires_grad for value in reduction.aux.values())


def test_the_fused_token_by_hand_over_two_stages():
    torch.manual_seed(0)
    B, N = 2, 10
    kind = {"dtype": torch.float64}
    attention = torch.rand(B, N, 3, requires_grad=True, **kind)
    evit, stats = given_evit(attention, num_tokens=N, ratio=0.5, fuse=True)
    tokens = random_tokens(B, N, **kind)
    one = evit(tokens, stage=0, stats=stats)
    assert one.live.x.shape[1] == 5 + 1
    for b in range(B):
        score = attention[b].mean(dim=1)
        best = score.topk(5).indices.sort().values.tolist()
        assert one.live.index[b].tolist() == [*best, N]
        lost = [i for i in range(N) if i not in best]
        torch.testing.assert_close(one.live.x[b, -1], sum(score[i] * tokens.x[b, i] for i in lost))
    assert torch.autograd.grad(one.live.x[:, -1].sum(), attention, retain_graph=True)[0].any()
    # six alive, three stay: the fused token of one image is best, that of the other worst
    second = torch.tensor([[3.0, 2, 1, 0, 0.5, 9], [3.0, 2, 1, 0.5, 0.6, 0]], **kind).unsqueeze(-1)
    two = evit(one.live, stage=1, stats=AttentionStats(second, second))
    assert two.live.x.shape[1] == 3 + 1
    before = one.live.index.tolist()
    assert two.live.index.tolist() == [[*before[0][:2], N, N], [*before[1][:3], N]]
    lost = [[2, 3, 4], [3, 4, 5]]
    for b in range(B):
        torch.testing.assert_close(two.live.x[b, -1], sum(second[b, i] * one.live.x[b, i] for i in lost[b]))
    assert two.dropped.index.tolist() == [[before[0][i] for i in (2, 3, 4)], [before[1][i] for i in (3, 4, 5)]]


def test_nothing_dropped_is_nothing_fused():
    evit, stats = given_evit(torch.rand(2, 16, 1), ratio=0.0, fuse=True)
    tokens = random_tokens()
    reduction = evit(tokens, stage=0, stats=stats)
    assert torch.equal(reduction.live.index, tokens.index)
    assert reduction.dropped.x.shape[1] == 0


@torch.no_grad()
def test_inside_the_block_the_mlp_sees_what_is_left():
    encoder = little_network(MTA_2D, *FUSED).encoder
    sizes = []
    encoder.blocks[0].mlp.register_forward_hook(lambda module, args, out: sizes.append(out.shape[1]))
    image, _ = little_batch(MTA_2D)
    encoded = encoder(image)
    assert sizes == [1 + 8 + 1]
    attended = encoder.blocks[0].attend(encoder.embed(image))[0][:, 1:]
    torch.testing.assert_close(encoded.dropped[0].x, gather_tokens(attended, encoded.dropped[0].index))
    # 16 places: 8 and a fused token, of these 9 5 and a fused token
    assert [alive.tolist() for alive in encoded.alive] == [[9, 9], [6, 6]]


@pytest.mark.parametrize(
    ("completion", "dims"),
    [
        ("mta", 2),
        ("mim", 3),
        *(pytest.param(*which, marks=pytest.mark.long) for which in [("mta", 3), ("mim", 2), ("scatter", 2)]),
    ],
)
def test_fused_tokens_keep_the_contract(completion, dims):
    which = Combination("evit", completion, "unetr", dims)
    network = little_network(which, *FUSED)
    image, label = little_batch(which)
    with torch.no_grad():
        N = network.encoder.spec.num_tokens
        seen = sum(presence(tokens, num_tokens=N) for tokens in network.encoder(image).sets)
        assert torch.equal(seen, torch.ones(2, N))
        logits = network(image)
        alone = torch.cat([network(image[:1]), network(image[1:])])
        torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)
        exported = torch.export.export(network, (little_batch(which, seed=2)[0],)).module()
        torch.testing.assert_close(exported(image), logits)
        torch.compiler.reset()
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(image), logits)
    network.train()
    little_criterion(little_config(which))(network(image), label, image=image)["loss"].backward()
    assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)
    with torch.device("meta"):
        network = little_network(which, *FUSED)
        image = torch.empty(1, 2, *which.image_size)
        assert network(image).shape == (1, CLASSES, *which.image_size)
    assert count_macs(network, image)["encoder"] == vit(network.encoder)


def test_the_share_kept_falls_by_half_a_cosine_in_training_only():
    evit, stats = given_evit(torch.rand(2, 16, 1), ratio=0.5, schedule="cosine", schedule_share=0.5)

    def kept(progress):
        evit.progress = progress
        return evit(random_tokens(), stage=0, stats=stats).live.x.shape[1]

    evit.train()
    # (1 + cos(pi / 3)) / 2 = 3/4 of the way from 16 to 8 at a third of the schedule: 14
    assert [kept(progress) for progress in (0.0, 0.5 / 3, 0.25, 0.5, 0.7, 1.0)] == [16, 14, 12, 8, 8, 8]
    # slow at first: 16 (1 - (1 - cos(pi / 5)) / 4) = 15.2, on a straight line 14.4; fast then: 8.8 and 9.6
    assert [kept(progress) for progress in (0.1, 0.4)] == [16, 9]
    evit.eval()
    assert [kept(progress) for progress in (0.0, 0.25, 1.0)] == [8, 8, 8]
    constant, stats = given_evit(torch.rand(2, 16, 1), ratio=0.5)
    constant.progress = 0.0
    assert constant.train()(random_tokens(), stage=0, stats=stats).live.x.shape[1] == 8


def test_progress_reaches_the_schedule_of_a_network():
    network = little_network(MTA_2D, "encoder.reducer.schedule=cosine").train()
    image, _ = little_batch(MTA_2D)
    network.set_progress(0.0)
    assert [alive.tolist() for alive in network(image).encoded.alive] == [[16, 16], [16, 16]]
    network.set_progress(1.0)
    assert [alive.tolist() for alive in network(image).encoded.alive] == [[8, 8], [4, 4]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, r"encoder\.reducer\.ratio=1\.0"),
        ({"schedule_share": 0.0}, r"encoder\.reducer\.schedule_share=0\.0"),
        ({"schedule_share": 1.5}, r"encoder\.reducer\.schedule_share=1\.5"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        EViT(spec=spec_of(16, dim=8), **settings)


def test_a_class_token_is_needed():
    with pytest.raises(UserError, match=r"EViT scores tokens by the class token.*encoder\.class_token=true"):
        little_network(MTA_2D, "encoder.class_token=false")


def test_heads_weighted_as_in_asvit():
    torch.manual_seed(0)
    evit = EViT(spec=spec_of(16, dim=8), blocks=(1, 2), ratio=0.5, head_importance=True)
    assert {"class_row", "head_norms"} <= set(evit.wants)
    row, norms = torch.rand(2, 16, 3), torch.rand(2, 16, 3)
    scores = evit(random_tokens(), stage=0, stats=AttentionStats(row, norms)).aux["score_1"]
    torch.testing.assert_close(scores, (row * norms / norms.sum(dim=-1, keepdim=True)).sum(dim=-1))
