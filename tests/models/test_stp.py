"""Soft-topK token pruning: counts, scores, selection and noise."""

import math

import pytest
import torch
from little_models import PLAIN, little_batch, little_network
from stp_by_hand import given_stp, random_tokens, spec_of

from sct.errors import UserError
from sct.models.grid import pruning_depth
from sct.models.reducers import stp as stp_module
from sct.models.reducers.base import hard_top_k, keep_count, split_order
from sct.models.reducers.scorer import GUMBEL_STD, falling_noise, gumbel_noise
from sct.models.reducers.stp import STP, Scorer, gumbel_soft_top_k
from sct.models.tokens import Tokens, gather_tokens


@pytest.mark.parametrize(
    ("rounding", "counts"), [("nearest", [173, 17, 2]), ("floor", [172, 17, 1])], ids=["paper", "program"]
)
def test_counts_of_the_paper(rounding, counts):
    n, found = 1728, []
    for _ in counts:
        n = keep_count(n, ratio=0.9, rounding=rounding)
        found.append(n)
    assert found == counts


def test_keep_count_is_exact_in_decimal():
    # in floats: 172.79999999999998, 0.9999999999999998, 6.000000000000001 - and 2.9999999999999996
    assert keep_count(1728, ratio=0.9, rounding="floor") == 172
    assert keep_count(10, ratio=0.9, rounding="floor") == 1
    assert keep_count(20, ratio=0.7, rounding="floor") == 6
    assert keep_count(10, ratio=0.7, rounding="floor") == 3
    assert keep_count(10, ratio=0.75) == 3, "halves upwards"
    assert keep_count(5, ratio=0.99) == 1, "at least one"
    assert keep_count(7, ratio=0.0) == 7
    for percent in range(0, 100, 3):
        for n in (1, 2, 17, 64, 125, 200, 1728, 4096):
            exact = n * (100 - percent)
            assert keep_count(n, ratio=percent / 100) == max(1, (exact + 50) // 100)
            assert keep_count(n, ratio=percent / 100, rounding="floor") == max(1, exact // 100)


def test_hard_top_k_and_order():
    torch.manual_seed(0)
    scores = torch.randn(5, 33)
    for k in (1, 7, 33):
        hard = hard_top_k(scores, k=k)
        for row, mask in zip(scores, hard, strict=True):
            best = sorted(range(33), key=lambda i: -row[i])[:k]
            assert mask.nonzero().flatten().tolist() == sorted(best)
            order = split_order(mask.unsqueeze(0))[0].tolist()
            assert order == sorted(best) + sorted(set(range(33)) - set(best))
    assert hard_top_k(torch.zeros(2, 9), k=4).sum(dim=1).tolist() == [4, 4], "ties"


def test_scorer_mixes_local_and_mean_features():
    torch.manual_seed(0)
    C, x = 8, torch.randn(2, 5, 8)
    scorer = Scorer(C, log_sigmoid=True)
    features = scorer.embed(x)
    for b in range(2):
        mean = features[b, :, C // 2 :].mean(dim=0)
        for i in range(5):
            logit = scorer.score(torch.cat([features[b, i, : C // 2], mean]))
            torch.testing.assert_close(scorer(x)[b, i], logit.sigmoid().log().squeeze())
    plain = Scorer(C, log_sigmoid=False)
    plain.load_state_dict(scorer.state_dict())
    torch.testing.assert_close(plain(x).sigmoid().log(), scorer(x))


def test_scorer_has_the_parameters_of_the_paper():
    with torch.device("meta"):
        assert sum(p.numel() for p in Scorer(768, log_sigmoid=True).parameters()) == 961_537


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_value_is_exactly_the_kept_and_dropped_tokens(training):
    torch.manual_seed(0)
    scores, tokens = torch.randn(2, 16), random_tokens()
    stp = given_stp(scores, ratio=0.75, perturb=False).train(training)
    reduction = stp(tokens, stage=0, stats=None)
    kept = scores.topk(4, dim=1).indices.sort(dim=1).values
    assert torch.equal(reduction.live.index, kept)
    assert torch.equal(reduction.live.x, gather_tokens(tokens.x, kept))
    assert torch.equal(reduction.dropped.x, gather_tokens(tokens.x, reduction.dropped.index))
    everything = torch.cat([kept, reduction.dropped.index], dim=1).sort(dim=1).values
    assert torch.equal(everything, tokens.index)


def test_evaluation_adds_no_noise():
    torch.manual_seed(0)
    stp, tokens = STP(spec=spec_of(16, dim=8), blocks=(1,), ratio=0.75), random_tokens()
    found = {False: set(), True: set()}
    for training in [False, True] * 20:
        kept = stp.train(training)(tokens, stage=0, stats=None).live.index[0]
        found[training].add(tuple(kept.tolist()))
    assert len(found[False]) == 1
    assert len(found[True]) > 10


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_noise_samples_in_proportion_to_the_scores(tau):
    torch.manual_seed(0)
    importance = torch.tensor([0.9, 0.5, 0.3, 0.2, 0.1])
    draws = 20_000
    hard, _ = gumbel_soft_top_k(
        importance.log().expand(draws, -1), k=1, tau=tau, noise=gumbel_noise(torch.empty(draws, 5))
    )
    expected = importance / importance.sum()
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((hard.mean(dim=0) - expected).abs() < 4 * deviation).all()


def test_falling_noise_is_as_wide_as_the_scores_of_its_image_and_falls_to_nothing():
    torch.manual_seed(0)
    scores = torch.randn(2, 20_000) * torch.tensor([[0.1], [7.0]])
    for progress in (0.0, 0.75):
        noise = falling_noise(scores, progress=progress)
        torch.testing.assert_close(noise.std(dim=1), (1 - progress) * scores.std(dim=1), rtol=0.03, atol=0)
    assert not falling_noise(scores, progress=1.0).any()
    assert not falling_noise(torch.randn(2, 1), progress=0.0).any(), "a token alone has nothing to be ranked against"
    assert pytest.approx(gumbel_noise(scores).std().item(), rel=0.02) == GUMBEL_STD


def test_with_falling_noise_the_end_of_training_chooses_as_evaluation_does():
    torch.manual_seed(0)
    scores, tokens = torch.randn(2, 16), random_tokens()
    stp = given_stp(scores, ratio=0.75, noise="falling").train()
    chosen = stp(tokens, stage=0, stats=None).live.index
    stp.progress = 0.0
    found = {tuple(stp(tokens, stage=0, stats=None).live.index[0].tolist()) for _ in range(20)}
    assert torch.equal(chosen, stp.eval()(tokens, stage=0, stats=None).live.index)
    assert len(found) > 3


def test_soft_mask_is_the_softmax_at_temperature():
    scores = torch.tensor([[0.0, -1.0, 2.0]])
    hard, soft = gumbel_soft_top_k(scores, k=2, tau=0.5, noise=None)
    weights = [math.exp(s / 0.5) for s in (0.0, -1.0, 2.0)]
    torch.testing.assert_close(soft, torch.tensor([[w / sum(weights) for w in weights]]))
    assert hard.tolist() == [[1.0, 0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_most_extreme_draws_stay_finite(dtype, monkeypatch):
    extremes = torch.tensor([[0.0, 1.0, 0.5, 0.0, 1.0, 1 - 2.0**-9]])
    monkeypatch.setattr(stp_module.torch, "rand_like", lambda x: extremes.to(x.dtype))
    scores = torch.full((1, 6), -2.0, dtype=dtype, requires_grad=True)
    hard, soft = gumbel_soft_top_k(scores, k=2, tau=1.0, noise=gumbel_noise(scores))
    assert hard.sum() == 2
    assert soft.isfinite().all()
    (soft * torch.arange(6)).sum().backward()
    assert scores.grad.isfinite().all()


def test_class_token_is_neither_scored_nor_pruned():
    encoder = little_network(PLAIN).encoder
    seen, block_out = [], []
    encoder.reducer.scorers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoder.blocks[0].mlp.register_forward_hook(lambda module, args, out: block_out.append(out.shape))
    with torch.no_grad():
        encoded = encoder(little_batch(PLAIN)[0])
    assert block_out == [(2, 1 + 16, 24)]
    assert [x.shape for x in seen] == [(2, 16, 24)]
    assert encoded.prefix.shape == (2, 1, 24)
    assert [t.x.shape[1] for t in (*encoded.dropped, encoded.final)] == [8, 4, 4]
    depth = pruning_depth(encoded)
    assert depth.shape == (2, 4, 4)
    for b in range(2):
        for stage, tokens in enumerate((*encoded.dropped, encoded.final)):
            assert (depth[b].flatten()[tokens.index[b]] == stage).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, r"encoder\.reducer\.ratio=1\.0"),
        ({"ratio": -0.1}, r"encoder\.reducer\.ratio=-0\.1"),
        ({"tau": 0.0}, r"encoder\.reducer\.tau=0\.0"),
        ({"rounding": "up"}, r"encoder\.reducer\.rounding='up'.*nearest.*floor"),
        ({"gradient": "big"}, r"encoder\.reducer\.gradient='big'.*published.*scaled.*none"),
        ({"noise": "loud"}, r"encoder\.reducer\.noise='loud'.*fixed.*falling"),
        ({"taught": True}, r"encoder\.reducer\.log_sigmoid=false"),
        ({"gradient": "sensitivity"}, r"gradient=sensitivity teaches.*encoder\.reducer\.log_sigmoid=false"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        STP(spec=spec_of(16, dim=8), **settings)


def test_the_gates_carry_the_gradient_of_every_scorer_so_far():
    """Live and dropped tokens of two stages, and the gradient of both scorers, from the soft masks written out."""
    torch.manual_seed(0)
    scores = [torch.randn(1, 6), torch.randn(1, 6)]
    stp = given_stp(*scores, ratio=0.5, perturb=False, tau=0.7).train()
    x = torch.randn(1, 6, 8)
    w = [torch.randn(1, n, 8) for n in (3, 2, 1)]  # dropped by stage 1, live and dropped of stage 2
    one = stp(Tokens(x, torch.arange(6).expand(1, -1)), stage=0, stats=None)
    stp.scorers[1].index = one.live.index
    two = stp(one.live, stage=1, stats=None)
    ((one.dropped.x * w[0]).sum() + (two.live.x * w[1]).sum() + (two.dropped.x * w[2]).sum()).backward()

    first, second = (s.clone().requires_grad_() for s in scores)
    soft = (first / 0.7).softmax(dim=1)
    kept, lost = one.live.index, one.dropped.index
    live = 1 + soft - soft.detach()  # 1, with the slope of the soft mask
    gone = 1 - (soft - soft.detach())
    gate = live.gather(1, kept)
    inner = (second.gather(1, kept) / 0.7).softmax(dim=1)
    slope = inner - inner.detach()
    at = [[kept[0].tolist().index(place) for place in part.index[0].tolist()] for part in (two.live, two.dropped)]
    x1 = x[:, kept[0]] * gate.unsqueeze(-1)
    total = (x[:, lost[0]] * gone.gather(1, lost).unsqueeze(-1) * w[0]).sum()
    total = total + (x1[:, at[0]] * (gate * (1 + slope))[:, at[0]].unsqueeze(-1) * w[1]).sum()
    total = total + (x1[:, at[1]] * (gate * (1 - slope))[:, at[1]].unsqueeze(-1) * w[2]).sum()
    total.backward()
    for scorer, expected in zip(stp.scorers, (first, second), strict=True):
        torch.testing.assert_close(scorer.scores.grad, expected.grad)
        assert expected.grad.any()
