"""How long each patch of an image is kept: figures 2 and 3 of the STP paper, 1 and 4 of the DToP paper.

Letters: C channels, S spatial size, N tokens of the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sct.errors import UserError
from sct.evaluation.tokens import kept_shares
from sct.models.base import Encoder
from sct.models.grid import foreground_patches, pruning_depth
from sct.models.patch import Extent
from sct.plots.planes import PLANES, View, edges, faded, grey, outline, show, view
from sct.plots.style import FAINT, WIDTH, caption, depth_colors, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Wording:
    """Texts for one kind of pruning: titles of the map and of a stage, legend for removed and for kept patches."""

    title: str
    stage: str
    removed: str
    kept: str


PRUNED = Wording("Pruning depth", "Kept after stage {}", "dropped at stage {}", "kept to the end")
EXITED = Wording("Exited tokens per stage", "Not exited after stage {}", "exited at stage {}", "computed to the end")
QUERIES = Wording("Queries of attention", "Kept as query", "pruned query", "query")


@dataclass(frozen=True)
class Depth:
    """The number of stages (of num_stages) that each patch of an image survives, (*grid)."""

    stages: np.ndarray
    num_stages: int
    words: Wording

    def alive(self, stage: int) -> np.ndarray:
        """Which patches survive stage 1, 2, ...: (*grid) bool."""
        return self.stages >= stage

    def counts(self) -> list[int]:
        """The number of patches that survive, for each stage."""
        return [int(self.alive(stage).sum()) for stage in range(1, self.num_stages + 1)]


@dataclass(frozen=True)
class DepthRow:
    """One case in all shown planes. truth (*S); shares: see `stage_shares`."""

    name: str
    views: list[View]
    truth: np.ndarray
    depth: Depth
    shares: list[tuple[float | None, float]]


@torch.no_grad()
def depths_of(encoder: Encoder, images: Tensor) -> list[Depth]:
    """The pruning depths in images (B, C, *S) for an encoder in evaluation mode; UserError if it never prunes."""
    if not encoder.spec.num_depths:
        raise UserError(
            "This network prunes no tokens: it is dense. Give a run with encoder.reducer or encoder.gate, such as "
            "encoder=stp."
        )
    encoded = encoder(images)
    words = QUERIES if encoded.query_mask is not None else EXITED if encoded.early is not None else PRUNED
    return [Depth(stages, encoded.num_depths, words) for stages in pruning_depth(encoded).cpu().numpy()]


def stage_shares(depth: Depth, label: Tensor, *, patch_size: Extent) -> list[tuple[float | None, float]]:
    """For each stage, the surviving shares of the patches with foreground and of all patches.

    The share of all patches is the share of foreground that a random choice would keep. The first share is None if
    label (*S) has no foreground.
    """
    foreground = foreground_patches(label.unsqueeze(0), patch_size=patch_size)
    survived = torch.from_numpy(depth.stages).unsqueeze(0)
    shares = kept_shares(survived, {"foreground": foreground}, num_stages=depth.num_stages)
    stages = range(1, depth.num_stages + 1)
    return [(shares.get(f"tokens/foreground_kept_{s}"), shares[f"tokens/kept_{s}"]) for s in stages]


def views_of(image: np.ndarray, truth: np.ndarray, *, spacing: Sequence[float], planes: Sequence[str]) -> list[View]:
    """In each direction, the plane of image (C, *S) with most of the truth; a 2-D image has one plane."""
    if truth.ndim == 2:
        return [view(image, truth, spacing=spacing)]
    return [view(image, truth, spacing=spacing, plane=plane) for plane in planes]


def heads(depth: Depth) -> list[str]:
    """Titles of the panels of a row: image, depth, one for each stage."""
    words = depth.words
    return ["Image", words.title, *(words.stage.format(stage) for stage in range(1, depth.num_stages + 1))]


def draw_patches(line: Sequence["Axes"], where: View, *, truth: np.ndarray, depth: Depth) -> None:
    """Draws the panels of a row: image, depths in colours, and for each stage the image with removed patches pale."""
    picture, aspect = where.picture, where.aspect
    show(line[0], picture, aspect=aspect)
    show(line[1], grey(picture), aspect=aspect)
    line[1].imshow(
        np.ma.masked_equal(where.of(depth.stages), 0), extent=edges(picture.shape), aspect=aspect,
        interpolation="none", cmap=depth_colors(depth.num_stages), vmin=0.5, vmax=depth.num_stages + 0.5, alpha=0.62,
    )  # fmt: skip
    for stage, axes in enumerate(line[2:], start=1):
        show(axes, faded(picture, where.of(depth.alive(stage))), aspect=aspect)
    for axes in line:
        outline(axes, where.of(truth) > 0)


def depth_legend(figure: "Figure", depth: Depth, *, axes: "Axes", title: str) -> None:
    """Draws the title of a figure, and below it the legend of the depths' colours."""
    colors = depth_colors(depth.num_stages)
    entries = [axes.plot([], [], "s", color="#ffffff", markeredgecolor=FAINT, label=depth.words.removed.format(1))[0]]
    for stage in range(1, depth.num_stages + 1):
        last = stage == depth.num_stages
        label = depth.words.kept if last else depth.words.removed.format(stage + 1)
        entries += axes.plot([], [], "s", color=colors(stage - 1), label=label)
    figure.legend(handles=entries, loc="outside upper center", ncols=min(5, len(entries)), title=title)


@styled
def draw_depth(rows: Sequence[DepthRow], *, title: str, about: str) -> "Figure":
    """Draws a row for each plane of each case; below a case, the shares of patches that each stage keeps."""
    depth = rows[0].depth
    names = heads(depth)
    lines = [(row, where) for row in rows for where in row.views]
    # a flat plane still needs space for its name
    heights = [max(where.height, 0.5) for _, where in lines]
    column = (WIDTH - 0.8) / len(names)
    figure = new_figure(column * sum(heights) + 0.08 * len(lines) + 0.35 * len(rows) + 1.1)
    grid = figure.subplots(len(lines), len(names), squeeze=False, height_ratios=heights)
    for panels, (row, where) in zip(grid, lines, strict=True):
        draw_patches(panels, where, truth=row.truth, depth=row.depth)
        plane = next((name for name, axis in PLANES.items() if where.depth > 1 and axis == where.axis), "")
        panels[0].set_ylabel("\n".join(filter(None, (row.name if where is row.views[0] else "", plane, where.note))))
        if where is row.views[-1]:
            for axes, (foreground, all_patches) in zip(panels[2:], row.shares, strict=True):
                share = "no foreground" if foreground is None else f"foreground {foreground:.1%}"
                axes.set_xlabel(f"{share}\nat random {all_patches:.1%}")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name)
    depth_legend(figure, depth, axes=grid[0, 0], title=title)
    caption(figure, about)
    return figure
