"""Segmentation heads on token sets, for the end of a network (FCN, ATM) and for early exits (DToP).

Letters: B batch, n tokens of a set (T where images are packed one after another), C encoder width, d head width,
h hidden width, H heads, Q classes (or overlapping regions).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.config.parts import part
from sct.errors import UserError
from sct.models.blocks.attention import cross_attention, mean_products
from sct.models.blocks.layers import Attention
from sct.models.tokens import TokenOutput, Tokens


@part
class FCNHead(nn.Module):
    """SETR's naive head, applied to every token alone: Linear(C, h), norm, ReLU, Linear(h, Q).

    `norm="batch"` normalises over the tokens of the batch, as in the paper; `norm="layer"` is for small batches.

    hidden: channels between the two linear layers
    norm: normalisation: batch (as published) or layer (for small batches)
    """

    def __init__(
        self, dim: int, *, num_classes: int, hidden: int = 256, norm: Literal["batch", "layer"] = "batch"
    ) -> None:
        super().__init__()
        # no bias: the norm would subtract it
        self.embed = nn.Linear(dim, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden) if norm == "batch" else nn.LayerNorm(hidden)
        self.classify = nn.Linear(hidden, num_classes)

    def forward(self, tokens: Tokens) -> TokenOutput:
        """tokens (B, n, C) or packed (1, T, C) -> class logits as masks (B, n, Q) or (1, T, Q)."""
        x = self.embed(tokens.x)
        return TokenOutput(tokens, self.classify(F.relu(self.normalise(x.flatten(0, 1)).reshape(x.shape))))

    def normalise(self, x: Tensor) -> Tensor:
        """x (T, h), all tokens of the batch; a single token has no variance, so running statistics normalise it."""
        norm = self.norm
        if isinstance(norm, nn.BatchNorm1d) and norm.training and len(x) < 2:
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return norm(x)


@part
class ATMHead(nn.Module):
    """Attention-to-mask (SegViT, with DToP's changes): one learned class token for each class is the query of its mask.

    The image tokens pass Linear(C, d) and LayerNorm. In each of `num_layers` decoder layers the class tokens attend to
    each other and then to the image tokens. The masks are the scaled query-key products of the last layer, before the
    softmax, as mean over heads. Linear(d, 2) of a class token gives the logits that its class is present (index 0) or
    absent (index 1).

    width: channels of the head; null: half the encoder's width
    num_heads: number of attention heads
    num_layers: number of decoder layers, in which class tokens attend to the image tokens
    """

    no_weight_decay = ("class_tokens",)

    def __init__(
        self, dim: int, *, num_classes: int, width: int | None = None, num_heads: int = 6, num_layers: int = 3
    ) -> None:
        super().__init__()
        width = width or dim // 2
        if width % num_heads or num_layers < 1:
            raise UserError(
                f"An ATM head of width={width} with num_heads={num_heads} and num_layers={num_layers} is not possible: "
                "width (null: half the encoder's width) must be divisible by num_heads, and num_layers at least 1."
            )
        self.project = nn.Sequential(nn.Linear(dim, width), nn.LayerNorm(width))
        self.class_tokens = nn.Embedding(num_classes, width)
        self.layers = nn.ModuleList(QueryLayer(width, num_heads=num_heads) for _ in range(num_layers))
        self.classify = nn.Linear(width, 2)

    def forward(self, tokens: Tokens) -> TokenOutput:
        """tokens (B, n, C) or packed (1, T, C) -> mask logits (B, n, Q) or (1, T, Q), class logits (B, Q, 2)."""
        memory = self.project(tokens.x)
        queries = self.class_tokens.weight.expand(tokens.batch_size, -1, -1)
        for layer in self.layers:
            queries, q, k = layer(queries, memory, lengths=tokens.lengths)
        return TokenOutput(tokens, mean_products(q, k, lengths=tokens.lengths), self.classify(queries))


class QueryLayer(nn.Module):
    """Post-norm decoder layer: queries attend to each other, then to tokens; an MLP four times as wide follows."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.exchange = Attention(width, num_heads=num_heads)
        self.ask = nn.Linear(width, width)
        self.answer = nn.Linear(width, 2 * width)
        self.merge = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, queries: Tensor, memory: Tensor, *, lengths: tuple[int, ...] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """queries (B, Q, d), memory (B, n, d) or packed (1, T, d) -> queries (B, Q, d), and two inputs of attention.

        These inputs are the projected queries (B, H, Q, d / H) and keys (B, H, n, d / H) or packed (1, H, T, d / H).
        """
        queries = self.norms[0](queries + self.exchange(queries)[0])
        q = self.to_heads(self.ask(queries))
        k, v = (self.to_heads(part) for part in self.answer(memory).chunk(2, dim=-1))
        context = cross_attention(q, k, v, lengths=lengths).transpose(1, 2).flatten(2)
        queries = self.norms[1](queries + self.merge(context))
        return self.norms[2](queries + self.feed(queries)), q, k

    def to_heads(self, x: Tensor) -> Tensor:
        """x (B, L, d) -> (B, H, L, d / H)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def grade(output: TokenOutput, *, overlapping: bool = False) -> tuple[Tensor, Tensor]:
    """Confidence and class of every token, each in the shape of the set, without gradient.

    Confidence is the probability of the most probable class: softmax of the class logits, or, for a query head,
    softmax(class) x sigmoid(mask). With overlapping regions, confidence is the minimum over the regions of
    max(p, 1 - p); the class is Q where p <= 0.5 for all regions, else the last region with p > 0.5.
    """
    masks = output.masks.detach().float()
    if overlapping:
        confidence = masks.abs().amin(dim=-1).sigmoid()
        Q = masks.shape[-1]
        places = torch.arange(Q, device=masks.device)
        last = torch.where(masks > 0, places, -1).amax(dim=-1)
        return confidence, torch.where(last < 0, Q, last)
    if output.classes is None:
        probability = masks.softmax(dim=-1)
    else:
        present = output.classes.detach().float().softmax(dim=-1)[..., 0]
        probability = masks.sigmoid() * present[output.tokens.images()]
    confidence, predicted = probability.max(dim=-1)
    return confidence, predicted
