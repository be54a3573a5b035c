"""Foreground probability of APFormer's gate, and the patches that stay queries: equation 11 of its paper, in pictures.

Letters: C channels, S spatial size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sct.errors import UserError
from sct.models.base import Encoder
from sct.plots.planes import View, edges, faded, grey, outline, show
from sct.plots.style import COLORS, MARK, WIDTH, caption, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class GateRow:
    """One case. probability (*grid): the gate's probability of foreground; query_mask (*grid) bool; truth (*S)."""

    name: str
    where: View
    truth: np.ndarray
    probability: np.ndarray
    query_mask: np.ndarray


@torch.no_grad()
def gate_of(encoder: Encoder, image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probability of foreground, and the mask of patches that stay queries, (*grid) each, for an image (1, C, *S)."""
    encoded = encoder(image)
    if encoded.gate is None or encoded.query_mask is None:
        raise UserError("This network has no encoder.gate. Give a run such as encoder=apformer or ap_transunet.")
    probability = encoded.gate[0].float().softmax(dim=0)[1]
    return probability.cpu().numpy(), encoded.query_mask[0].reshape(encoder.spec.grid).cpu().numpy()


@styled
def draw_gate(rows: Sequence[GateRow], *, threshold: float, title: str, about: str) -> "Figure":
    """Draws a row of three panels for each case: image, probability, patches that stay queries; truth is outlined.

    threshold: patches up to this probability of foreground are pruned as queries.
    """
    heights = [row.where.height for row in rows]
    figure = new_figure(0.295 * WIDTH * sum(heights) + 0.27 * len(rows) + 1.2)
    figure.suptitle(title)
    grid = figure.subplots(len(rows), 3, squeeze=False, height_ratios=heights)
    for line, row in zip(grid, rows, strict=True):
        picture, aspect = row.where.picture, row.where.aspect
        query_mask = row.where.of(row.query_mask)
        show(line[0], picture, aspect=aspect)
        show(line[1], grey(picture), aspect=aspect)
        drawn = line[1].imshow(
            row.where.of(row.probability), extent=edges(picture.shape), aspect=aspect, interpolation="none",
            cmap=COLORS, vmin=0, vmax=1, alpha=0.75,
        )  # fmt: skip
        show(line[2], faded(picture, query_mask), aspect=aspect)
        for axes in line:
            outline(axes, row.where.of(row.truth) > 0)
        line[0].set_ylabel(row.name + (f"\n{row.where.note}" if row.where.note else ""))
        line[2].set_xlabel(f"{row.query_mask.mean():.1%} of the patches are queries")
    for axes, name in zip(grid[0], ("Image, truth outlined", "Gate: foreground", "Kept as queries"), strict=True):
        axes.set_title(name)
    bar = figure.colorbar(drawn, ax=grid, location="bottom", shrink=0.4, aspect=40, pad=0.01)
    bar.set_label("probability of foreground (patches up to the red line are pruned as queries)")
    bar.ax.axvline(threshold, color=MARK, linewidth=1.6)
    caption(figure, about)
    return figure
