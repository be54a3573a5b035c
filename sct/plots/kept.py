"""How many tokens a pruning method keeps for each image: figures 5, 6 and 7 of the AS-ViT paper.

Letters: C channels, S spatial size, W windows of a case, E stages, N tokens of the grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sct.models.base import Encoder
from sct.plots.depth import Depth, depth_legend, depths_of, draw_patches, heads
from sct.plots.planes import View
from sct.plots.style import FAINT, LINE_COLORS, MARK, WIDTH, caption, new_figure, styled
from sct.profiling.windows import all_windows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# the paper's names for images with few, a usual number of, and many kept tokens
KINDS = ("easy", "normal", "hard")


@dataclass(frozen=True)
class Example:
    """A case to show, with its Dice; counts: tokens kept after each stage, mean over its windows, (E,)."""

    name: str
    where: View
    truth: np.ndarray
    depth: Depth
    dice: float
    counts: np.ndarray


def window_counts(
    encoder: Encoder, image: Tensor, *, size: Sequence[int], overlap: float, batch_size: int, device: torch.device
) -> np.ndarray:
    """Number of tokens kept after each stage in each window of an image (C, *S): (W, E)."""
    windows = all_windows(image, size=size, overlap=overlap)
    counts: list[list[int]] = []
    while group := list(islice(windows, batch_size)):
        counts += [depth.counts() for depth in depths_of(encoder, torch.stack(group).to(device))]
    return np.array(counts)


def examples(counts: Mapping[str, np.ndarray]) -> list[str]:
    """The cases with the fewest, the median and the most tokens (mean of counts (W, E) over windows and stages).

    For an even number of cases the lower median is taken, of equal cases the first. No case is repeated.
    """
    order = sorted(counts, key=lambda case: counts[case].mean())
    return list(dict.fromkeys((order[0], order[(len(order) - 1) // 2], order[-1])))


def all_alike(counts: Mapping[str, np.ndarray]) -> bool:
    """Whether all windows of all cases keep the same number of tokens after each stage."""
    all_counts = np.concatenate(list(counts.values()))
    return bool((all_counts == all_counts[0]).all())


@styled
def draw_kept(
    counts: Mapping[str, np.ndarray], shown: Sequence[Example], *, num_tokens: int, title: str, about: str
) -> "Figure":
    """Draws, for each stage, a histogram of the tokens that windows keep; below it, one row for each example."""
    all_counts = np.concatenate(list(counts.values()))
    num_stages = all_counts.shape[1]
    names = heads(shown[0].depth) if shown else []
    heights = [max(example.where.height, 0.5) for example in shown]
    column = (WIDTH - 0.8) / max(len(names), 1)
    tall = 0.95 * num_stages
    figure = new_figure(tall + column * sum(heights) + 0.18 * len(shown) + 1.5)
    ratios = [tall, column * sum(heights) + 0.18 * len(shown)] if shown else [tall]
    parts = figure.add_gridspec(len(ratios), 1, height_ratios=ratios)
    upper = parts[0].subgridspec(num_stages, 1).subplots(sharex=True, squeeze=False)[:, 0]
    for stage, axes in enumerate(upper):
        draw_counts(axes, all_counts[:, stage], num_tokens=num_tokens)
        axes.set_ylabel(f"stage {stage + 1}\nwindows")
        for kind, example in zip(KINDS, shown, strict=False):
            # above the bars, at a height that does not depend on the bars
            axes.annotate(
                kind[0].upper(), (example.counts[stage], 1.0), xycoords=axes.get_xaxis_transform(), xytext=(0, 9),
                textcoords="offset points", ha="center", va="center", color=MARK, fontsize=7,
                arrowprops={"arrowstyle": "-|>", "color": MARK, "linewidth": 0.8, "shrinkA": 2, "shrinkB": 0},
            )  # fmt: skip
    upper[-1].set_xlabel(f"tokens kept, of {num_tokens}")
    if not shown:
        figure.suptitle(title)
        caption(figure, about)
        return figure
    grid = parts[1].subgridspec(len(shown), len(names), height_ratios=heights).subplots(squeeze=False)
    for kind, line, example in zip(KINDS, grid, shown, strict=False):
        draw_patches(line, example.where, truth=example.truth, depth=example.depth)
        line[0].set_ylabel("\n".join(filter(None, (kind, example.name, example.where.note))))
        line[0].set_xlabel(f"Dice {example.dice:.3f}")
        for axes, count in zip(line[2:], example.depth.counts(), strict=True):
            axes.set_xlabel(f"{count} tokens")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name)
    depth_legend(figure, shown[0].depth, axes=grid[0, 0], title=title)
    caption(figure, about)
    return figure


def draw_counts(axes: "Axes", values: np.ndarray, *, num_tokens: int) -> None:
    """Draws a histogram of the tokens kept in windows (W,), with the median as a line."""
    width = 1 + num_tokens // 60
    edges = np.arange(-0.5, num_tokens + 0.5 + width, width)
    axes.hist(values, bins=edges.tolist(), color=LINE_COLORS[0], edgecolor="#ffffff", linewidth=0.3)
    median = float(np.median(values))
    axes.axvline(median, color=FAINT, linestyle=":", linewidth=1.0)
    note = f"median {median:g}, from {values.min()} to {values.max()}"
    axes.set_title(note, loc="right", fontsize=7, color=FAINT, pad=15)
    axes.locator_params(axis="y", integer=True, nbins=3)
    axes.set_xlim(edges[0], edges[-1])
    axes.spines[["top", "right"]].set_visible(False)
