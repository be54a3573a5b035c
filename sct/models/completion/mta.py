"""Multi-layer Token Assembly (MTA), from "Sparse Tokens for Dense Prediction", section 3.3.

Letters: B batch, N tokens of the grid, P prefix tokens, C encoder width, D completion width.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from sct.models.blocks.layers import Block, init_weights, sincos_positions
from sct.models.blocks.recompute import recomputed
from sct.models.completion.base import Completion, SourceNorms
from sct.models.grid import assemble, pruning_depth
from sct.models.tokens import Dense, Encoded, FeatureSpec


class MTA(Completion):
    """Assembles final and dropped tokens on the grid and lets them meet in transformer blocks (equation 3).

    Every source passes its own LayerNorm and Linear(C, D) and is marked by its block token; then fixed
    sin-cos positions, `depth` blocks, LayerNorm, Linear(D, C). The class token takes part and is dropped.
    The paper marks the three dropped sets; `final_block_token=true` marks the final set too, as the authors'
    program does. `dim` and `num_heads` default to the encoder's. `recompute` forgets what the blocks keep for the
    backward pass and computes it again: 80 MB less at the peak of training ViT-B on 96^3, for 5 % of its MACs.

    dim: width of the blocks; null: the encoder's
    depth: number of transformer blocks
    num_heads: heads of attention; null: the encoder's
    final_block_token: mark the final tokens with a block token too, as the authors' program does
    recompute: less memory in training, for a second forward pass of the blocks
    """

    no_weight_decay = ("block_tokens",)

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        dim: int | None = None,
        depth: int = 1,
        num_heads: int | None = None,
        final_block_token: bool = False,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        dim = dim or spec.dim
        self.spec = replace(spec, num_taps=0)
        self.norms = SourceNorms(dim=spec.dim, num_dropped=spec.num_dropped)
        self.project = nn.ModuleList(nn.Linear(spec.dim, dim) for _ in range(spec.num_dropped + 1))
        num_marked = spec.num_dropped + int(final_block_token)
        self.block_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, dim)) for _ in range(num_marked))
        self.position = fixed_positions(spec, dim=dim)
        self.recompute = recompute
        self.blocks = nn.Sequential(*(Block(dim, num_heads=num_heads or spec.num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.restore = nn.Linear(dim, spec.dim)
        self.apply(init_weights)

    def forward(self, encoded: Encoded) -> Dense:
        """Sparse tokens -> Dense with x (B, N, C)."""
        sources = [project(x) for project, x in zip(self.project, self.norms(encoded), strict=True)]
        for i, token in enumerate(self.block_tokens):
            sources[i] = sources[i] + token
        x = assemble(sources, encoded.sets, num_tokens=self.spec.num_tokens)
        x = torch.cat([self.project[-1](encoded.prefix), x], dim=1) + self.position
        x = self.restore(self.norm(self.mix(x)))
        return Dense(
            encoded.grid,
            x[:, encoded.prefix.shape[1] :],
            pyramid=encoded.pyramid,
            depth=pruning_depth(encoded).flatten(1),
        )

    def mix(self, x: Tensor) -> Tensor:
        """The blocks, on the whole sequence (B, P + N, D)."""
        if self.training and self.recompute:
            return recomputed(self.blocks, x)
        return self.blocks(x)


def fixed_positions(spec: FeatureSpec, *, dim: int) -> Tensor:
    """Frozen sin-cos positions (1, P + N, D), zero for the prefix."""
    table = sincos_positions(spec.grid, dim)
    table = torch.cat([torch.zeros(spec.num_prefix, dim), table]).unsqueeze(0)
    # a frozen parameter, not a buffer: the published parameter counts contain it
    return nn.Parameter(table, requires_grad=False)
