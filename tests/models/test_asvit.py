"""AS-ViT: scores, thresholds, masks and the budget."""

import math
from functools import partial

import pytest
import torch
from asvit_by_hand import reducer, stats_of, tokens_of, uneven
from little_models import Combination, little_network

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.encoder import ViTEncoder
from sct.models.reducers.asvit import ASViT, block_macs, encoder_macs, token_scores
from sct.models.tokens import Encoded, FeatureSpec, Tokens
from sct.training.optim import adamw

# ViT-S on 224 x 224, the paper's DeiT-S
SMALL = FeatureSpec((224, 224), 3, (16, 16), 384, 6, depth=12, num_prefix=1)


def test_scores_by_loops():
    torch.manual_seed(0)
    row, norms = torch.rand(2, 5, 3), torch.rand(2, 5, 3)
    found = token_scores(AttentionStats(row, norms), head_importance=True)
    plain = token_scores(AttentionStats(row, norms), head_importance=False)
    for b in range(2):
        for i in range(5):
            total = norms[b, i].sum()
            assert found[b, i].item() == pytest.approx(sum(row[b, i, h] * norms[b, i, h] / total for h in range(3)))
            assert plain[b, i].item() == pytest.approx(row[b, i].sum().item() / 3)


@pytest.mark.parametrize("head_importance", [True, False])
@torch.no_grad()
def test_scores_of_all_tokens_sum_to_one(head_importance):
    torch.manual_seed(0)
    encoder = ViTEncoder(image_size=(224, 224), in_channels=1, patch_size=16, dim=48, depth=2, num_heads=6).eval()
    x = encoder.embed(torch.randn(2, 1, 224, 224))
    for block in encoder.blocks:
        x, stats = block.attend(x, wants=("class_row", "head_norms"))
        # the class token's own share is the first
        total = token_scores(stats, head_importance=head_importance).sum(dim=1)
        torch.testing.assert_close(total, torch.ones(2), rtol=0, atol=0.01)


def test_costs_of_the_paper():
    assert block_macs(197, dim=384) == 378_391_296
    dense = encoder_macs([], spec=SMALL, blocks=(4, 7, 10)).item()
    assert dense == pytest.approx(12 * 378_391_296 + 196 * 384 * 3 * 256)
    # the printed targets leave out the class token (and the class head); with it they would be 0.5 % higher
    patches = 12 * block_macs(196, dim=384) + 196 * 384 * 3 * 256
    for budget, printed in ((0.65, 2.973), (0.5, 2.287)):
        assert budget * patches / 1e9 == pytest.approx(printed, abs=5e-4)
        assert budget * dense / 1e9 == pytest.approx(printed, rel=0.006)


def test_cost_by_a_loop_in_3d():
    spec = FeatureSpec((16, 16, 4), 2, (4, 4, 2), 24, 2, depth=6, mlp_ratio=2.0, num_prefix=1)
    alive = [torch.tensor([20.0, 32.0], requires_grad=True), torch.tensor([3.0, 1.0])]
    found = encoder_macs(alive, spec=spec, blocks=(2, 5))
    for image in range(2):
        expected = 32 * 24 * 2 * 32
        for n in (32, 32, alive[0][image].item(), alive[0][image].item(), alive[0][image].item(), alive[1][image]):
            expected += 4 * 24**2 * (n + 1) + 2 * 24 * (n + 1) ** 2 + 2 * 2 * 24**2 * (n + 1)
        assert found[image].item() == pytest.approx(float(expected))
    found.sum().backward()
    assert alive[0].grad[0].item() == pytest.approx(3 * (8 * 24**2 + 4 * 24 * 21))


def test_thresholds_are_in_units_of_the_mean_score():
    method = reducer(8, 8, blocks=(1, 2, 3), threshold_rate=10.0)
    torch.testing.assert_close(method.thresholds * 10 / 196, torch.tensor([0.001, 0.002, 0.003]))
    assert method.thresholds.equal(reducer(14, 14, blocks=(1, 2, 3)).thresholds), "whatever N is"
    listed = reducer(8, 8, thresholds=[0.004, 0.001], threshold_rate=1.0)
    torch.testing.assert_close(listed.thresholds / 196, torch.tensor([0.004, 0.001]))
    # theta = 0.001 x 196 / 64 of stage 1
    theta = 0.001 * 196 / 64
    scores = torch.tensor([[theta * 0.99, theta * 1.01] * 32])
    live = method.eval()(tokens_of(scores), stage=0, stats=stats_of(scores)).live
    assert live.index.flatten().tolist() == list(range(1, 64, 2))


