"""The MLP of a transformer block, plain or gated, and the small layers beside it.

Letters: B batch, L sequence length, C width, h hidden channels.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["gelu", "relu", "swiglu"]
FUNCTIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "swiglu": nn.SiLU}


class Mlp(nn.Module):
    """Linear, activation, dropout, Linear, dropout.

    activation="swiglu" is a gated MLP (Shazeer, 2020): SiLU(W1 x) times W2 x, so it has a third linear layer.
    norm: a LayerNorm before the last linear layer, as in EVA-02.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        norm: bool = False,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.gated = nn.Linear(dim, hidden) if is_gated(activation) else None
        self.activation = FUNCTIONS[activation]()
        self.dropout = make_dropout(dropout)
        self.norm = nn.LayerNorm(hidden, eps=norm_eps) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, C) -> (B, L, C)."""
        hidden = self.activation(self.fc1(x))
        if self.gated is not None:
            hidden = hidden * self.gated(x)
        return self.dropout(self.fc2(self.norm(self.dropout(hidden))))


def is_gated(activation: Activation) -> bool:
    """Whether an MLP with this activation has a third linear layer, whose output is gated."""
    return activation == "swiglu"


class LayerScale(nn.Module):
    """Learned factors of the channels of a residual branch, which all start at `value` (CaiT)."""

    def __init__(self, dim: int, *, value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, C) -> (B, L, C)."""
        return x * self.scale


def make_dropout(rate: float) -> nn.Module:
    """Dropout; at rate 0 an identity, which draws no random numbers."""
    return nn.Dropout(rate) if rate else nn.Identity()


def make_layer_scale(dim: int, *, value: float | None) -> nn.Module:
    """A layer scale; without a value an identity."""
    return nn.Identity() if value is None else LayerScale(dim, value=value)
