"""How important each head of attention is for each token: figure 3 of the AS-ViT paper.

Letters: B batch, C channels, L sequence length, H heads, S spatial size.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sct.errors import UserError
from sct.models.base import Encoder
from sct.models.blocks.layers import Attention, Layout
from sct.models.encoder import ViTEncoder
from sct.models.grid import pruning_depth
from sct.plots.planes import View, edges, grey, outline, show
from sct.plots.style import COLORS, WIDTH, caption, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# heads in a line of the figure
IN_A_LINE = 6


@dataclass(frozen=True)
class HeadRow:
    """One case in one block. importance (H, *grid): shares of the heads, which sum to 1; nan for pruned patches."""

    name: str
    where: View
    truth: np.ndarray
    importance: np.ndarray


@torch.no_grad()
def head_importance(encoder: Encoder, image: Tensor, *, layer: int) -> np.ndarray:
    """`HeadRow.importance` of block `layer`, from 1, of an encoder in evaluation mode on an image (1, C, *S).

    The share of head h for token i is the norm of its context vector over the sum of the norms of all heads: equations
    5 and 6 of the paper.
    """
    blocks = list(encoder.blocks) if isinstance(encoder, ViTEncoder) else []
    if not blocks or not all(isinstance(block.attn, Attention) for block in blocks):
        raise UserError("This network has no plain attention. Give a run of encoder=asvit, or of another plain ViT.")
    if not 1 <= layer <= len(blocks):
        raise UserError(f"--layers {layer}: this network has blocks 1 to {len(blocks)}.")
    attention = blocks[layer - 1].attn
    calls: list[tuple[Tensor, Layout]] = []
    hook = attention.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    encoded = encoder(image)
    hook.remove()
    x, layout = calls[0]
    norms = attention(x, layout, wants=("head_norms", "float32"))[1].head_norms[0]
    shares = norms / norms.sum(dim=1, keepdim=True)
    alive = alive_before(encoder, pruning_depth(encoded)[0], layer=layer).flatten()
    start = encoder.spec.num_prefix
    # tokens without a place (fused, mean) come last
    placed = shares[start : start + int(alive.sum())]
    importance = torch.full((shares.shape[1], len(alive)), torch.nan, device=shares.device)
    importance[:, alive] = placed.T
    return importance.reshape(-1, *encoder.spec.grid).cpu().numpy()


def alive_before(encoder: Encoder, depth: Tensor, *, layer: int) -> Tensor:
    """Which patches the attention of block `layer` sees, of the number of stages that each survives (*grid): bool.

    A block that prunes sees all tokens that the blocks before it left.
    """
    reducer = encoder.reducer
    if reducer is None or (reducer.reenter_before is not None and layer >= reducer.reenter_before):
        return torch.ones_like(depth, dtype=torch.bool)
    return depth >= bisect_left(reducer.blocks, layer)


@styled
def draw_heads(rows: Sequence[HeadRow], *, title: str, about: str) -> "Figure":
    """Draws, for each row, the image and the importance of each head over it; brighter is more important."""
    num_heads = len(rows[0].importance)
    columns = min(num_heads, IN_A_LINE)
    per_row = -(-num_heads // columns)
    heights = [row.where.height for row in rows for _ in range(per_row)]
    figure = new_figure((WIDTH - 0.6) / (columns + 1) * sum(heights) + 0.25 * len(heights) + 0.9)
    figure.suptitle(title)
    grid = figure.subplots(len(heights), columns + 1, squeeze=False, height_ratios=heights)
    high = max(float(np.nanmax(row.importance)) for row in rows)
    for line in grid:
        for axes in line:
            axes.set_axis_off()
    for number, row in enumerate(rows):
        lines = grid[number * per_row : (number + 1) * per_row]
        first = lines[0, 0]
        first.set_axis_on()
        show(first, row.where.picture, aspect=row.where.aspect)
        outline(first, row.where.of(row.truth) > 0)
        first.set_ylabel(row.name + (f"\n{row.where.note}" if row.where.note else ""))
        for head, axes in enumerate(lines[:, 1:].flat[:num_heads]):
            axes.set_axis_on()
            show(axes, grey(row.where.picture), aspect=row.where.aspect)
            drawn = axes.imshow(
                np.ma.masked_invalid(row.where.of(row.importance[head])), extent=edges(row.where.picture.shape),
                aspect=row.where.aspect, interpolation="none", cmap=COLORS, vmin=0, vmax=high, alpha=0.85,
            )  # fmt: skip
            axes.set_title(f"head {head + 1}")
    bar = figure.colorbar(drawn, ax=grid, location="bottom", shrink=0.4, aspect=40, pad=0.01)
    bar.set_label(f"share of the head in the token's score (even: {1 / num_heads:.2f})")
    caption(figure, about)
    return figure