def test_refused_settings():
    with pytest.raises(UserError, match="thresholds"):
        reducer(4, 4, thresholds=[0.1])
    with pytest.raises(UserError, match="temperature"):
        reducer(4, 4, temperature=0.0)
    with pytest.raises(UserError, match="threshold_rate"):
        reducer(4, 4, threshold_rate=-1.0)
    for budget in (1.1, 0.3):
        with pytest.raises(UserError, match="must be at most 1"):
            reducer(4, 4, blocks=(2, 4), budget=budget)


def test_a_threshold_without_a_gradient_stays():
    network = little_network(Combination("asvit", "mta", "unetr", 2))
    thresholds = network.encoder.reducer.thresholds
    optimizer = adamw(network, lr=0.1, weight_decay=0.5)
    before = thresholds.detach().clone()
    for _ in range(5):
        thresholds.grad = torch.zeros_like(thresholds)
        optimizer.step()
    assert torch.equal(thresholds, before)


def test_masks_are_hard_and_their_slope_is_the_sigmoids():
    method = reducer(2, 2, thresholds=[0.3 * 4 / 196, 0.0], temperature=980.0).train()
    scores = torch.tensor([[0.1, 0.25, 0.35, 0.4]], requires_grad=True)
    reduction = method(tokens_of(scores), stage=0, stats=stats_of(scores))
    assert reduction.live.mask.tolist() == [[0, 0, 1, 1]]
    assert torch.equal(reduction.live.mask + reduction.dropped.mask, torch.ones(1, 4))
    reduction.live.mask.sum().backward()
    # 980 at 196 tokens is 5 a mean score
    soft = [1 / (1 + math.exp(-5 * 4 * (score - 0.3))) for score in scores[0].tolist()]
    slopes = [5 * value * (1 - value) for value in soft]
    torch.testing.assert_close(scores.grad[0], 4 * torch.tensor(slopes))
    assert method.thresholds.grad[0].item() == pytest.approx(-method.threshold_rate * sum(slopes), rel=1e-5)


def test_a_dropped_token_never_comes_back():
    method = reducer(2, 2, thresholds=[0.3 * 4 / 196] * 2).train()
    first, second = torch.tensor([[0.1, 0.1, 0.4, 0.4]]), torch.tensor([[0.7, 0.1, 0.1, 0.5]])
    live = method(tokens_of(first), stage=0, stats=stats_of(first)).live
    after = method(live, stage=1, stats=stats_of(second))
    assert after.live.mask.tolist() == [[0, 0, 0, 1]]
    assert after.dropped.mask.tolist() == [[0, 0, 1, 0]], "dropped before is not dropped here"
    (slope,) = torch.autograd.grad(after.live.mask[:, :2].sum(), method.thresholds)
    assert slope[1] == 0, "the second threshold has no say in what the first dropped"


def test_the_best_token_is_one_of_those_alive():
    """None passes the second threshold: the best of those alive stays, not a better one that was dropped before."""
    method = reducer(2, 2, thresholds=[0.3 * 4 / 196, 1.0]).train()
    first, second = torch.tensor([[0.1, 0.1, 0.4, 0.4]]), torch.tensor([[0.7, 0.1, 0.05, 0.15]])
    live = method(tokens_of(first), stage=0, stats=stats_of(first)).live
    assert method(live, stage=1, stats=stats_of(second)).live.mask.tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_an_image_keeps_its_best_token(training):
    method = reducer(2, 2, thresholds=[1.0, 1.0]).train(training)
    scores = torch.tensor([[0.1, 0.3, 0.4, 0.2], [0.5, 0.3, 0.1, 0.1]])
    reduction = method(tokens_of(scores), stage=0, stats=stats_of(scores))
    assert reduction.live.count().tolist() == [1, 1]
    if training:
        assert reduction.live.mask.argmax(dim=1).tolist() == [2, 0]
    else:
        assert reduction.live.index.tolist() == [[2, 0]]


