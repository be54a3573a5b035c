"""Scores of an image, dealt out in another order."""

import torch

from sct.evaluation.selection import Shares, dealt


def test_scores_are_dealt_out_in_another_order():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.3])
    order = torch.tensor([3.0, 1.0, 2.0, 9.0])
    assert torch.equal(dealt(scores, order=order), torch.tensor([0.5, 0.1, 0.3, 0.9]))
    assert torch.equal(dealt(scores, order=-scores), torch.tensor([0.9, 0.1, 0.3, 0.5]))


def test_shares_are_summed_over_windows():
    shares = Shares()
    for depth in ([[0, 1], [2, 2]], [[1, 1], [0, 2]]):
        kinds = {"all": torch.ones(1, 2, 2, dtype=torch.bool), "wrong": torch.tensor([[[True, False], [False, True]]])}
        shares.add(torch.tensor([depth]), kinds, num_stages=2)
    assert [shares.of("all", stage) for stage in (1, 2)] == [6 / 8, 3 / 8]
    assert [shares.of("wrong", stage) for stage in (1, 2)] == [3 / 4, 2 / 4]
