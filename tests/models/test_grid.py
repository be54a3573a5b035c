"""Token sets: whole, masked, packed, and back to the grid, against loops."""

import torch

from sct.models.grid import assemble, join, presence, pruning_depth, split, survival, unmerge
from sct.models.tokens import Encoded, Tokens, gather_tokens


def packed(*counts, width=3, start=0):
    """Sets of different size an image: places ascend from `start`, features are random."""
    x = torch.randn(1, sum(counts), width)
    index = torch.cat([start + torch.arange(count) for count in counts]).unsqueeze(0)
    return Tokens(x, index, lengths=counts)


def test_gather_and_assemble_against_loops():
    torch.manual_seed(0)
    x, index = torch.randn(2, 6, 3), torch.tensor([[4, 0, 2], [1, 5, 3]])
    picked = gather_tokens(x, index)
    back = assemble([picked], [Tokens(picked, index)], num_tokens=6)
    for b in range(2):
        for row, place in enumerate(index[b].tolist()):
            assert torch.equal(picked[b, row], x[b, place])
            assert torch.equal(back[b, place], x[b, place])
    assert back.count_nonzero() == picked.numel()


def test_packed_sets_assemble_image_by_image():
    torch.manual_seed(0)
    one, two = packed(2, 0, 3), packed(1, 3, 0, start=3)
    back = assemble([one.x, two.x], [one, two], num_tokens=6)
    expected = torch.zeros(3, 6, 3)
    for tokens in (one, two):
        row = 0
        for image, count in enumerate(tokens.lengths):
            for _ in range(count):
                expected[image, tokens.index[0, row]] = tokens.x[0, row]
                row += 1
    assert torch.equal(back, expected)


def test_a_token_without_a_place_is_not_in_the_grid():
    x, index = torch.ones(2, 3, 1), torch.tensor([[0, 2, 4], [1, 3, 4]])
    back = assemble([x], [Tokens(x, index)], num_tokens=4)
    assert back.squeeze(-1).tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]


def test_masked_sets_are_weighted_and_added():
    torch.manual_seed(0)
    x, y, index = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.arange(4).expand(2, -1)
    mask = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 1]])
    sets = [Tokens(x, index, mask), Tokens(y, index, 1 - mask)]
    weights = mask.unsqueeze(-1)
    torch.testing.assert_close(assemble([x, y], sets, num_tokens=4), x * weights + y * (1 - weights))
    assert torch.equal(presence(sets[0], num_tokens=4), mask)
    assert sets[0].count().tolist() == [2, 2]


def test_pruning_depth_is_the_same_for_masked_and_packed_sets():
    x = torch.zeros(2, 4, 1)
    index, ones = torch.arange(4).expand(2, -1), torch.ones(2, 4)
    first = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    second = torch.tensor([[0.0, 0, 1, 0], [1, 1, 1, 0]])
    expected = [[0, 2, 1, 2], [1, 1, 1, 2]]
    masked = [Tokens(x, index, mask) for mask in (first, second, ones - first - second)]
    everything = Tokens(x, index)
    ragged = [everything.select(tokens.mask > 0) for tokens in masked]
    for *dropped, final in (masked, ragged):
        encoded = Encoded((2, 2), final, x[:, :0], dropped=dropped)
        assert pruning_depth(encoded).flatten(1).tolist() == expected


def test_unmerged_places_equal_their_parents_through_all_generations():
    """Image 0: 1 into 0, then 0 into 3; image 1: 0 into 1, then 1 into 2. Image 1 is image 0 in other words."""
    final = Tokens(torch.tensor([[[20.0], [30]], [[20], [30]]]), torch.tensor([[2, 3], [2, 3]]))
    nothing = torch.zeros(2, 1, 1)
    dropped = [Tokens(nothing, torch.tensor([[1], [0]])), Tokens(nothing, torch.tensor([[0], [1]]))]
    parents = [torch.tensor([[0], [1]]), torch.tensor([[3], [2]])]
    whole = unmerge(final, dropped, parents, num_tokens=4)
    assert whole.x.squeeze(-1).tolist() == [[30, 30, 20, 30], [20, 20, 20, 30]]
    assert whole.index.tolist() == [[0, 1, 2, 3]] * 2


def test_a_long_line_of_parents_is_followed_to_its_end():
    final, nothing = Tokens(torch.full((1, 1, 1), 5.0), torch.tensor([[7]])), torch.zeros(1, 1, 1)
    dropped = [Tokens(nothing, torch.tensor([[place]])) for place in range(7)]
    whole = unmerge(final, dropped, [tokens.index + 1 for tokens in dropped], num_tokens=8)
    assert whole.x.flatten().tolist() == [5.0] * 8


def test_unmerging_of_packed_sets():
    final = Tokens(torch.tensor([[[7.0], [8], [9]]]), torch.tensor([[1, 0, 2]]), lengths=(1, 2))
    dropped = Tokens(torch.zeros(1, 3, 1), torch.tensor([[0, 2, 1]]), lengths=(2, 1))
    whole = unmerge(final, [dropped], [torch.tensor([[1, 1, 2]])], num_tokens=3)
    assert whole.x.squeeze(-1).tolist() == [[7, 7, 7], [8, 9, 9]]


def test_where_tokens_came_back_the_depth_is_that_of_the_stages():
    x, index = torch.zeros(1, 4, 1), torch.arange(4).unsqueeze(0)
    everything = Tokens(x, index)
    dropped = [everything.take(torch.tensor([[0]])), everything.take(torch.tensor([[2, 3]]))]
    survived = survival(dropped, num_tokens=4)
    assert [stage.tolist() for stage in survived] == [[[0, 1, 1, 1]], [[0, 1, 0, 0]]]
    encoded = Encoded((2, 2), everything, x[:, :0], survived=survived)
    assert encoded.num_depths == 2
    assert pruning_depth(encoded).flatten(1).tolist() == [[0, 2, 1, 1]]


def test_select_again_from_a_packed_set():
    tokens = packed(3, 2)
    kept = tokens.select(torch.tensor([[True, False, True, False, True]]))
    assert kept.lengths == (2, 1)
    assert kept.index.tolist() == [[0, 2, 1]]
    assert torch.equal(kept.x[0], tokens.x[0, [0, 2, 4]])
    assert kept.images().tolist() == [[0, 0, 1]]


def test_split_undoes_join():
    torch.manual_seed(0)
    prefix = torch.randn(2, 2, 3)
    whole = Tokens(torch.randn(2, 4, 3), torch.arange(4).expand(2, -1))
    for tokens, length in ((whole, 6), (packed(3, 0), 7)):
        sequence = join(prefix, tokens)
        assert sequence.shape[1] == length
        again, x = split(sequence, tokens, num_prefix=2)
        assert torch.equal(again, prefix)
        assert torch.equal(x, tokens.x)
