"""Token Cropr: tokens kept by what auxiliary heads ask for. "Faster ViTs for Quite a Few Tasks" (Bergner et al., 2025).

Letters: B batch, N tokens of the grid, n tokens alive, K tokens kept, C width, Q classes (or regions).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.attention import cross_attention
from sct.models.blocks.layers import AttentionStats, Mlp
from sct.models.grid import to_grid
from sct.models.reducers.base import Reducer, Reduction, check_ratio, full_precision, keep_count, split_top_k
from sct.models.tokens import FeatureSpec, HeadOutput, Tokens


class Cropr(Reducer):
    """Keeps the K tokens of highest score, K = round((1 - r) n): what the learned queries of a stage look for.

    A `CroprHead` after each of `blocks` has a query for every patch of the image. In training the queries read the
    tokens alive, and a linear layer predicts the label of every patch, which the task's loss judges, times the
    criterion's `auxiliary_weight`. A token's score is the sum of its products with all queries. Tokens reach the head
    with stopped gradients, and the choice has none: the encoder learns by the decoder's loss alone. At inference only
    the sum of the queries is used, so scores cost one product a token.

    `fusion` (Last Layer Fusion): before the last block the dropped tokens join the others again, as they were when they
    were dropped, so that block and completion see the whole grid. `fusion=false` leaves them to the completion.

    Ours: the shares and blocks of `pruning` instead of a number of tokens pruned in every block; a query for every
    patch, which predicts the class that its voxels have together (logits are interpolated to voxels, as of an early
    head); scores are scaled, which changes no choice.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the alive tokens that is pruned at every such block, 0 to below 1
    fusion: dropped tokens re-enter before the last block; false: they wait for the completion
    mlp_ratio: hidden width of the auxiliary heads' MLP, in widths of the encoder
    """

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
            raise UserError("Cropr trains heads inside the encoder; give the encoder num_classes.")
        if fusion and self.blocks and self.blocks[-1] >= spec.depth:
            raise UserError(
                f"encoder.reducer.fusion lets dropped tokens re-enter before the last of encoder.depth={spec.depth} "
                f"blocks, but encoder.reducer.blocks={list(self.blocks)} drops some after it: prune earlier "
                "(pruning.blocks), or set encoder.reducer.fusion=false."
            )
        self.ratio, self.grid = ratio, spec.grid
        self.reenter_before = spec.depth if fusion else None
        self.heads = nn.ModuleList(CroprHead(spec, mlp_ratio=mlp_ratio) for _ in self.blocks)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C), dropped (B, n - K, C), in spatial order; in training what a head says."""
        scores, logits = self.heads[stage](tokens.x.detach())
        kept, rest = split_top_k(scores, k=keep_count(tokens.x.shape[1], ratio=self.ratio))
        auxiliary = None if logits is None else HeadOutput(to_grid(logits, self.grid))
        aux = {f"score_{stage + 1}": scores}
        return Reduction(tokens.take(kept), tokens.take(rest), auxiliary=auxiliary, aux=aux)


class CroprHead(nn.Module):
    """Queries (N, C) that read the tokens: cross-attention of one head without projections, MLP, linear classifier."""

    no_weight_decay = ("queries",)

    def __init__(self, spec: FeatureSpec, *, mlp_ratio: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(spec.num_tokens, spec.dim))
        self.norm = nn.LayerNorm(spec.dim, eps=1e-6)
        self.mlp = Mlp(spec.dim, hidden=int(spec.dim * mlp_ratio))
        self.classify = nn.Linear(spec.dim, spec.num_classes)
        nn.init.trunc_normal_(self.queries, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, n, C) -> scores of the tokens (B, n), and in training logits of every place of the grid (B, N, Q)."""
        return self.scores(x), self.predict(x) if self.training else None

    def scores(self, x: Tensor) -> Tensor:
        """x (B, n, C) -> the mean of the tokens' scaled products with all queries: (B, n) in float32."""
        with full_precision(x.device.type):
            query = self.queries.detach().mean(dim=0, keepdim=True) * x.shape[-1] ** -0.5
            return F.linear(x.to(query.dtype), query).squeeze(-1).float()

    def predict(self, x: Tensor) -> Tensor:
        """x (B, n, C) -> what the queries read, as logits of every place of the grid (B, N, Q)."""
        memory = x.unsqueeze(1)
        queries = self.queries.to(x.dtype).expand(x.shape[0], 1, -1, -1)
        context = cross_attention(queries, memory, memory, lengths=None).squeeze(1)
        return self.classify(context + self.mlp(self.norm(context)))
