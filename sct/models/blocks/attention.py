"""Attention over plain, masked and packed sequences.

Letters: B batch, H heads, L sequence length, Q queries, n tokens, D head width. A packed sequence has the images one
after another in a batch of one; `lengths` has the length of each image, and L (or T) is the sum.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.models.blocks.recompute import recomputed
from sct.runtime.precision import full_precision
from sct.runtime.processor import has_tiles, infers_here

# avoids division by zero in rows without visible keys; the authors' 1e-6 changes the weights by as much as 1e-6
EPS = 1e-8
# number of tokens from which bf16 products are faster on processors; number of queries at a time, whose weights fit
# into the cache
LONG, ROWS = 512, 512


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """q, k, v (B, H, L, D) -> context (B, H, L, D), by the fused kernel or, if faster, `attention_by_head`.

    bias (B, L) is added to the logits of the keys.
    """
    if suits_processor(q):
        return attention_by_head(q, k, v, bias=bias)
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=key_bias(bias, q))


def key_bias(bias: Tensor, logits: Tensor) -> Tensor:
    """bias (B, L) of keys as (B, 1, 1, L), in the dtype of the logits (B, H, Q, L) that get it."""
    return bias[:, None, None, :].to(logits.dtype)


def suits_processor(q: Tensor) -> bool:
    """Whether `attention_by_head` is faster: long sequences in bf16 on a processor without tiles, without gradients.

    Its time for 1729 tokens and 6 heads, relative to the fused kernel, on processors with instructions for bf16:

    | processor | time |
    |---|---|
    | without tiles | 0.6 |
    | with tiles (AMX), which the fused kernel uses | 2 |
    """
    return q.dtype == torch.bfloat16 and q.shape[-2] >= LONG and infers_here(q) and not has_tiles()


def attention_by_head(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """`fused_attention` as matrix products, for one head and `ROWS` queries at a time.

    On processors without tiles the fused kernel is not faster in bf16 than in float32 (torch 2.13), but these products
    are. They round the attention logits to bf16; the context is rounded in both.
    """
    B, H, L, D = q.shape
    # memory layout as of the fused kernel: all heads of a token are adjacent
    context = q.new_empty(B, L, H, D).transpose(1, 2)
    for image, head in itertools.product(range(B), range(H)):
        queries, values, out = q[image, head], v[image, head], context[image, head]
        keys = (k[image, head] * D**-0.5).transpose(0, 1)
        for start in range(0, L, ROWS):
            rows = slice(start, start + ROWS)
            logits = queries[rows] @ keys
            if bias is not None:
                logits += bias[image].to(logits.dtype)
            out[rows] = logits.softmax(dim=-1) @ values
    return context


def masked_attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention in which a token of mask 0 is seen only by itself; q, k, v (B, H, L, D), mask and bias (B, L).

    DynamicViT's policy softmax: exp(a - max a) is multiplied by the key's mask (by 1 on the diagonal) and normalised,
    with a small constant for empty rows. Tokens of mask 0 get a gradient of the mask, too. No fused kernel gives it, so
    the attention matrix is computed, and computed again in the backward pass instead of being kept.
    """
    return recomputed(policy_attention, q, k, v, mask, bias)


def policy_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    L = q.shape[-2]
    logits = (q @ k.transpose(-2, -1)).float() if q.dtype != torch.float64 else q @ k.transpose(-2, -1)
    logits = logits * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + key_bias(bias, logits)
    seen = mask[:, None, None, :].to(logits.dtype)
    identity = torch.eye(L, dtype=logits.dtype, device=logits.device)
    weights = (logits - logits.amax(dim=-1, keepdim=True).detach()).exp() * (seen + (1 - seen) * identity)
    weights = (weights + EPS / L) / (weights.sum(dim=-1, keepdim=True) + EPS)
    return weights.to(v.dtype) @ v


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, *, lengths: tuple[int, ...], bias: Tensor | None = None
) -> Tensor:
    """Attention within each image of a packed sequence; q, k, v (1, H, L, D), bias (1, L) of keys -> (1, H, L, D).

    There is one fused call for each image, so an image's result does not depend on its batch, and time depends on its
    number of tokens. On CUDA in half precision one variable-length kernel computes all images; it needs a head width
    divisible by 8, and takes no bias.
    """
    if bias is not None:
        qkv_parts = (x.split(lengths, dim=2) for x in (q, k, v))
        parts = zip(*qkv_parts, bias.split(lengths, dim=1), strict=True)
        return torch.cat([fused_attention(*qkv, bias=image_bias) for *qkv, image_bias in parts], dim=2)
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0:
        return variable_length_attention(q, k, v, lengths=lengths)
    parts = zip(q.split(lengths, dim=2), k.split(lengths, dim=2), v.split(lengths, dim=2), strict=True)
    return torch.cat([fused_attention(*part) for part in parts], dim=2)


