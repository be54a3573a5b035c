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
    """Assembles final and dropped tokens on the grid, then applies transformer blocks to all of them (equation 3).

    Each source (the dropped set of a stage, or the final set) has a LayerNorm and a Linear(C, D), and a learned block
    token is added to its tokens. Norms and linear layers of the sources are those of the authors' program; equation 3
    has none. Then follow fixed sin-cos positions, `depth` blocks, LayerNorm and Linear(D, C). The
    class token passes the blocks and is removed after them. In the paper the three dropped sets have block tokens;
    `final_block_token=true` adds one for the final set, as in the authors' program.
    `recompute` computes the activations of the blocks again in the backward pass instead of keeping them: 80 MB less at
    the peak of training ViT-B on 96^3, for 5 % of its MACs.

    dim: width of the blocks; null: the encoder's width
    depth: number of transformer blocks
    num_heads: number of attention heads; null: the encoder's number
    final_block_token: whether the final set has a block token too, as in the authors' program
    recompute: compute the blocks' activations again in the backward pass: less memory, more time in training
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
    """Frozen sin-cos positions (1, P + N, D); zero for the prefix."""
    table = sincos_positions(spec.grid, dim)
    table = torch.cat([torch.zeros(spec.num_prefix, dim), table]).unsqueeze(0)
    # a frozen parameter, not a buffer: the published numbers of parameters include it
    return nn.Parameter(table, requires_grad=False)
