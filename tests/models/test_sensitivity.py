"""Scores that learn how much the loss depends on each token."""

import torch
from stp_by_hand import given_stp, random_tokens, spec_of

from sct.models.reducers.sensitivity import ranks_of_kept
from sct.models.reducers.stp import STP
from sct.models.tokens import Tokens, gather_tokens


def test_kept_tokens_are_ranked_among_themselves():
    values = torch.tensor([[5.0, 1.0, 3.0, 9.0, 2.0]])
    kept = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    assert ranks_of_kept(values, kept).tolist() == [[1.0, 0.0, 0.5, 0.0, 0.0]]
    assert ranks_of_kept(values, torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0]])).tolist() == [[0.0] * 5]


def test_the_gradient_of_the_scores_by_hand():
    torch.manual_seed(0)
    B, N, C, K, weight = 2, 8, 8, 4, 0.3
    scores = torch.randn(B, N)
    stp = given_stp(
        scores, ratio=0.5, perturb=False, log_sigmoid=False, gradient="sensitivity", sensitivity_weight=weight
    ).train()
    tokens, size = random_tokens(B, N, C), torch.rand(B, N, 1)
    reduction = stp(tokens, stage=0, stats=None)
    parts = ((t.x * gather_tokens(size, t.index)).sum() for t in (reduction.live, reduction.dropped))
    term = reduction.losses["sensitivity_1"]
    assert term.item() == 0
    (sum(parts) + 2 * term).backward()

    expected = torch.zeros(B, N)
    for b, kept in enumerate(reduction.live.index.tolist()):
        for rank, place in enumerate(sorted(kept, key=lambda i: size[b, i].item())):
            expected[b, place] = 2 * weight * (scores[b, place].sigmoid() - rank / (K - 1)) / (B * K)
    torch.testing.assert_close(stp.scorers[0].scores.grad, expected)
    torch.testing.assert_close(tokens.x.grad, size.expand(B, N, C), msg="the tokens' own gradient passes unchanged")


def test_scorers_learn_on_which_tokens_the_loss_depends():
    torch.manual_seed(0)
    N, C = 64, 16
    stp = STP(spec=spec_of(N, dim=C), blocks=(1,), ratio=0.75, log_sigmoid=False, gradient="sensitivity")
    optimizer = torch.optim.AdamW(stp.parameters(), lr=1e-2)
    mark = torch.randn(C)

    def draw():
        useful = torch.rand(8, N).argsort(dim=1) < 8
        x = torch.randn(8, N, C) + useful.unsqueeze(-1) * mark
        return Tokens(x.requires_grad_(), torch.arange(N).expand(8, -1)), useful

    for _ in range(60):
        tokens, useful = draw()
        optimizer.zero_grad()
        reduction = stp(tokens, stage=0, stats=None)
        wanted = gather_tokens(useful, reduction.live.index)
        loss = (reduction.live.x.square().mean(dim=-1) * wanted).sum()
        (loss + reduction.losses["sensitivity_1"]).backward()
        optimizer.step()
    tokens, useful = draw()
    kept = stp.eval()(tokens, stage=0, stats=None).live.index
    assert useful.gather(1, kept).sum() / useful.sum() > 0.8, "chance is 0.25"
