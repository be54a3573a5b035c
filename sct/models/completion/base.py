"""Base class of token completions, which fill the grid again after pruning."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from sct.config.parts import part
from sct.models.tokens import Dense, Encoded, FeatureSpec


@part
class Completion(nn.Module, ABC):
    """Restores the full grid from sparse tokens; `spec` describes its output for the decoder."""

    spec: FeatureSpec

    @abstractmethod
    def forward(self, encoded: Encoded) -> Dense:
        """Sparse tokens -> Dense with x (B, N, C)."""


class SourceNorms(nn.Module):
    """One LayerNorm for each dropped set; the encoder's last norm was already applied to the final set."""

    def __init__(self, *, dim: int, num_dropped: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(num_dropped))

    def forward(self, encoded: Encoded) -> list[Tensor]:
        """The dropped sets in order of their stage, then the final one: each (B, n_i, C)."""
        dropped = [norm(tokens.x) for norm, tokens in zip(self.norms, encoded.dropped, strict=True)]
        return [*dropped, encoded.final.x]