def variable_length_attention(q: Tensor, k: Tensor, v: Tensor, *, lengths: tuple[int, ...]) -> Tensor:
    """`packed_attention` in one kernel, which gets the borders of the images; CUDA, half precision."""
    # imported here: it loads torch's compiler, which takes more than a second
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (q, k, v))
    borders = torch.tensor((0, *lengths), device=q.device).cumsum(0, dtype=torch.int32)
    context = varlen_attn(q, k, v, borders, borders, max(lengths), max(lengths))
    assert isinstance(context, Tensor)
    return context.transpose(0, 1).unsqueeze(0)


def first_row(
    q: Tensor, k: Tensor, *, mask: Tensor | None, lengths: tuple[int, ...] | None, bias: Tensor | None = None
) -> Tensor:
    """Attention weights of the first query of every image to its tokens, computed without mixed precision.

    q (B, H, 1, D): that query, scaled; keys k (B, H, L, D), or packed (1, H, L, D), or the same of all heads
    (B, 1, L, D), both in float32 or float64; mask and bias (B, L) of the keys -> (B, H, L). A token of mask 0 gets
    exactly 0; the mask gets a gradient, as in `masked_attention`.
    """
    if lengths is not None:
        biases = [None] * len(lengths) if bias is None else bias.split(lengths, dim=1)
        parts = zip(q.split(1), k.split(lengths, dim=2), biases, strict=True)
        rows = [first_row(query, key, mask=None, lengths=None, bias=image_bias) for query, key, image_bias in parts]
        return torch.cat(rows, dim=2)
    with full_precision(q.device.type):
        logits = (q @ k.transpose(-2, -1)).squeeze(2)
    if bias is not None:
        logits = logits + bias.unsqueeze(1).to(logits.dtype)
    if mask is None:
        return logits.softmax(dim=-1)
    weights = (logits - logits.amax(dim=-1, keepdim=True).detach()).exp() * mask.unsqueeze(1).to(logits.dtype)
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def first_tokens(x: Tensor, lengths: tuple[int, ...] | None) -> Tensor:
    """The first token of every image: (B, 1, C) of x (B, L, C), or of a packed x (1, L, C)."""
    return x[:, :1] if lengths is None else torch.cat([part[:, :1] for part in x.split(lengths, dim=1)])


def cross_attention(q: Tensor, k: Tensor, v: Tensor, *, lengths: tuple[int, ...] | None) -> Tensor:
    """Attention of q (B, H, Q, D) to the tokens k, v of the same image, (B, H, n, D) or packed (1, H, T, D).

    Returns (B, H, Q, D). For an image without tokens the result is zero.
    """
    if lengths is None:
        return fused_attention(q, k, v)
    parts = zip(q.split(1), k.split(lengths, dim=2), v.split(lengths, dim=2), strict=True)
    return torch.cat([fused_attention(*part) for part in parts])


def mean_products(q: Tensor, k: Tensor, *, lengths: tuple[int, ...] | None) -> Tensor:
    """Mean over heads of the scaled query-key products, with one row for each key.

    q (B, H, Q, D), k (B, H, n, D) or packed (1, H, T, D) -> (B, n, Q) or (1, T, Q). The mean over heads equals one
    product over the channels of all heads, so no products of single heads are computed.
    """
    H, D = q.shape[1], q.shape[3]
    queries = q.transpose(1, 2).flatten(2).transpose(1, 2) * (D**-0.5 / H)
    keys = k.transpose(1, 2).flatten(2)
    if lengths is None:
        return keys @ queries
    parts = zip(keys.split(lengths, dim=1), queries.split(1), strict=True)
    return torch.cat([image_keys @ image_queries for image_keys, image_queries in parts], dim=1)
