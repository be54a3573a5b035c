"""DynamicViT: decisions, ratio loss, masks against real dropping, and that its scorers learn."""

from functools import partial

import pytest
import torch
from deit_small import cost
from little_models import PLAIN, little_batch, little_config, little_criterion, little_network
from stp_by_hand import random_tokens, spec_of
from torch import nn

from sct.config.check import build
from sct.errors import UserError
from sct.models.blocks.attention import masked_attention
from sct.models.reducers.dynamicvit import DynamicViT, KeepScorer, counts_kept, gumbel_keep, ratio_loss
from sct.models.tokens import Encoded, Tokens, gather_tokens

DYNAMIC = PLAIN._replace(encoder="dynamicvit")
QUIET = ("encoder.reducer.perturb=false",)


class Given(nn.Module):
    """A scorer whose log-probabilities (B, N, 2) are known."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, x, alive=None):
        return self.scores


def given_dynamicvit(*scores, **settings):
    """DynamicViT in training, without noise, whose scorers say `scores` (B, N, 2), one a stage."""
    blocks = range(1, 1 + len(scores))
    reducer = DynamicViT(spec=spec_of(scores[0].shape[1], dim=8), blocks=blocks, perturb=False, **settings).train()
    reducer.scorers = nn.ModuleList(Given(s) for s in scores)
    return reducer


def run_stages(reducer, tokens):
    """Every stage on the same features: the dropped sets, and the live one after the last."""
    dropped = []
    for stage in range(len(reducer.blocks)):
        reduction = reducer(tokens, stage=stage, stats=None)
        tokens = reduction.live
        dropped.append(reduction.dropped)
    return dropped, tokens


def test_counts_of_the_paper():
    assert counts_kept(196, ratio=0.3, num_stages=3) == (137, 96, 67)
    assert counts_kept(1728, ratio=0.9, num_stages=3) == (172, 17, 1)
    # 1000 * 0.1 ** 3 is 1.0000000000000002 in floats, 1000 * (1 - 0.9) ** 3 0.9999999999999993
    assert counts_kept(1000, ratio=0.9, num_stages=4) == (100, 10, 1, 1)
    assert counts_kept(64, ratio=0.0, num_stages=2) == (64, 64)


@pytest.mark.parametrize(("ratio", "gmacs"), [(0.1, 4.050), (0.2, 3.471), (0.3, 2.988), (0.4, 2.571), (0.5, 2.234)])
def test_costs_of_the_paper(ratio, gmacs):
    """Counted with norms, scorers and class head."""
    found, parameters = cost(partial(DynamicViT, ratio=ratio))
    assert found == pytest.approx(gmacs, abs=1e-3)
    assert parameters == pytest.approx(22.77, abs=0.005)


def test_the_scorers_mean_counts_only_tokens_alive():
    torch.manual_seed(0)
    scorer, x = KeepScorer(8), torch.randn(2, 6, 8)
    alive = torch.tensor([[1.0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0]])
    masked = scorer(x, alive)
    torch.testing.assert_close(masked.exp().sum(dim=-1), torch.ones(2, 6))
    for b in range(2):
        places = alive[b].nonzero().squeeze(1)
        torch.testing.assert_close(masked[b, places], scorer(x[b : b + 1, places])[0])
    assert scorer(x, torch.zeros(2, 6)).isfinite().all(), "nothing left"


def test_scores_that_are_taught_are_the_log_odds_of_the_tokens_that_earlier_stages_left():
    odds = torch.tensor([[1.5, -0.5, 2.0, -3.0]]), torch.tensor([[0.3, 4.0, -1.0, 0.2]])
    scores = [torch.stack([value, torch.zeros_like(value)], dim=-1).log_softmax(dim=-1) for value in odds]
    reducer = given_dynamicvit(*scores, ratio=0.5, taught=True)
    tokens = random_tokens(B=1, N=4)
    first = reducer(tokens, stage=0, stats=None)
    second = reducer(first.live, stage=1, stats=None)
    for stage, value, alive in ((first, odds[0], [1, 1, 1, 1]), (second, odds[1], [1, 0, 1, 0])):
        torch.testing.assert_close(stage.scores.values, value)
        assert stage.scores.alive.tolist() == [alive]
        assert stage.scores.taught == "share"
    assert (first.scores.num_kept, second.scores.num_kept) == (2, 1)


def test_decisions_accumulate_and_the_masks_sum_to_one():
    torch.manual_seed(0)
    reducer = DynamicViT(spec=spec_of(64, dim=8), blocks=(1, 2, 3), ratio=0.5).train()
    tokens = random_tokens(N=64)
    before, total = torch.ones(2, 64), torch.zeros(2, 64)
    for stage in range(3):
        reduction = reducer(tokens, stage=stage, stats=None)
        live, dropped = reduction.live.mask, reduction.dropped.mask
        assert set(live.unique().tolist()) == {0.0, 1.0}, "exactly"
        assert (live <= before).all()
        assert torch.equal(live + dropped, before)
        assert torch.equal(reduction.live.x, tokens.x)
        before, total, tokens = live, total + dropped, reduction.live
    assert torch.equal(total + before, torch.ones(2, 64))


def test_noise_keeps_a_token_as_often_as_its_probability():
    torch.manual_seed(0)
    keep, draws = torch.tensor([0.95, 0.7, 0.5, 0.1]), 20_000
    scores = torch.stack([keep, 1 - keep], dim=-1).log().expand(draws, -1, -1)
    for tau in (1.0, 0.1):
        share = gumbel_keep(scores, tau=tau, perturb=True).mean(dim=0)
        assert ((share - keep).abs() < 4 * (keep * (1 - keep) / draws).sqrt()).all()


def test_straight_through_gradient_by_hand():
    """Two stages; what each set is worth is weighed, and the derivative of the softmax written out."""
    torch.manual_seed(0)
    B, N, tau = 2, 12, 0.7
    kind = {"dtype": torch.float64}
    first, second = (torch.randn(B, N, 2, **kind).log_softmax(dim=-1) for _ in range(2))
    reducer = given_dynamicvit(first, second, tau=tau)
    worth = torch.randn(3, B, N)
    dropped, final = run_stages(reducer, random_tokens(B, N, **kind))
    sum((tokens.mask * w).sum() for tokens, w in zip([*dropped, final], worth, strict=True)).backward()
    for b in range(B):
        for i in range(N):
            hard = [float(s[b, i, 0] >= s[b, i, 1]) for s in (first, second)]
            soft = [(s[b, i] / tau).softmax(dim=0)[0].item() for s in (first, second)]
            # sets 1 - d1, d1 (1 - d2), d1 d2
            by_first = -worth[0, b, i] + worth[1, b, i] * (1 - hard[1]) + worth[2, b, i] * hard[1]
            by_second = hard[0] * (worth[2, b, i] - worth[1, b, i])
            for scorer, slope, p in zip(reducer.scorers, (by_first, by_second), soft, strict=True):
                expected = slope.double() * p * (1 - p) / tau * torch.tensor([1.0, -1.0], **kind)
                torch.testing.assert_close(scorer.scores.grad[b, i], expected, rtol=1e-5, atol=1e-6)


def test_ratio_loss_by_hand():
    # of 4 tokens, image one keeps 3 and then 1, image two 2 and then 0; half, then a quarter should stay
    decisions = torch.tensor([[[1.0, 1, 1, 0], [1, 0, 1, 0]], [[0.0, 1, 0, 1], [0, 1, 0, 0]]])
    scores = [torch.stack([d, 1 - d], dim=-1) for d in decisions]
    reducer = given_dynamicvit(*scores, ratio=0.5, ratio_weight=2.0)
    dropped, final = run_stages(reducer, random_tokens(N=4))
    assert final.mask.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    encoded = Encoded((4,), final, final.x[:, :0], dropped=dropped)
    expected = ((0.75 - 0.5) ** 2 + 0.0 + 0.0 + (0.0 - 0.25) ** 2) / 4
    assert ratio_loss(dropped, ratio=0.5).item() == pytest.approx(expected)
    reducer.finish(encoded)
    assert encoded.losses["ratio"].item() == pytest.approx(2 * expected)
    encoded.losses.clear()
    reducer.eval().finish(encoded)
    assert encoded.losses == {}


def test_evaluation_drops_the_least_likely_for_real():
    torch.manual_seed(0)
    scores, tokens = torch.randn(2, 16, 2).log_softmax(dim=-1), random_tokens()
    reduction = given_dynamicvit(scores, ratio=0.7).eval()(tokens, stage=0, stats=None)
    kept = scores[..., 0].topk(4, dim=1).indices.sort(dim=1).values
    assert torch.equal(reduction.live.index, kept)
    assert torch.equal(reduction.live.x, gather_tokens(tokens.x, kept))
    assert torch.equal(reduction.dropped.x, gather_tokens(tokens.x, reduction.dropped.index))
    assert reduction.live.mask is None


@torch.no_grad()
def balanced_network(completion, dims):
    """A network and an image in double precision; its scorers, without noise, keep two thirds and then half."""
    which = DYNAMIC._replace(completion=completion, dims=dims)
    network = little_network(which, *QUIET).double().train()
    image = little_batch(which)[0][:1].double()
    for stage, scorer in enumerate(network.encoder.reducer.scorers):
        encoded = network.encoder(image)
        alive = 1 - sum(tokens.mask for tokens in encoded.dropped[:stage]) if stage else torch.ones(1, 4**dims)
        logits = encoded.aux[f"score_{stage + 1}"].double().exp().logit()[alive > 0].sort().values
        cut = len(logits) // (3 - stage)
        scorer.score[-1].bias[0] -= logits[cut - 1 : cut + 1].mean()
    return network, image


@pytest.mark.parametrize("completion", ["mta", "mim", "scatter"])
@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_masked_training_equals_dropping_for_real(completion, dims):
    """The whole network in float64: blocks, scorers of later stages, completion and decoder."""
    network, image = balanced_network(completion, dims)
    masked = network.train().predict(image)
    alive = [int(count) for count in masked.encoded.alive]
    assert alive == {2: [11, 6], 3: [43, 22]}[dims]
    # so that top-K takes those that the decisions keep
    network.encoder.reducer.counts = tuple(alive)
    gathered = network.eval().predict(image)
    for whole, tokens in zip(masked.encoded.sets, gathered.encoded.sets, strict=True):
        assert whole.mask[0].nonzero().squeeze(1).tolist() == tokens.index[0].tolist()
        torch.testing.assert_close(gather_tokens(whole.x, tokens.index), tokens.x, rtol=0, atol=1e-6)
    torch.testing.assert_close(masked.encoded.prefix, gathered.encoded.prefix, rtol=0, atol=1e-6)
    torch.testing.assert_close(masked.logits, gathered.logits, rtol=0, atol=1e-6)


@torch.no_grad()
def test_mta_sums_the_masked_sets_of_all_stages():
    """Appendix E of the STP paper: tokens of every pruning place, weighed by its mask and added up."""
    network, image = balanced_network("mta", 2)
    encoded, mta = network.encoder(image), network.completion
    assert all(0 < tokens.mask.sum() < 16 for tokens in encoded.sets)
    total = torch.zeros(1, 16, 24, dtype=torch.float64)
    for stage in range(2):
        marked = mta.project[stage](mta.norms.norms[stage](encoded.dropped[stage].x)) + mta.block_tokens[stage]
        total += marked * encoded.dropped[stage].mask.unsqueeze(-1)
    total += mta.project[2](encoded.final.x) * encoded.final.mask.unsqueeze(-1)
    x = torch.cat([mta.project[2](encoded.prefix), total], dim=1) + mta.position
    expected = mta.restore(mta.norm(mta.blocks(x)))[:, 1:]
    torch.testing.assert_close(mta(encoded).x, expected)


def movement(*overrides):
    """How far scorers move in five steps beyond weight decay, in units of that decay, with gradients of full size.

    In ViT-S on 1728 tokens at ratio 0.9 and at the start, the segmentation loss alone gives medians of 4e-9 to 2e-8
    (STP: 6e-12 to 2e-11; blocks: 5e-6), the ratio loss 1e-7 to 1e-6: the smallest is taken.
    """
    cfg = little_config(DYNAMIC, *overrides)
    network = little_network(DYNAMIC, *overrides).train()
    optimizer = build(cfg.optimizer, key="optimizer")(network)
    criterion = little_criterion(cfg)
    scorers = [p for p in network.encoder.reducer.parameters() if p.ndim > 1]
    start, steps = [p.detach().clone() for p in scorers], 5
    for step in range(steps):
        image, label = little_batch(DYNAMIC, seed=step)
        optimizer.zero_grad()
        criterion(network(image), label, image=image)["loss"].backward()
        for p in scorers:
            p.grad *= 4e-9 / p.grad.abs().median()
        optimizer.step()
    decay = (1 - cfg.optimizer.lr * cfg.optimizer.weight_decay) ** steps
    return [
        ((now.detach() - before * decay).norm() / (before * (1 - decay)).norm()).item()
        for now, before in zip(scorers, start, strict=True)
    ]


@pytest.mark.parametrize("eps", ["1e-16", "1e-8"], ids=["shipped", "usual"])
def test_scorers_move_by_more_than_weight_decay(eps):
    """Also at the usual eps, unlike STP's."""
    assert min(movement("encoder.reducer.ratio_weight=0.0", f"optimizer.reducer_eps={eps}")) > 20


