"""Sets of tokens: what is known of a token goes with it, in batches of one length and of several."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sct.models.tokens import Tokens


@dataclass
class Merged(Tokens):
    """Tokens that stand for several."""

    size: Tensor | None = None


@pytest.fixture
def merged():
    x = torch.arange(2 * 4 * 3.0).reshape(2, 4, 3)
    index = torch.arange(4).expand(2, -1)
    return Merged(x, index, size=torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]))


def test_what_a_method_adds_goes_with_the_tokens_that_are_taken(merged):
    some = merged.take(torch.tensor([[0, 2], [3, 1]]))
    assert isinstance(some, Merged)
    assert some.index.tolist() == [[0, 2], [3, 1]]
    assert some.size.tolist() == [[1, 3], [8, 6]]
    assert some.x[1, 0].tolist() == merged.x[1, 3].tolist()
    assert some.mask is None


def test_and_with_those_that_are_selected_of_every_image(merged):
    keep = torch.tensor([[True, False, False, True], [False, True, True, True]])
    some = merged.select(keep)
    assert some.lengths == (2, 3)
    assert some.size.tolist() == [[1, 4, 6, 7, 8]]
    again = some.select(torch.tensor([[False, True, True, False, False]]))
    assert again.lengths == (1, 1)
    assert again.size.tolist() == [[4, 6]]
    assert [x.tolist() for x in again.per_image(again.index)] == [[3], [1]]


def test_masks_and_gates_are_taken_too(merged):
    masked = Tokens(merged.x, merged.index, mask=torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1]]), gate=merged.size.float())
    some = masked.take(torch.tensor([[1, 2], [0, 3]]))
    assert some.mask.tolist() == [[0, 1], [0, 1]]
    assert some.gate.tolist() == [[2, 3], [5, 8]]
