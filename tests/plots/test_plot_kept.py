"""Tokens kept by image: counts of windows by hand, the examples, and what is drawn.

Letters: W windows, E stages.
"""

import numpy as np
import torch
from torch import Tensor, nn

from sct.models.base import ImageOnly
from sct.models.tokens import Encoded, FeatureSpec, Tokens
from sct.plots.depth import PRUNED, Depth
from sct.plots.kept import Example, all_alike, draw_kept, examples, window_counts
from sct.plots.planes import view


class Bright(ImageOnly):
    """One stage, which keeps the patches of 2 x 2 with a bright pixel."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.spec = FeatureSpec((4, 4), 1, (2, 2), dim=1, num_heads=1, num_stages=1)

    def forward(self, image: Tensor) -> Encoded:
        x = torch.nn.functional.max_pool2d(image, 2).flatten(1).unsqueeze(-1)
        tokens = Tokens(x, torch.arange(4).expand(len(x), -1))
        alive = x.squeeze(-1) > 0
        live, dropped = tokens.select(alive), tokens.select(~alive)
        return Encoded((2, 2), live, x.new_zeros(len(x), 0, 1), dropped=[dropped], alive=[live.count()])


def test_counts_of_every_window_by_hand() -> None:
    image = torch.zeros(1, 4, 8)
    image[0, 0, 0] = image[0, 3, 7] = image[0, 0, 7] = 1
    # windows at columns 0, 2 and 4
    for batch_size in (1, 2, 8):
        counts = window_counts(
            Bright(), image, size=(4, 4), overlap=0.5, batch_size=batch_size, device=torch.device("cpu")
        )
        assert counts.tolist() == [[1], [0], [2]]


def test_examples_have_the_fewest_the_median_and_the_most() -> None:
    counts = {name: np.full((2, 2), kept) for name, kept in (("a", 5), ("b", 1), ("c", 9), ("d", 3))}
    counts["b"] = np.array([[0, 0], [9, 1]])  # mean 2.5 over windows and stages
    assert examples(counts) == ["b", "d", "c"]
    assert examples({name: counts[name] for name in ("a", "c")}) == ["a", "c"]
    assert examples({"a": counts["a"]}) == ["a"]


def test_fixed_counts_are_alike() -> None:
    same = np.array([[8, 4], [8, 4]])
    assert all_alike({"a": same, "b": same[:1]})
    assert not all_alike({"a": same, "b": np.array([[8, 5]])})


def test_what_is_drawn() -> None:
    counts = {"a": np.array([[1, 0], [3, 0]]), "b": np.array([[4, 2]])}
    truth = np.zeros((4, 4), int)
    where = view(np.random.default_rng(0).random((1, 4, 4)), truth, spacing=(1, 1))
    depth = Depth(np.array([[2, 1], [0, 1]]), 2, PRUNED)
    shown = [Example(name, where, truth, depth, 0.5, counts[name].mean(axis=0)) for name in counts]
    figure = draw_kept(counts, shown, num_tokens=4, title="t", about="a")
    assert len(figure.axes) == 2 + 2 * 4
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes[:2]]
    # bins are 0, 1, 2, 3, 4 tokens
    assert heights == [[0, 1, 0, 1, 1], [2, 0, 1, 0, 0]]
    arrows = [[(mark.get_text(), mark.xy[0]) for mark in axes.texts] for axes in figure.axes[:2]]
    assert arrows == [[("E", 2.0), ("N", 4.0)], [("E", 0.0), ("N", 2.0)]]
    assert [axes.get_xlabel() for axes in figure.axes[2:6]] == ["Dice 0.500", "", "3 tokens", "1 tokens"]
    bare = draw_kept(counts, [], num_tokens=4, title="t", about="a")
    assert len(bare.axes) == 2
