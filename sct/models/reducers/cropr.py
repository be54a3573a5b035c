"""Token Cropr: auxiliary heads score the tokens. "Faster ViTs for Quite a Few Tasks" (Bergner et al., 2025).

Letters: B batch, N tokens of the grid, n tokens alive, K tokens kept, C width, Q classes (or regions).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.attention import cross_attention
from sct.models.blocks.layers import AttentionStats
from sct.models.blocks.mlp import Mlp
from sct.models.grid import to_grid
from sct.models.reducers.base import Reducer, Reduction, check_ratio, full_precision, keep_count, split_top_k
from sct.models.tokens import FeatureSpec, HeadOutput, Scores, Tokens


class Cropr(Reducer):
    """Keeps the K tokens with the highest scores, K = round((1 - r) n); the score is a product with learned queries.

    After each of `blocks` a `CroprHead` has one query for each patch of the image. In training the queries attend to
    the tokens alive, and a linear layer predicts the label of every patch. The task's loss of this prediction is
    multiplied by the criterion's `auxiliary_weight`. The score of a token is the mean of its products with all queries.
    Gradients stop at the head's input, and the choice of tokens has no gradient, so the encoder learns only from the
    decoder's loss. In evaluation only the mean of the queries is used; a score then costs one product per token.

    `fusion` (Last Layer Fusion): before the last block the dropped tokens re-enter with the features that they had, so
    that the last block and the completion get the whole grid. With `fusion=false` they go to the completion.

    Differences to the paper: the shares and blocks of `pruning` replace a number of tokens for every block. There is
    one query for each patch, and it predicts one class for the patch; the logits are interpolated to voxels, as for an
    early head. Scores are scaled, which does not change the order of the tokens.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the tokens alive that is pruned at each pruning block, 0 to below 1
    fusion: whether dropped tokens re-enter before the last block; false: they go to the completion
    mlp_ratio: hidden channels of the auxiliary heads' MLP, as a multiple of the encoder's width
    """

    changeable = ("ratio",)

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (3, 6, 9),
        ratio: float = 0.5,
        fusion: bool = True,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__(blocks=blocks)
        check_ratio(ratio)
        if spec.num_classes < 1:
            raise UserError(
                "Cropr trains heads inside the encoder and needs the number of classes; give the encoder num_classes."
            )
        if fusion and self.blocks and self.blocks[-1] >= spec.depth:
            raise UserError(
                f"encoder.reducer.fusion lets dropped tokens re-enter before the last of encoder.depth={spec.depth} "
                f"blocks, but encoder.reducer.blocks={list(self.blocks)} drops tokens in that block or later: prune "
                "earlier (pruning.blocks), or set encoder.reducer.fusion=false."
            )
        self.ratio, self.grid = ratio, spec.grid
        self.reenter_before = spec.depth if fusion else None
        self.heads = nn.ModuleList(CroprHead(spec, mlp_ratio=mlp_ratio) for _ in self.blocks)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C), dropped (B, n - K, C), in spatial order, and in training auxiliary."""
        scores, logits = self.heads[stage](tokens.x.detach())
        ranking = Scores(scores, tokens.index, keep_count(tokens.x.shape[1], ratio=self.ratio))
        keep, drop = split_top_k(self.ranked(scores, tokens), k=ranking.num_kept)
        auxiliary = None if logits is None else HeadOutput(to_grid(logits, self.grid))
        aux = {f"score_{stage + 1}": scores}
        return Reduction(tokens.take(keep), tokens.take(drop), auxiliary=auxiliary, scores=ranking, aux=aux)


class CroprHead(nn.Module):
    """Learned queries (N, C): cross-attention to the tokens (one head, no projections), MLP, linear classifier."""

    no_weight_decay = ("queries",)

    def __init__(self, spec: FeatureSpec, *, mlp_ratio: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(spec.num_tokens, spec.dim))
        self.norm = nn.LayerNorm(spec.dim, eps=1e-6)
        self.mlp = Mlp(spec.dim, hidden=int(spec.dim * mlp_ratio))
        self.classify = nn.Linear(spec.dim, spec.num_classes)
        nn.init.trunc_normal_(self.queries, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, n, C) -> scores of the tokens (B, n), and in training logits for every place of the grid (B, N, Q)."""
        return self.scores(x), self.predict(x) if self.training else None

    def scores(self, x: Tensor) -> Tensor:
        """x (B, n, C) -> the mean of the tokens' scaled products with all queries: (B, n) in float32."""
        with full_precision(x.device.type):
            query = self.queries.detach().mean(dim=0, keepdim=True) * x.shape[-1] ** -0.5
            return F.linear(x.to(query.dtype), query).squeeze(-1).float()

    def predict(self, x: Tensor) -> Tensor:
        """x (B, n, C) -> logits for every place of the grid (B, N, Q)."""
        memory = x.unsqueeze(1)
        queries = self.queries.to(x.dtype).expand(x.shape[0], 1, -1, -1)
        context = cross_attention(queries, memory, memory, lengths=None).squeeze(1)
        return self.classify(context + self.mlp(self.norm(context)))
