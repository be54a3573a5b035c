"""Soft-topK token pruning: the straight-through gradient, in mixed precision too, and that scorers learn by it."""

import pytest
import torch
from little_models import PLAIN, little_batch, little_config, little_criterion, little_network
from stp_by_hand import given_stp, random_tokens, spec_of

from sct.config.check import build
from sct.models.reducers.stp import STP
from sct.models.tokens import Tokens, gather_tokens


def kept_and_scorer_gradient(dtype, *, loss_scale):
    """Kept places and scorers' gradient of two stages with a layer between, on the same tokens for every dtype."""
    torch.manual_seed(0)
    stp = STP(spec=spec_of(8, 8, dim=16), blocks=(1, 2), ratio=0.5, perturb=False).train()
    layer, head = torch.nn.Linear(16, 16), torch.nn.Linear(16, 1)
    tokens = random_tokens(B=2, N=64, C=16)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        one = stp(tokens, stage=0, stats=None)
        two = stp(Tokens(one.live.x + 0 * layer(one.live.x), one.live.index, gate=one.live.gate), stage=1, stats=None)
        loss = head(layer(two.live.x)).float().square().mean()
    (loss * loss_scale).backward()
    gradient = torch.cat([p.grad.flatten() for p in stp.parameters()])
    return two.live.index, gradient / loss_scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_keeps_the_same_tokens_and_the_gradient(dtype):
    # brings gradients of 1e-8 to the edge of half precision, where GradScaler would have them
    scale = 2.0**16 * 5e-3 if dtype == torch.float16 else 1.0
    kept, expected = kept_and_scorer_gradient(torch.float32, loss_scale=scale)
    mixed, gradient = kept_and_scorer_gradient(dtype, loss_scale=scale)
    assert torch.equal(mixed, kept)
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_mixed_precision_has_finite_gradients(dtype):
    network = little_network(PLAIN).train()
    image, label = little_batch(PLAIN)
    with torch.autocast("cpu", dtype=dtype):
        prediction = network(image)
    little_criterion(little_config(PLAIN))(prediction, label, image=image)["loss"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("gradient", ["published", "scaled"])
def test_straight_through_gradient_by_hand(gradient):
    """Two stages; every output token is weighed, and the derivative written out with the softmax's Jacobian."""
    torch.manual_seed(0)
    B, N, C, tau = 2, 12, 8, 0.7
    kind = {"dtype": torch.float64}
    first, second = torch.randn(B, N, **kind), torch.randn(B, N, **kind)
    stp = given_stp(first, second, ratio=0.5, perturb=False, tau=tau, gradient=gradient).train()
    tokens, weight = random_tokens(B, N, C, **kind), torch.randn(B, N, C, **kind)

    one = stp(tokens, stage=0, stats=None)
    stp.scorers[1].index = one.live.index
    two = stp(one.live, stage=1, stats=None)
    outputs = (one.dropped, two.dropped, two.live)
    sum((t.x * gather_tokens(weight, t.index)).sum() for t in outputs).backward()

    expected = [torch.zeros(B, N, **kind), torch.zeros(B, N, **kind)]
    x = tokens.x.detach()
    for b in range(B):
        kept = one.live.index[b].tolist()
        last = two.live.index[b].tolist()
        worth = (x[b] * weight[b]).sum(dim=1)
        # x * M1 goes on; later it meets the running product M1 * M2, or M1 * (1 - M2): M1 counts twice
        by_first = [2 * worth[i] if i in kept else -worth[i] for i in range(N)]
        by_second = [worth[i] if i in last else -worth[i] for i in kept]
        stages = ((first[b], by_first, list(range(N))), (second[b, kept], by_second, kept))
        for into, (scores, by_mask, alive) in zip(expected, stages, strict=True):
            soft, slope = (scores / tau).softmax(dim=0), torch.tensor(by_mask, **kind)
            by_score = soft * (slope - (soft * slope).sum()) / tau
            into[b, alive] = by_score * (len(alive) if gradient == "scaled" else 1)
    torch.testing.assert_close(stp.scorers[0].scores.grad, expected[0])
    torch.testing.assert_close(stp.scorers[1].scores.grad, expected[1])
    torch.testing.assert_close(tokens.x.grad, weight, msg="the tokens' own gradient passes unchanged")


def test_scorers_learn_which_tokens_are_useful():
    torch.manual_seed(0)
    N, C = 64, 16
    stp = STP(spec=spec_of(N, dim=C), blocks=(1,), ratio=0.75)
    optimizer = torch.optim.AdamW(stp.parameters(), lr=1e-2, eps=1e-16)
    mark = torch.randn(C)

    def draw():
        useful = torch.rand(8, N).argsort(dim=1) < 8
        x = torch.randn(8, N, C) + useful.unsqueeze(-1) * mark
        return Tokens(x, torch.arange(N).expand(8, -1)), useful

    for _ in range(60):
        tokens, _ = draw()
        optimizer.zero_grad()
        (-(stp(tokens, stage=0, stats=None).live.x @ mark)).mean().backward()
        optimizer.step()
    tokens, useful = draw()
    kept = stp.eval()(tokens, stage=0, stats=None).live.index
    assert useful.gather(1, kept).sum() / useful.sum() > 0.8, "chance is 0.25"


def movement(*overrides):
    """How far scorers move in five steps beyond weight decay, in units of that decay, with gradients of full size.

    In ViT-B on 1728 tokens the scorers' gradients are 1e-11 to 1e-13: a small network's are scaled down to 1e-12.
    """
    cfg = little_config(PLAIN, *overrides)
    network = little_network(PLAIN, *overrides).train()
    optimizer = build(cfg.optimizer, key="optimizer")(network)
    criterion = little_criterion(cfg)
    scorers = [p for p in network.encoder.reducer.parameters() if p.ndim > 1]
    start, steps = [p.detach().clone() for p in scorers], 5
    for step in range(steps):
        image, label = little_batch(PLAIN, seed=step)
        optimizer.zero_grad()
        criterion(network(image), label, image=image)["loss"].backward()
        for p in scorers:
            p.grad *= 1e-12 / p.grad.abs().median().clamp_min(1e-30)
        optimizer.step()
    decay = (1 - cfg.optimizer.lr * cfg.optimizer.weight_decay) ** steps
    return [
        ((now.detach() - before * decay).norm() / (before * (1 - decay)).norm()).item()
        for now, before in zip(scorers, start, strict=True)
    ]


def test_scorers_move_by_more_than_weight_decay_with_the_shipped_optimizer():
    assert min(movement()) > 50


def test_scorers_stand_still_with_the_published_epsilon():
    assert max(movement("optimizer.reducer_eps=1e-8")) < 5
