"""Token Merging (ToMe): similar tokens become one. "Your ViT but faster" (Bolya et al., ICLR 2023).

Letters: B batch, N tokens of the grid, n tokens alive, K tokens kept, C width, D width of a key, r tokens merged away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.models.blocks.layers import AttentionStats
from sct.models.reducers.base import Reducer, Reduction, check_ratio, full_precision, keep_count, split_top_k
from sct.models.tokens import FeatureSpec, Tokens


@dataclass
class Merged(Tokens):
    """Tokens, each the mean of `size` (B, n) patches."""

    size: Tensor | None = None


class ToMe(Reducer):
    """Merges the most similar tokens in pairs, K = round((1 - r) n) stay, between attention and MLP of a block.

    Bipartite soft matching (section 3): tokens are divided in turn into two sets; every token of the first has an edge
    to the token of the second whose key is most similar (cosine; keys are means over heads); the tokens of the r best
    edges are merged into their partners as means weighted by size. The merged token stands at its partner's place.
    The class token takes no part. `proportional` adds the log of its size to a token's logits as key: a token of n
    patches is attended to like n equal keys. Behind the last norm a place has the features of the token that it was
    merged into (unmerge), so a completion gets the whole grid.

    Training merges as evaluation does; the matching has no gradient, the means have one.

    Ours: the shares and blocks of `pruning` instead of a number r for every block, and the matching is repeated in one
    stage, on the merged keys, where more than half of the tokens are to go: one matching merges at most half.

    blocks: blocks in which tokens are merged, counted from 1
    ratio: share of the alive tokens that is merged away in every such block, 0 to below 1
    proportional: a merged token is attended to like as many equal tokens as it was merged from
    """

    wants = ("keys",)
    inside_block = True
    merges = True

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
        """tokens (B, n, C) -> live (B, K, C), dropped (B, n - K, C) and the places of their parents."""
        n = tokens.x.shape[1]
        k = keep_count(n, ratio=self.ratio)
        if k == n:
            nothing = tokens.index[:, :0]
            return Reduction(tokens, tokens.take(nothing), parent=nothing)
        assert stats.keys is not None
        C = tokens.x.shape[-1]
        with full_precision(tokens.x.device.type):
            size = sizes(tokens).unsqueeze(-1)
            # sums over patches: of features, of keys (a cosine does not see the difference to a mean), and their number
            sums = torch.cat([tokens.x.float() * size, stats.keys.detach().float() * size, size], dim=-1)
            live, places, parents = Tokens(sums, tokens.index), [], []
            while (now := live.x.shape[1]) > k:
                live, place, parent = merge_once(live, keys=slice(C, -1), r=min(now - k, now // 2))
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
    """How many patches every token is the mean of: (B, n) float32, 1 before the first stage."""
    if isinstance(tokens, Merged) and tokens.size is not None:
        return tokens.size
    return torch.ones_like(tokens.index, dtype=torch.float32)


def match(keys: Tensor, *, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching of keys (B, n, D).

    Even tokens are the first set, odd ones the second. Returns positions in the first set of the r tokens that are
    merged (B, r) and of the others, both ascending, and positions in the second set of the partners (B, r).
    """
    keys = F.normalize(keys, dim=-1)
    similarity = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
    best, partner = similarity.max(dim=2)
    merged, others = split_top_k(best, k=r)
    return merged, others, partner.gather(1, merged)


def merge_once(tokens: Tokens, *, keys: slice, r: int) -> tuple[Tokens, Tensor, Tensor]:
    """One matching: r tokens of (B, n, C) are added to others; `keys` are the channels that are compared.

    Returns the n - r tokens in spatial order, the places of those that are gone (B, r) and of their partners.
    """
    merged, others, partner = match(tokens.x[..., keys].detach(), r=r)
    first, second = tokens.changed(lambda values: values[:, ::2]), tokens.changed(lambda values: values[:, 1::2])
    gone = first.take(merged)
    # a product and not `scatter_add`, which adds in any order on a GPU: the result would differ from call to call
    numbers = torch.arange(second.x.shape[1], device=partner.device)
    meet = (partner.unsqueeze(1) == numbers.unsqueeze(1)).to(gone.x.dtype)
    first = first.take(others)
    index = torch.cat([first.index, second.index], dim=1)
    live = Tokens(torch.cat([first.x, second.x + meet @ gone.x], dim=1), index)
    return live.take(index.argsort(dim=1)), gone.index, second.index.gather(1, partner)


def positions(index: Tensor, place: Tensor, *, num_tokens: int) -> Tensor:
    """Where in a set with `index` (B, n) the tokens at `place` (B, m) are: (B, m)."""
    table = torch.zeros_like(index[:, :1]).expand(-1, num_tokens)
    counting = torch.arange(index.shape[1], device=index.device).expand_as(index)
    return table.scatter(1, index, counting).gather(1, place)
