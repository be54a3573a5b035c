"""Completion without parameters of its own beyond norms: every token back to its place.

Letters: B batch, N tokens of the grid, C width.
"""

import torch

from sct.models.completion.base import Completion, SourceNorms
from sct.models.tokens import Dense, Encoded, FeatureSpec, scatter_tokens


class Scatter(Completion):
    """Puts final and dropped tokens back to their places in the grid; nothing is computed in between.

    For a dense encoder this is the identity, and its taps pass through: the dense baseline.
    """

    def __init__(self, *, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec
        self.norms = SourceNorms(dim=spec.dim, num_stages=spec.num_stages)

    def forward(self, encoded: Encoded) -> Dense:
        """Sparse tokens -> Dense with x (B, N, C) and the encoder's taps."""
        x = torch.cat(self.norms(encoded), dim=1)
        index = torch.cat([tokens.index for tokens in (*encoded.dropped, encoded.final)], dim=1)
        x = scatter_tokens(torch.empty_like(x), x, index)
        return Dense(encoded.grid, x, encoded.taps, encoded.pyramid)
