"""Token Merging (ToMe): merges similar tokens. "Your ViT but faster" (Bolya et al., ICLR 2023).

Letters: B batch, N tokens of the grid, n tokens alive, K tokens kept, C width, D width of a key,
r tokens that are merged into others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.models.blocks.layers import AttentionStats
from sct.models.reducers.base import Reducer, Reduction, check_ratio, full_precision, keep_count, split_top_k
from sct.models.tokens import FeatureSpec, Tokens

Rank = Callable[[Tensor], Tensor]


@dataclass
class Merged(Tokens):
    """Merged tokens: each is the mean of `size` (B, n) patches."""

    size: Tensor | None = None


class ToMe(Reducer):
    """Merges the most similar tokens between attention and MLP of a block; K = round((1 - r) n) tokens remain.

    Bipartite soft matching (section 3), for patch tokens:
    - The tokens are divided alternately into two sets.
    - Each token of the first set has an edge to the token of the second set with the most similar key (cosine
      similarity; keys are means over heads).
    - The tokens of the r best edges are merged into their partners, as means weighted by size. A merged token has the
      place of the partner.

    With `proportional`, the log of a token's size is added to its logits as key, so that a token of n patches gets the
    attention of n equal keys. After the last norm every place gets the features of the token into which it was merged
    (unmerge), so a completion gets the whole grid. Tokens are merged in training and in evaluation; the matching has no
    gradient, the means have a gradient.

    Differences to the paper: the shares and blocks of `pruning` replace a number r for every block. Where more than
    half of the tokens are to be merged in one stage, the matching is repeated with the merged keys, because one
    matching merges at most half of the tokens.

    blocks: blocks in which tokens are merged, counted from 1
    ratio: share of the tokens alive that is merged into others in each pruning block, 0 to below 1
    proportional: whether a merged token gets as much attention as the tokens from which it was merged
    """

    wants = ("keys",)
    inside_block = True
    merges = True
    changeable = ("ratio", "proportional")

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (3, 6, 9),
        ratio: float = 0.5,
        proportional: bool = True,
    ) -> None:
        super().__init__(blocks=blocks)
        check_ratio(ratio)
        self.spec, self.ratio, self.proportional = spec, ratio, proportional

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C), dropped (B, n - K, C), and the places of their parents (B, n - K)."""
        n = tokens.x.shape[1]
        k = keep_count(n, ratio=self.ratio)
        if k == n:
            empty = tokens.index[:, :0]
            return Reduction(tokens, tokens.take(empty), parent=empty)
        assert stats.keys is not None
        C = tokens.x.shape[-1]
        with full_precision(tokens.x.device.type):
            size = sizes(tokens).unsqueeze(-1)
            # sums over patches of features and keys, and the number of patches; the cosine of sums equals that of means
            sums = torch.cat([tokens.x.float() * size, stats.keys.detach().float() * size, size], dim=-1)
            live, places, parents = Tokens(sums, tokens.index), [], []
            while (count := live.x.shape[1]) > k:
                r = min(count - k, count // 2)
                rank = partial(self.ranked, tokens=live.changed(lambda values: values[:, ::2]))
                live, place, parent = merge_once(live, keys=slice(C, -1), r=r, rank=rank)
                places.append(place)
                parents.append(parent)
            size = live.x[..., -1]
            x = (live.x[..., :C] / size.unsqueeze(-1)).to(tokens.x.dtype)
        bias = size.log() if self.proportional else None
        place = torch.cat(places, dim=1)
        order = place.argsort(dim=1)
        place, parent = place.gather(1, order), torch.cat(parents, dim=1).gather(1, order)
        dropped = tokens.take(positions(tokens.index, place, num_tokens=self.spec.num_tokens))
        return Reduction(Merged(x, live.index, key_bias=bias, size=size), dropped, parent=parent)


def sizes(tokens: Tokens) -> Tensor:
    """Number of patches in every token: (B, n) float32, 1 before the first stage."""
    if isinstance(tokens, Merged) and tokens.size is not None:
        return tokens.size
    return torch.ones_like(tokens.index, dtype=torch.float32)


def match(keys: Tensor, *, r: int, rank: Rank | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching of keys (B, n, D).

    Even tokens are the first set, odd tokens the second set. Returns three tensors of positions: in the first set of
    the r tokens that are merged (B, r) and of the other tokens, both ascending; in the second set of the partners
    (B, r).
    """
    keys = F.normalize(keys, dim=-1)
    similarity = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
    best, partner = similarity.max(dim=2)
    # tokens that are unlike all others stay
    merged, others = split_top_k(best if rank is None else -rank(-best), k=r)
    return merged, others, partner.gather(1, merged)


def merge_once(tokens: Tokens, *, keys: slice, r: int, rank: Rank | None = None) -> tuple[Tokens, Tensor, Tensor]:
    """One matching: adds r of the tokens (B, n, C) to their partners; `keys` are the channels of the keys.

    rank: gives other scores (B, m) in place of those by which the tokens of the first set stay

    Returns the n - r tokens in spatial order, the places of the merged tokens (B, r) and of their partners (B, r).
    """
    merged, others, partner = match(tokens.x[..., keys].detach(), r=r, rank=rank)
    first, second = tokens.changed(lambda values: values[:, ::2]), tokens.changed(lambda values: values[:, 1::2])
    sources = first.take(merged)
    # a product and not `scatter_add`: on a GPU its order of addition, and so its result, may differ between calls
    numbers = torch.arange(second.x.shape[1], device=partner.device)
    edges = (partner.unsqueeze(1) == numbers.unsqueeze(1)).to(sources.x.dtype)
    first = first.take(others)
    index = torch.cat([first.index, second.index], dim=1)
    live = Tokens(torch.cat([first.x, second.x + edges @ sources.x], dim=1), index)
    return live.take(index.argsort(dim=1)), sources.index, second.index.gather(1, partner)


def positions(index: Tensor, place: Tensor, *, num_tokens: int) -> Tensor:
    """Positions, in a set with `index` (B, n), of the tokens at `place` (B, m): (B, m)."""
    table = torch.zeros_like(index[:, :1]).expand(-1, num_tokens)
    numbers = torch.arange(index.shape[1], device=index.device).expand_as(index)
    return table.scatter(1, index, numbers).gather(1, place)
