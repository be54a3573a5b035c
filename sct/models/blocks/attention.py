"""Attention over whole, masked and packed sequences: the one place where ragged sets meet a kernel.

Letters: B batch, H heads, L sequence length, Q queries, n tokens, D head width. A packed sequence has the images
one after another in a batch of one; `lengths` are theirs and L (or T) is the sum.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.models.blocks.recompute import recomputed
from sct.runtime.processor import has_tiles, infers_here

# against rows that see nothing; the authors' 1e-6 moves the weights by as much
EPS = 1e-8
# tokens from which products in bf16 pay on processors, and queries at once: their weights stay in the cache
LONG, ROWS = 512, 512


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """q, k, v (B, H, L, D) -> context (B, H, L, D) on the fused kernel, or on what is faster where we know better.

    bias (B, L) is added to the logits of every key.
    """
    if suits_processor(q):
        return attention_by_head(q, k, v, bias=bias)
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=for_keys(bias, q))


def for_keys(bias: Tensor, logits: Tensor) -> Tensor:
    """bias (B, L) of the keys in the type of logits (B, H, Q, L), and for all their heads and queries: (B, 1, 1, L)."""
    return bias[:, None, None, :].to(logits.dtype)


def suits_processor(q: Tensor) -> bool:
    """Whether `attention_by_head` is the faster one: long sequences in bf16 on a processor, without gradients.

    Of 1729 tokens and 6 heads it took 0.6 of the fused kernel's time where the processor has bf16 without tiles, and
    twice its time where it has tiles (AMX), which the fused kernel knows.
    """
    return q.dtype == torch.bfloat16 and q.shape[-2] >= LONG and infers_here(q) and not has_tiles()


def attention_by_head(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """`fused_attention` as plain products, head by head and `ROWS` queries at a time.

    Without tiles, the fused kernel of processors is no faster in bf16 than in float32 (torch 2.13); these products
    are. Their scores are rounded to bf16, as the context is in both.
    """
    B, H, L, D = q.shape
    # in memory as the fused kernel leaves it: heads of a token side by side
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
    """Attention in which a token of mask 0 is seen by none but itself; q, k, v (B, H, L, D), mask and bias (B, L).

    DynamicViT's policy softmax: exp(a - max a) is multiplied by the key's mask (by 1 on the diagonal) and
    normalised with a guard against empty rows. The mask's gradient also reaches tokens of mask 0, which no
    fused kernel gives, so the matrix is formed, and formed again in the backward pass instead of being kept.
    """
    return recomputed(policy_attention, q, k, v, mask, bias)


def policy_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    L = q.shape[-2]
    logits = (q @ k.transpose(-2, -1)).float() if q.dtype != torch.float64 else q @ k.transpose(-2, -1)
    logits = logits * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + for_keys(bias, logits)
    seen = mask[:, None, None, :].to(logits.dtype)
    identity = torch.eye(L, dtype=logits.dtype, device=logits.device)
    weights = (logits - logits.amax(dim=-1, keepdim=True).detach()).exp() * (seen + (1 - seen) * identity)
    weights = (weights + EPS / L) / (weights.sum(dim=-1, keepdim=True) + EPS)
    return weights.to(v.dtype) @ v


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, *, lengths: tuple[int, ...], bias: Tensor | None = None
) -> Tensor:
    """Every image attends to itself alone; q, k, v (1, H, L, D), bias (1, L) of the keys -> (1, H, L, D).

    One fused call an image: an image's result is the same alone and in any batch, and time follows its tokens.
    On CUDA in half precision all images go into one variable-length kernel, which takes head widths of whole eights
    and no bias.
    """
    if bias is not None:
        pieces = (x.split(lengths, dim=2) for x in (q, k, v))
        parts = zip(*pieces, bias.split(lengths, dim=1), strict=True)
        return torch.cat([fused_attention(*qkv, bias=own) for *qkv, own in parts], dim=2)
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0:
        return variable_length_attention(q, k, v, lengths=lengths)
    parts = zip(q.split(lengths, dim=2), k.split(lengths, dim=2), v.split(lengths, dim=2), strict=True)
    return torch.cat([fused_attention(*part) for part in parts], dim=2)


def variable_length_attention(q: Tensor, k: Tensor, v: Tensor, *, lengths: tuple[int, ...]) -> Tensor:
    """`packed_attention` in one kernel that knows the images' borders; CUDA, half precision."""
    # brings torch's compiler with it, more than a second that no other network should wait for
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (q, k, v))
    borders = torch.tensor((0, *lengths), device=q.device).cumsum(0, dtype=torch.int32)
    context = varlen_attn(q, k, v, borders, borders, max(lengths), max(lengths))
    assert isinstance(context, Tensor)
    return context.transpose(0, 1).unsqueeze(0)


def first_row(
    q: Tensor, k: Tensor, *, mask: Tensor | None, lengths: tuple[int, ...] | None, bias: Tensor | None = None
) -> Tensor:
    """Attention weights (B, H, L) of the first query of every sequence over its own tokens of mask 1; bias (B, L)."""
    if lengths is not None:
        biases = [None] * len(lengths) if bias is None else bias.split(lengths, dim=1)
        parts = zip(q.split(lengths, dim=2), k.split(lengths, dim=2), biases, strict=True)
        rows = [first_row(query, key, mask=None, lengths=None, bias=own) for query, key, own in parts]
        return torch.cat(rows, dim=2)
    logits = (q[:, :, :1] @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).squeeze(2)
    if bias is not None:
        logits = logits + bias.unsqueeze(1).to(logits.dtype)
    if mask is not None:
        logits = logits.masked_fill(mask.unsqueeze(1) < 0.5, -torch.inf)
    return logits.softmax(dim=-1)


def cross_attention(q: Tensor, k: Tensor, v: Tensor, *, lengths: tuple[int, ...] | None) -> Tensor:
    """Queries q (B, H, Q, D) read the tokens k, v (B, H, n, D) of their image, or packed (1, H, T, D): (B, H, Q, D).

    Queries of an image without a token read zeros.
    """
    if lengths is None:
        return fused_attention(q, k, v)
    parts = zip(q.split(1), k.split(lengths, dim=2), v.split(lengths, dim=2), strict=True)
    return torch.cat([fused_attention(*part) for part in parts])


def mean_products(q: Tensor, k: Tensor, *, lengths: tuple[int, ...] | None) -> Tensor:
    """Mean over heads of the scaled query-key products, in the shape of the keys' tokens.

    q (B, H, Q, D), k (B, H, n, D) or packed (1, H, T, D) -> (B, n, Q) or (1, T, Q). A mean of products over heads
    is one product over the channels of all heads, so no map a head is formed.
    """
    H, D = q.shape[1], q.shape[3]
    queries = q.transpose(1, 2).flatten(2).transpose(1, 2) * (D**-0.5 / H)
    keys = k.transpose(1, 2).flatten(2)
    if lengths is None:
        return keys @ queries
    parts = zip(keys.split(lengths, dim=1), queries.split(1), strict=True)
    return torch.cat([image @ its_queries for image, its_queries in parts], dim=1)