def test_scorers_learn_which_tokens_are_useful_through_masked_attention():
    torch.manual_seed(0)
    N, C = 64, 16
    reducer = DynamicViT(spec=spec_of(N, dim=C), blocks=(1,), ratio=0.75)
    optimizer = torch.optim.AdamW(reducer.parameters(), lr=1e-2)
    mark = torch.randn(C)

    def draw():
        useful = torch.rand(8, N).argsort(dim=1) < 8
        x = torch.randn(8, N, C) + useful.unsqueeze(-1) * mark
        return Tokens(x, torch.arange(N).expand(8, -1)), useful

    for _ in range(80):
        tokens, _ = draw()
        optimizer.zero_grad()
        live = reducer(tokens, stage=0, stats=None).live
        # uniform attention: what a query gets is the mean of the tokens that it may see
        x = live.x.unsqueeze(1)
        context = masked_attention(torch.zeros_like(x), x, x, mask=live.mask)
        share_loss = (live.mask.mean(dim=1) - 0.25).square().mean()
        (-(context @ mark).mean() / mark.norm() ** 2 + 2 * share_loss).backward()
        optimizer.step()
    tokens, useful = draw()
    kept = reducer.eval()(tokens, stage=0, stats=None).live.index
    assert useful.gather(1, kept).sum() / useful.sum() > 0.8, "chance is 0.25"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_keeps_exact_decisions_and_finite_gradients(dtype):
    network = little_network(DYNAMIC).train()
    image, label = little_batch(DYNAMIC)
    with torch.autocast("cpu", dtype=dtype):
        prediction = network(image)
    for tokens in prediction.encoded.sets:
        assert set(tokens.mask.unique().tolist()) <= {0.0, 1.0}
    parts = little_criterion(little_config(DYNAMIC))(prediction, label, image=image)
    parts["loss"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, r"encoder\.reducer\.ratio=1\.0"),
        ({"tau": 0.0}, r"encoder\.reducer\.tau=0\.0"),
        ({"ratio_weight": -1.0}, r"encoder\.reducer\.ratio_weight=-1\.0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        DynamicViT(spec=spec_of(16, dim=8), **settings)


def test_in_training_the_mean_is_over_the_tokens_that_earlier_stages_kept():
    torch.manual_seed(0)
    reducer = DynamicViT(spec=spec_of(16, dim=8), blocks=(1, 2)).train()
    before = (torch.arange(16) % 3 > 0).float().expand(2, -1)
    tokens = random_tokens()
    masked = Tokens(tokens.x, tokens.index, mask=before)
    scores = reducer(masked, stage=1, stats=None).aux["score_2"]
    scorer = reducer.scorers[1]
    torch.testing.assert_close(scores, scorer(tokens.x, before)[..., 0])
    assert not torch.allclose(scores, scorer(tokens.x)[..., 0])
