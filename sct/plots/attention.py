"""Attention matrices before and after APFormer's pruning, figure 7 of its paper.

Letters: B batch, C channels, N tokens of the grid, H heads, S spatial size.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sct.errors import UserError
from sct.models.adaptive.attention import AdaptiveAttention
from sct.models.base import Encoder
from sct.models.blocks.layers import FULL, Layout
from sct.models.encoder import ViTEncoder
from sct.models.patch import Extent
from sct.plots.planes import View, edges, grey, outline, show
from sct.plots.style import COLORS, MARK, REMOVED, WIDTH, caption, new_figure, round_numbers, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


@dataclass(frozen=True)
class Matrices:
    """One head's attention in one image, (N, N): `before` without pruning, `after` with zeros for pruned entries.

    query_mask (*grid): patches that stay queries; dependencies: pruned share of the entries in the rows of these
    queries, mean over heads.
    """

    before: np.ndarray
    after: np.ndarray
    query_mask: np.ndarray
    dependencies: float

    @property
    def pruned_queries(self) -> float:
        """Share of the patches that are pruned as queries."""
        return 1 - float(self.query_mask.mean())


@torch.no_grad()
def attention_matrices(encoder: Encoder, image: Tensor, *, layer: int, head: int) -> Matrices:
    """Attention in block `layer`, head `head` (both from 1) of an encoder in evaluation mode on an image (1, C, *S).

    The matrix `before` has all queries; its input is the same as the input of this block in the pruned network.
    """
    blocks = list(encoder.blocks) if isinstance(encoder, ViTEncoder) else []
    if not blocks or not all(isinstance(block.attn, AdaptiveAttention) for block in blocks):
        raise UserError("This network has no encoder.attention that prunes. Give a run such as encoder=apformer.")
    if not 1 <= layer <= encoder.depth:
        raise UserError(f"--layer {layer}: this network has blocks 1 to {encoder.depth}.")
    attention = blocks[layer - 1].attn
    assert isinstance(attention, AdaptiveAttention)
    if not 1 <= head <= attention.num_heads:
        raise UserError(f"--head {head}: this network has heads 1 to {attention.num_heads}.")
    calls: list[tuple[Tensor, Layout]] = []
    hook = attention.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    encoder(image)
    hook.remove()
    x, layout = calls[0]
    unpruned = attention(x, FULL, wants=("matrices",))[1]
    pruned = attention(x, layout, wants=("matrices",))[1]
    query_mask = torch.ones(encoder.spec.grid, dtype=torch.bool) if layout.query_mask is None else layout.query_mask[0]
    return Matrices(
        before=unpruned.matrices[0][0, head - 1].cpu().numpy(),
        after=pruned.matrices[1][0, head - 1].cpu().numpy(),
        query_mask=query_mask.reshape(encoder.spec.grid).cpu().numpy(),
        dependencies=0.0 if pruned.pruned is None else pruned.pruned.item(),
    )


def foreground_shares(label: Tensor, *, patch_size: Extent) -> np.ndarray:
    """The share of foreground in each patch of label (*S): (*grid)."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[label.ndim]
    return pool((label > 0).float()[None, None], patch_size)[0, 0].numpy()


def border_query(shares: np.ndarray, query_mask: np.ndarray) -> tuple[int, ...]:
    """A patch on the border of the foreground: of the patches with a share >= 0.5, the one with the smallest share.

    shares, query_mask (*grid). A patch that stays a query is preferred. If no patch has a share of 0.5, the patch with
    the largest share is taken. Of equal patches the first is taken.
    """
    for allowed in (query_mask, np.ones_like(query_mask)):
        inside = allowed & (shares >= 0.5)
        if inside.any():
            flat = np.where(inside, shares, np.inf).argmin()
            return tuple(int(place) for place in np.unravel_index(flat, shares.shape))
    return tuple(int(place) for place in np.unravel_index(shares.argmax(), shares.shape))


def row_on_grid(matrix: np.ndarray, query: tuple[int, ...], grid: tuple[int, ...]) -> np.ndarray:
    """The row of the patch at `query` in a matrix (N, N), with every entry at the position of its key: (*grid)."""
    return matrix[np.ravel_multi_index(query, grid)].reshape(grid)


def limits(values: np.ndarray) -> tuple[float, float]:
    """Ends of a logarithmic scale: 1st and 99.9th percentile of the positive values, at least a factor 2 apart."""
    low, high = np.percentile(values[values > 0], (1, 99.9))
    middle = math.sqrt(low * high)
    return min(float(low), middle / math.sqrt(2)), max(float(high), middle * math.sqrt(2))


