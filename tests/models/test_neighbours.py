"""Ranks with a share of the best neighbour's score."""

import itertools
from dataclasses import replace

import pytest
import torch
from stp_by_hand import given_stp, random_tokens, spec_of

from sct.errors import UserError
from sct.evaluation.tokens import chosen_shares
from sct.models.reducers.neighbours import with_neighbours
from sct.models.reducers.stp import STP


@pytest.mark.parametrize("grid", [(4, 5), (3, 4, 5)], ids=["2-D", "3-D"])
def test_equals_a_search_among_the_neighbours_alive(grid):
    generator = torch.Generator().manual_seed(0)
    places = list(itertools.product(*map(range, grid)))
    index = torch.stack(
        [torch.randperm(len(places), generator=generator)[: len(places) // 2].sort().values for _ in "ab"]
    )
    scores = torch.randn(index.shape, generator=generator)
    found = with_neighbours(scores, index, grid=grid, share=0.25)
    for values, alive, ranks in zip(scores.tolist(), index.tolist(), found.tolist(), strict=True):
        of = {places[place]: value for place, value in zip(alive, values, strict=True)}
        for place, rank in zip(alive, ranks, strict=True):
            near = [
                value
                for other, value in of.items()
                if max(abs(a - b) for a, b in zip(other, places[place], strict=True)) < 2
            ]
            assert rank == pytest.approx(0.75 * of[places[place]] + 0.25 * max(near))


def test_a_line_of_tokens_by_hand():
    scores = torch.tensor([[4.0, 0.0, 1.0, 2.0]])
    index = torch.tensor([[0, 1, 3, 4]])
    # the token at 2 is gone, so those at 1 and 3 have no common neighbour
    assert with_neighbours(scores, index, grid=(1, 5), share=0.5).tolist() == [[4.0, 2.0, 1.5, 2.0]]
    assert torch.equal(with_neighbours(scores, index, grid=(1, 5), share=0.0), scores)
    # all of the rank: equal to its best neighbour
    assert with_neighbours(scores, index, grid=(1, 5), share=1.0).tolist() == [[4.0, 4.0, 2.0, 2.0]]


def square_stp(*scores, **settings):
    stp = given_stp(*scores, **settings)
    stp.grid = (4, 4)
    return stp


def test_the_border_of_an_organ_stays_before_a_lone_token():
    # an organ at 5 whose border has a lower score than a lone token at 15
    scores = torch.zeros(1, 16)
    scores[0, [5, 6, 15]] = torch.tensor([4.0, 0.5, 1.0])
    alone, beside = (square_stp(scores, ratio=0.875, neighbours=share).eval() for share in (0.0, 0.5))
    tokens = random_tokens(B=1)
    assert alone(tokens, stage=0, stats=None).live.index.tolist() == [[5, 15]]
    reduction = beside(tokens, stage=0, stats=None)
    assert reduction.live.index.tolist() == [[5, 6]]
    assert torch.equal(reduction.scores.values, scores), "the scores are taught what they say alone"
    assert reduction.scores.ranks[0, [5, 6, 15]].tolist() == [4.0, 2.25, 1.0]
    foreground = torch.zeros(1, 4, 4, dtype=torch.bool)
    foreground[0, 1, 1:3] = True
    assert chosen_shares([reduction.scores], foreground)["tokens/foreground_chosen_1"] == 1
    assert chosen_shares([replace(reduction.scores, ranks=None)], foreground)["tokens/foreground_chosen_1"] == 0.5


def test_training_ranks_as_evaluation_does_and_the_gradient_reaches_the_neighbour():
    scores = torch.zeros(1, 16)
    scores[0, [5, 6, 15]] = torch.tensor([4.0, 0.5, 1.0])
    stp = square_stp(scores, ratio=0.875, neighbours=0.5, perturb=False).train()
    reduction = stp(random_tokens(B=1), stage=0, stats=None)
    assert reduction.live.index.tolist() == [[5, 6]]
    reduction.live.x[0, 1].sum().backward()
    assert stp.scorers[0].scores.grad[0, 5] != 0, "the best neighbour of the kept token at 6"


def test_a_share_out_of_range():
    with pytest.raises(UserError, match=r"encoder\.reducer\.neighbours=1\.5"):
        STP(spec=spec_of(4, 4, dim=8), neighbours=1.5)
