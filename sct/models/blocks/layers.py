"""Building blocks of a plain vision transformer.

Letters: B batch, L sequence length (prefix and patch tokens), C width, H heads, D head width.
"""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.attention import first_row, first_tokens, fused_attention, masked_attention, packed_attention
from sct.models.blocks.mlp import Activation, Mlp, make_layer_scale
from sct.models.blocks.rotary import rotated
from sct.runtime.precision import at_least_float32, full_precision


@dataclass(frozen=True)
class Layout:
    """Masks, biases, places and packing of the tokens (B, L) of a sequence in a block.

    lengths: where images keep different numbers of tokens, their sequences are packed one after another in a batch of
    one; `lengths` has the length of each sequence, and L is the sum.
    seen (B, L): a token with 0 is seen only by itself.
    active (B, L): factor of the MLP's update of a token.
    key_bias (B, L): added to the logits of a token as key.
    query_mask (B, L) bool: a token with false is no query, so attention does not update it; only `AdaptiveAttention`
    uses it.
    rotation (B, L, D): cosines and sines by which queries and keys are rotated, see `rotary_table`.
    """

    lengths: tuple[int, ...] | None = None
    seen: Tensor | None = None
    active: Tensor | None = None
    key_bias: Tensor | None = None
    query_mask: Tensor | None = None
    rotation: Tensor | None = None


FULL = Layout()


class DropPath(nn.Module):
    """Stochastic depth: in training, drops the residual branch of a sample with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, *, lengths: tuple[int, ...] | None = None) -> Tensor:
        """x (B, L, C) -> (B, L, C), kept samples scaled by 1 / (1 - rate)."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        noise = torch.rand(len(lengths or x), 1, 1, device=x.device, dtype=x.dtype)
        if lengths is not None:
            noise = noise.repeat_interleave(torch.tensor(lengths, device=x.device), dim=0).transpose(0, 1)
        return x * (noise < keep).to(x.dtype) / keep


class Scheduled(nn.Module):
    """A module with a schedule: `progress` is the share of the training that is done.

    `Segmenter.set_progress` sets it before every step. The default of 1 is the end of every schedule.
    """

    progress: float = 1.0


@dataclass
class AttentionStats:
    """Statistics of attention; None where they were not requested, or where this attention does not have them.

    Of each token of the sequence, for pruning rules, in float32 (or float64) whatever the network computes in:
    - class_row (B, L, H): attention of the first (class) token to all tokens, computed from one query row
    - head_norms (B, L, H): norm of the context vector of each head, before the output projection
    - keys (B, L, D): mean over heads, before a rotation, so that they tell what a token is and not where
    Of attention that prunes its matrix (`AdaptiveAttention`):
    - loss: its weighted loss term
    - pruned (B,): share of the entries of the attention matrix that are pruned
    - matrices: the attention matrix (B, H, L, L) before and after pruning; rows of tokens that are no queries are zero
    """

    class_row: Tensor | None = None
    head_norms: Tensor | None = None
    keys: Tensor | None = None
    loss: Tensor | None = None
    pruned: Tensor | None = None
    matrices: tuple[Tensor, Tensor] | None = None

    def map_tokens(self, function: Callable[[Tensor], Tensor]) -> "AttentionStats":
        """The statistics of tokens, with `function` applied to each."""
        row, norms, keys = (
            None if value is None else function(value) for value in (self.class_row, self.head_norms, self.keys)
        )
        return AttentionStats(row, norms, keys)