@styled
def draw_attention(
    matrices: Matrices, *, head: int, where: View, truth: np.ndarray, query: tuple[int, ...], title: str, about: str
) -> "Figure":
    """Draws the head's matrices above, and one query's row over the image below; truth (*S) is outlined.

    Each of the four panels has its own scale: after pruning, the remaining entries get the attention of pruned ones.
    """
    grid = matrices.query_mask.shape
    count = matrices.before.shape[0]
    # entries that softmax rounded to zero are not pruned
    before = np.maximum(matrices.before, np.finfo(np.float32).tiny) * count
    after = matrices.after * count
    figure = new_figure(0.39 * WIDTH + 0.27 * WIDTH * where.height + 2.35)
    figure.suptitle(
        f"{title}\n\u03b1 = {matrices.pruned_queries:.1%} of the queries pruned, "
        f"\u03bb = {matrices.dependencies:.1%} of the other queries' dependencies pruned (mean over heads)"
    )
    rows = figure.add_gridspec(2, 6, hspace=0.06, height_ratios=(0.39, 0.27 * where.height))
    place = int(np.ravel_multi_index(query, grid))
    drawn: list[tuple[Axes, AxesImage, str]] = []
    tops = [figure.add_subplot(rows[0, :3]), figure.add_subplot(rows[0, 3:])]
    for axes, values, name in zip(tops, (before, after), ("before", "after"), strict=True):
        drawn.append((axes, logarithmic(axes, values), "attention x N (1: uniform)"))
        axes.set_facecolor(REMOVED)
        axes.set_title(f"Attention of head {head} {name} pruning")
        axes.set_xlabel("key patch")
        axes.set_xticks([])
        axes.set_yticks([place], [""])
        axes.tick_params(axis="y", color=MARK, width=1.6, length=6)
    tops[0].set_ylabel("query patch (red: patch below)")

    query_rows = [row_on_grid(values, query, grid) for values in (before, after)]
    bottoms = [figure.add_subplot(rows[1, start : start + 2]) for start in (0, 2, 4)]
    show(bottoms[0], where.picture, aspect=where.aspect)
    bottoms[0].set_title("Image" + (f", {where.note}" if where.note else ""))
    bottoms[0].set_xlabel("query patch (red), truth (white)")
    names = ("Its row before", "Its row after" if matrices.query_mask[query] else "Its row after: pruned")
    for axes, values, name in zip(bottoms[1:], query_rows, names, strict=True):
        show(axes, grey(where.picture), aspect=where.aspect)
        axes.set_title(name)
        if where.of(values).any():
            drawn.append((axes, logarithmic(axes, where.of(values), over=where), "attention x N"))
    for axes in bottoms:
        outline(axes, where.of(truth) > 0)
        mark(axes, where=where, query=query, grid=grid)
    for axes, values_shown, label in drawn:
        scale(figure, values_shown, axes=axes, label=label)
    caption(figure, about)
    return figure


def logarithmic(axes: "Axes", values: np.ndarray, *, over: View | None = None) -> "AxesImage":
    """Draws values (h, w) in logarithmic colours, without zeros; with `over`, half transparent over a picture."""
    low, high = limits(values)
    return axes.imshow(
        np.ma.masked_equal(values, 0),
        cmap=COLORS,
        norm="log",
        vmin=low,
        vmax=high,
        interpolation="none",
        alpha=0.8 if over else 1.0,
        extent=edges(over.picture.shape) if over else None,
        aspect=over.aspect if over else "equal",
    )


def scale(figure: "Figure", drawn: "AxesImage", *, axes: "Axes", label: str) -> None:
    """Draws the colour bar of `drawn` below `axes`."""
    bar = figure.colorbar(drawn, ax=axes, location="bottom", pad=0.01, aspect=25, extend="both", label=label)
    places = round_numbers(*drawn.get_clim())
    bar.set_ticks(places, labels=[f"{place:g}" for place in places])
    bar.minorticks_off()


def mark(axes: "Axes", *, where: View, query: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """Draws a frame around the patch at `query` in the shown plane."""
    marked = np.zeros(grid, dtype=bool)
    marked[query] = True
    plane = where.of(marked)
    (row,), (column,) = np.nonzero(plane)
    height, width = where.picture.shape[0] / plane.shape[0], where.picture.shape[1] / plane.shape[1]
    left, top = column * width - 0.5, row * height - 0.5
    corners = [left, left + width, left + width, left, left], [top, top, top + height, top + height, top]
    axes.plot(*corners, color=MARK, linewidth=1.6, solid_joinstyle="miter")
