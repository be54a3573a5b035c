"""APFormer's relative positions (GRPE) as heat maps: figure 4 of its paper.

Letters: N tokens of the grid.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sct.errors import UserError
from sct.models.adaptive.attention import AdaptiveAttention
from sct.models.base import Encoder
from sct.models.encoder import ViTEncoder
from sct.plots.attention import row_on_grid
from sct.plots.style import COLORS, MARK, WIDTH, caption, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Positions:
    """One head's relative positions: the Gaussian G and the whole of them P, both (N, N), and the head's theta.

    theta is in patches.
    """

    gaussian: np.ndarray
    whole: np.ndarray
    theta: float


@torch.no_grad()
def positions_of(encoder: Encoder, *, layer: int, head: int) -> Positions:
    """The relative positions of block `layer`, head `head` (both from 1): equations 8 and 9 of the paper."""
    blocks = list(encoder.blocks) if isinstance(encoder, ViTEncoder) else []
    modules = [block.attn.positions for block in blocks if isinstance(block.attn, AdaptiveAttention)]
    if not modules or modules[0] is None:
        raise UserError("This network has no encoder.attention.positions. Give a run such as encoder=apformer.")
    if not 1 <= layer <= len(modules):
        raise UserError(f"--layer {layer}: this network has blocks 1 to {len(modules)}.")
    module = modules[layer - 1]
    assert module is not None
    if not 1 <= head <= len(module.theta):
        raise UserError(f"--head {head}: this network has heads 1 to {len(module.theta)}.")
    gaussian, whole = module.by_pair(module.gaussian())[head - 1], module()[head - 1]
    # theta is a share of the longest axis
    theta = module.theta[head - 1].item() * max(encoder.spec.grid)
    return Positions(gaussian.cpu().numpy(), whole.cpu().numpy(), theta)


@styled
def draw_positions(
    positions: Positions, *, query: tuple[int, ...], grid: tuple[int, ...], title: str, about: str
) -> "Figure":
    """Draws G and below it P: the matrix of all pairs of places, and the row of the patch `query` on the grid.

    Of a 3-D grid the plane of the query along the last axis is shown.
    """
    figure = new_figure(0.92 * WIDTH)
    figure.suptitle(title)
    panels = figure.subplots(2, 2)
    place = int(np.ravel_multi_index(query, grid))
    for line, values, name in zip(
        panels, (positions.gaussian, positions.whole), ("Gaussian G", "G + learned offsets R"), strict=True
    ):
        low, high = float(values.min()), float(values.max())
        row = row_on_grid(values, query, grid)
        shown = row[..., query[-1]] if len(grid) == 3 else row
        for axes, picture in zip(line, (values, shown), strict=True):
            drawn = axes.imshow(picture, cmap=COLORS, vmin=low, vmax=high, interpolation="none")
        line[0].set_title(f"{name}, all pairs of places")
        line[0].set(xlabel="key patch", ylabel="query patch (red: patch on the right)")
        line[0].set_yticks([place], [""])
        line[0].tick_params(axis="y", color=MARK, width=1.6, length=6)
        line[0].set_xticks([])
        line[1].set_title(f"{name}, query {query}")
        mark_query(line[1], query)
        figure.colorbar(drawn, ax=list(line), location="right", aspect=30)
    caption(figure, about)
    return figure


def mark_query(axes: "Axes", query: tuple[int, ...]) -> None:
    """Marks the query patch in its plane, whose ticks are its row and column."""
    axes.plot([query[1]], [query[0]], marker="s", markersize=6, fillstyle="none", color=MARK)
    axes.set_xticks([query[1]])
    axes.set_yticks([query[0]])
