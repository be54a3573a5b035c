"""Completion without parameters except norms: every token goes back to its place.

Letters: B batch, N tokens of the grid, C width.
"""

from sct.models.completion.base import Completion, SourceNorms
from sct.models.grid import assemble, pruning_depth
from sct.models.tokens import Dense, Encoded, FeatureSpec


class Scatter(Completion):
    """Puts final and dropped tokens back to their places in the grid, without computation except norms.

    For a dense encoder it is the identity and passes the encoder's taps on: the dense baseline.
    """

    def __init__(self, *, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec
        self.norms = SourceNorms(dim=spec.dim, num_dropped=spec.num_dropped)

    def forward(self, encoded: Encoded) -> Dense:
        """Sparse tokens -> Dense with x (B, N, C) and the encoder's taps."""
        x = assemble(self.norms(encoded), encoded.sets, num_tokens=self.spec.num_tokens)
        depth = pruning_depth(encoded).flatten(1)
        return Dense(encoded.grid, x, encoded.taps, encoded.pyramid, encoded.early, encoded.final, depth)