def test_the_batch_mean_rule():
    method = reducer(2, 2, thresholds=[0.3 * 4 / 196] * 2, batch_rule="mean").eval()
    # 1 and 3 above the threshold, and 0: (1 + 3 + 0) // 3 = 1; the first two alone: 2
    scores = torch.tensor([[0.1, 0.5, 0.2, 0.0], [0.6, 0.0, 0.5, 0.4], [0.1, 0.0, 0.0, 0.2]])
    kept = [method(tokens_of(s), stage=0, stats=stats_of(s)) for s in (scores, scores[:2])]
    assert [reduction.live.index.tolist() for reduction in kept] == [[[1], [0], [3]], [[1, 2], [0, 2]]]
    assert kept[1].dropped.index.tolist() == [[0, 3], [1, 3]]


@pytest.mark.parametrize("unit", ["relative", "giga"])
def test_budget_loss(unit):
    method = reducer(4, 4, blocks=(1, 2), budget=0.5, budget_weight=3.0, budget_unit=unit).train()
    x, index = torch.zeros(2, 16, 8), torch.arange(16).expand(2, -1)
    first, second = torch.zeros(2, 16), torch.zeros(2, 16)
    first[0, :4], first[1, :10], second[0, 4:6] = 1, 1, 1
    sets = [Tokens(x, index, mask) for mask in (first.requires_grad_(), second, 1 - first.detach() - second)]
    encoded = Encoded((4, 4), sets[2], x[:, :1], dropped=sets[:2])
    method.finish(encoded)
    assert [encoded.aux[f"tokens_{j}"].tolist() for j in (1, 2)] == [[12, 6], [10, 6]]

    def cost(*counts):
        return 16 * 8 + sum(block_macs(n + 1, dim=8) for n in counts)

    dense = cost(*[16] * 6)
    costs = torch.tensor([cost(16, 12, *[10] * 4), cost(16, 6, *[6] * 4)]).float()
    torch.testing.assert_close(encoded.aux["macs_share"], costs / dense)
    size = dense if unit == "relative" else 1e9
    excess = (costs.mean().item() - 0.5 * dense) / size
    assert encoded.losses["budget"].item() == pytest.approx(3 * abs(excess), rel=1e-4)
    encoded.losses["budget"].backward()
    # one token more that stage 1 drops of the first image is missing in all five later blocks
    slope = (12 * 64 + 4 * 8 * 13) + 4 * (12 * 64 + 4 * 8 * 11)
    expected = -math.copysign(1, excess) * 3 * slope / 2 / size
    assert first.grad[0, 0].item() == pytest.approx(expected, rel=1e-4)


def noise(*, seed):
    """Images (4, 1, 64, 64) of different contrast."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 1, 64, 64, generator=generator) * torch.rand(4, 1, 1, 1, generator=generator) * 3


def budgeted(**settings):
    torch.manual_seed(0)
    method = partial(ASViT, blocks=(1, 2, 3), **settings)
    return ViTEncoder(image_size=(64, 64), in_channels=1, patch_size=8, dim=24, depth=5, num_heads=4, reducer=method)


@pytest.mark.parametrize("budget", [0.5, 0.65])
def test_thresholds_land_on_the_budget_on_unseen_images(budget):
    encoder = budgeted(budget=budget).train().requires_grad_(False)
    uneven(encoder)
    thresholds = encoder.reducer.thresholds.requires_grad_()
    start = thresholds.detach().clone()
    optimizer = torch.optim.AdamW([thresholds], lr=3e-3, betas=(0.9, 0.95), eps=1e-16, weight_decay=0.0)
    steps = 120
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        encoder(noise(seed=step)).losses["budget"].backward()
        optimizer.step()
    with torch.no_grad():
        shares = torch.cat([encoder.eval()(noise(seed=1000 + i)).aux["macs_share"] for i in range(16)])
    assert shares.mean().item() == pytest.approx(budget, rel=0.03)
    # in units of the mean score
    assert ((thresholds - start).abs() * encoder.reducer.threshold_rate > 0.1).all()


def test_the_papers_temperature_stalls_where_attention_is_even():
    for temperature, moves in ((1e4, False), (1e3, True)):
        encoder = budgeted(temperature=temperature).train()
        encoder(noise(seed=0)).losses["budget"].backward()
        assert encoder.reducer.thresholds.grad.bool().tolist() == [moves] * 3