class Attention(nn.Module):
    """Multi-head self-attention; only methods that mask tokens in training compute the whole attention matrix.

    inner_norm: a LayerNorm of the context vectors of all heads together, before the output projection, as in EVA-02.
    """

    def __init__(
        self, dim: int, *, num_heads: int, qkv_bias: bool = True, inner_norm: bool = False, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise UserError(f"encoder width dim={dim} is not divisible by num_heads={num_heads}; change one of them.")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if inner_norm else nn.Identity()

    def forward(
        self, x: Tensor, layout: Layout = FULL, *, wants: Collection[str] = ()
    ) -> tuple[Tensor, AttentionStats]:
        """x (B, L, C) -> (B, L, C), and the fields of `AttentionStats` named in `wants`.

        With "float32" in `wants`, mixed precision is off up to the context vectors, so that their norms are exact.
        """
        B, L, C = x.shape
        is_exact = "float32" in wants
        with full_precision(x.device.type) if is_exact else nullcontext():
            qkv = self.qkv(at_least_float32(x) if is_exact else x)
            q, k, v = qkv.reshape(B, L, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
            content = k
            if layout.rotation is not None:
                q, k = rotated(q, layout.rotation), rotated(k, layout.rotation)
            context = self.context(q, k, v, layout)
        stats, bias = AttentionStats(), layout.key_bias
        if "class_row" in wants:
            first, keys = self.exact_first(x, layout) if is_half(q) else self.first(q, k, layout.lengths)
            row = first_row(first, keys, mask=layout.seen, lengths=layout.lengths, bias=bias)
            stats.class_row = row.transpose(1, 2)
        if "head_norms" in wants:
            stats.head_norms = at_least_float32(context).norm(dim=-1).transpose(1, 2)
        if "keys" in wants:
            stats.keys = self.exact_keys(x) if is_half(content) else content.mean(dim=1)
        return self.proj(self.norm(context.transpose(1, 2).reshape(B, L, C))), stats

    def context(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """Context vectors (B, H, L, D) of q, k, v (B, H, L, D)."""
        if layout.lengths is not None:
            return packed_attention(q, k, v, lengths=layout.lengths, bias=layout.key_bias)
        if layout.seen is not None:
            return masked_attention(q, k, v, mask=layout.seen, bias=layout.key_bias)
        return fused_attention(q, k, v, bias=layout.key_bias)

    def first(self, q: Tensor, k: Tensor, lengths: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
        """Scaled first query of every image (B, H, 1, D), from q and k (B, H, L, D) or packed, and the keys."""
        rows = first_tokens(q.transpose(1, 2).flatten(2), lengths).unflatten(2, (self.num_heads, -1))
        return rows.transpose(1, 2) * q.shape[-1] ** -0.5, k

    def exact_first(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """`first` in float32 from x (B, L, C) or packed, where q and k were rounded to half precision.

        The projection to keys is applied to the one query instead of to all tokens, so the tokens themselves (B, 1, L,
        C) are the keys of queries (B, H, 1, C). The keys' bias adds the same to all logits of a head; it is left out.
        With a rotation neither is possible, so all keys are computed. The first token has no place and is not rotated.
        """
        C = x.shape[-1]
        with full_precision(x.device.type):
            weight = at_least_float32(self.qkv.weight)
            bias = None if self.qkv.bias is None else at_least_float32(self.qkv.bias)
            x = at_least_float32(x)
            rows = F.linear(first_tokens(x, layout.lengths), weight[:C], None if bias is None else bias[:C])
            q = rows.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            q = q * q.shape[-1] ** -0.5
            if layout.rotation is None:
                return q @ weight[C : 2 * C].unflatten(0, (self.num_heads, -1)), x.unsqueeze(1)
            keys = F.linear(x, weight[C : 2 * C], None if bias is None else bias[C : 2 * C])
            return q, rotated(keys.unflatten(2, (self.num_heads, -1)).transpose(1, 2), layout.rotation)

    def exact_keys(self, x: Tensor) -> Tensor:
        """Mean of the keys over heads (B, L, D) in float32 from x (B, L, C), where k was rounded to half precision."""
        keys = slice(x.shape[-1], 2 * x.shape[-1])
        with full_precision(x.device.type):
            weight = at_least_float32(self.qkv.weight[keys]).unflatten(0, (self.num_heads, -1)).mean(dim=0)
            bias = self.qkv.bias
            mean = None if bias is None else at_least_float32(bias[keys]).unflatten(0, (self.num_heads, -1)).mean(dim=0)
            return F.linear(at_least_float32(x), weight, mean)


def is_half(x: Tensor) -> bool:
    """Whether x is in a 16-bit format."""
    return x.dtype.itemsize == 2


class Block(nn.Module):
    """Pre-norm transformer block in two halves, so that a reducer can prune between them.

    activation, mlp_norm: of the MLP, see `Mlp`.
    layer_scale: initial factor of both residual branches, which is learned for each channel; None: no factors.
    attention_norm: a norm after attention, see `Attention`.
    attention: replaces plain `Attention`; it must have the same forward.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        activation: Activation = "gelu",
        mlp_norm: bool = False,
        layer_scale: float | None = None,
        attention_norm: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attention or Attention(
            dim, num_heads=num_heads, qkv_bias=qkv_bias, inner_norm=attention_norm, norm_eps=norm_eps
        )
        self.scale1 = make_layer_scale(dim, value=layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        hidden = int(dim * mlp_ratio)
        self.mlp = Mlp(dim, hidden=hidden, activation=activation, dropout=dropout, norm=mlp_norm, norm_eps=norm_eps)
        self.scale2 = make_layer_scale(dim, value=layer_scale)
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Tensor, layout: Layout = FULL, *, wants: Collection[str] = ()) -> tuple[Tensor, AttentionStats]:
        """Attention half: x (B, L, C) -> (B, L, C), and the fields of `AttentionStats` named in `wants`."""
        update, stats = self.attn(self.norm1(x), layout, wants=wants)
        update = self.scale1(update)
        return x + self.drop_path(update, lengths=layout.lengths), stats

    def feed(self, x: Tensor, layout: Layout = FULL) -> Tensor:
        """MLP half: x (B, L, C) -> (B, L, C)."""
        update = self.scale2(self.mlp(self.norm2(x)))
        if layout.active is not None:
            update = update * layout.active.unsqueeze(-1).to(update.dtype)
        return x + self.drop_path(update, lengths=layout.lengths)

    def forward(self, x: Tensor, layout: Layout = FULL) -> Tensor:
        """Both halves: x (B, L, C) -> (B, L, C)."""
        return self.feed(self.attend(x, layout)[0], layout)


def init_weights(module: nn.Module, *, std: float = 0.02) -> None:
    """Truncated normal weights and zero biases for linear layers; other layers are unchanged. For `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def shrink_branches(blocks: Sequence[Block]) -> None:
    """Divides the last weights of both branches of block i (from 1) by sqrt(2 i), as EVA-02 and BEiT start."""
    for number, block in enumerate(blocks, start=1):
        for layer in (block.attn.proj, block.mlp.fc2):
            assert isinstance(layer, nn.Linear)
            layer.weight.div_(math.sqrt(2 * number))


def sincos_positions(grid: tuple[int, ...], dim: int) -> Tensor:
    """Fixed sine-cosine positions of a 2-D or 3-D grid: (N, dim).

    The width is split evenly over the axes, half of each part for sines and half for cosines (dim 768 in 3-D: 6 x 128).
    Remaining channels are zero.
    """
    half = dim // (2 * len(grid))
    omega = 1.0 / 10000 ** (torch.arange(half, dtype=torch.float64) / half)
    places = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    angles = [place.reshape(-1, 1) * omega for place in places]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return F.pad(table, (0, dim - table.shape[1])).float()
