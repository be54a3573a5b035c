"""APFormer's attention: relative positions, pruning of rows and of dependencies, a self-supervised loss.

"The Lighter The Better: Rethinking Transformers in Medical Image Segmentation Through Adaptive Pruning" (APFormer).
Letters: B batch, N tokens of the grid, n queries of an image, C width, H heads, D head width.
"""

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.config.parts import part
from sct.errors import UserError
from sct.models.adaptive.dependencies import AdaptiveThreshold
from sct.models.adaptive.grpe import GRPE
from sct.models.adaptive.ssa import SSA
from sct.models.blocks.layers import FULL, AttentionStats, Layout
from sct.models.blocks.mlp import make_dropout


@part
class AdaptiveAttention(nn.Module):
    """Multi-head self-attention over the whole grid with any of APFormer's four parts.

    - `positions` are added to the query-key products (equation 10).
    - `dependencies` prunes entries of the attention matrix with a threshold for each row (equations 13 and 14).
    - `ssa` is a loss on the attention matrix in training (equation 7); it uses all rows.
    - `Layout.query_mask`: tokens that the gate switches off are no queries (equation 12), in training and evaluation.
      They stay keys, and their update is zero. Images are computed one by one, so an image's result does not depend on
      its batch.

    Without `head_dim` it is C / H, and weights have the names and shapes of plain attention.

    head_dim: channels of a head; null: the encoder's width divided by its number of heads
    dropout: probability of dropout after the projection
    positions: relative positions (GRPE), added to the query-key products; null: no relative positions
    dependencies: pruning of the entries of the attention matrix; null: no pruning
    ssa: loss on the attention matrix in training; null: no loss
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        qkv_bias: bool,
        grid: tuple[int, ...],
        head_dim: int | None = None,
        dropout: float = 0.0,
        positions: Callable[..., GRPE] | None = None,
        dependencies: Callable[..., AdaptiveThreshold] | None = None,
        ssa: SSA | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None and dim % num_heads:
            raise UserError(
                f"encoder.dim={dim} is not divisible by encoder.num_heads={num_heads}; change one of them, or set "
                "encoder.attention.head_dim."
            )
        self.num_heads, self.head_dim = num_heads, head_dim or dim // num_heads
        self.inner = num_heads * self.head_dim
        self.qkv = nn.Linear(dim, 3 * self.inner, bias=qkv_bias)
        self.proj = nn.Linear(self.inner, dim)
        self.dropout = make_dropout(dropout)
        self.positions = positions(grid=grid, num_heads=num_heads) if positions is not None else None
        self.dependencies = dependencies(head_dim=self.head_dim) if dependencies is not None else None
        self.ssa = ssa

    def forward(
        self, x: Tensor, layout: Layout = FULL, *, wants: Collection[str] = ()
    ) -> tuple[Tensor, AttentionStats]:
        """x (B, N, C) -> (B, N, C), and `AttentionStats` with loss, pruned and, if in `wants`, matrices."""
        B, N, C = x.shape
        k, v = self.project(x, "key"), self.project(x, "value")
        stats = AttentionStats()
        if self.ssa is not None and self.training:
            stats.loss = self.ssa(self.products(self.project(x, "query"), k).softmax(dim=-1))
        bias = self.positions() if self.positions is not None else None
        with_matrices = "matrices" in wants
        if layout.query_mask is None:
            context, stats.pruned, stats.matrices = self.attend(
                self.project(x, "query"), k, v, bias=bias, with_matrices=with_matrices
            )
            return self.dropout(self.proj(context.transpose(1, 2).flatten(2))), stats
        query_rows = layout.query_mask.flatten().nonzero().squeeze(1)
        counts = layout.query_mask.sum(dim=1).tolist()
        queries = self.project(x.flatten(0, 1).index_select(0, query_rows).unsqueeze(0), "query").split(counts, dim=2)
        places = (query_rows % N).split(counts)
        contexts, pruned, matrices = [], [], []
        for number, (q, rows) in enumerate(zip(queries, places, strict=True)):
            image = slice(number, number + 1)
            row_bias = bias.index_select(1, rows) if bias is not None else None
            context, share, pair = self.attend(q, k[image], v[image], bias=row_bias, with_matrices=with_matrices)
            contexts.append(context)
            pruned.append(share)
            matrices.append(pair)
        update = self.dropout(self.proj(torch.cat(contexts, dim=2).transpose(1, 2).flatten(2).squeeze(0)))
        if bias is not None and not len(query_rows):
            # without any query the positions get no gradient, and data-parallel training would wait for one
            update = update + 0.0 * bias.sum()
        update = update.new_zeros(B * N, C).index_copy(0, query_rows, update).reshape(B, N, C)
        if self.dependencies is not None:
            stats.pruned = torch.cat([share for share in pruned if share is not None])
        if with_matrices:
            stats.matrices = self.full_matrices(matrices, places, num_tokens=N)
        return update, stats

    def project(self, x: Tensor, role: str) -> Tensor:
        """x (B, L, C) -> queries, keys or values (B, H, L, D), as `role` is query, key or value."""
        start = ("query", "key", "value").index(role) * self.inner
        part = slice(start, start + self.inner)
        bias = self.qkv.bias[part] if self.qkv.bias is not None else None
        return F.linear(x, self.qkv.weight[part], bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def products(self, q: Tensor, k: Tensor) -> Tensor:
        """Scaled products of q (B, H, n, D) and k (B, H, N, D): (B, H, n, N), in float32 or float64."""
        # scaled before the product, which could overflow in fp16
        products = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        return products.to(torch.promote_types(products.dtype, torch.float32))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None, with_matrices: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
        """q (B, H, n, D), k and v (B, H, N, D), bias (H, n, N) -> context (B, H, n, D), pruned (B,), matrices."""
        if self.dependencies is None and not with_matrices:
            mask = bias.to(q.dtype).unsqueeze(0) if bias is not None else None
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), None, None
        products = self.products(q, k)
        before = (products + bias if bias is not None else products).softmax(dim=-1)
        after, share = (before, None) if self.dependencies is None else self.dependencies(q, before)
        return after.to(v.dtype) @ v, share, (before, after) if with_matrices else None

    def full_matrices(
        self, pairs: list[tuple[Tensor, Tensor] | None], places: tuple[Tensor, ...], *, num_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Puts the rows (1, H, n, N) of each image at their places in (B, H, N, N): the matrices before and after."""
        matrices = []
        for which in (0, 1):
            images = []
            for pair, rows in zip(pairs, places, strict=True):
                assert pair is not None
                canvas = pair[which].new_zeros(self.num_heads, num_tokens, num_tokens)
                images.append(canvas.index_copy(1, rows, pair[which].squeeze(0)))
            matrices.append(torch.stack(images))
        return matrices[0], matrices[1]
