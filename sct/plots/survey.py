"""The figure of a data set's facts, written beside the tables of `python -m sct.data describe`.

Letters: M cases of a split, D axes of a file.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sct.data.splits import SPLITS
from sct.data.survey import CaseFacts
from sct.models.patch import Extent, in_words
from sct.plots.style import LINE_COLORS, caption, decade, new_figure, round_numbers, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# rows of a panel: name -> split -> values of the cases
Strips = dict[str, dict[str, np.ndarray]]


def class_volumes(facts: Sequence[CaseFacts]) -> Strips:
    """Volumes of each class in the cases that have the class."""
    return {name: by_split(facts, [case.volumes[name] or np.nan for case in facts]) for name in facts[0].volumes}


def axis_values(facts: Sequence[CaseFacts], *, field: str) -> Strips:
    """shape or spacing along each axis; if there are slices and volumes, only along the axes of a slice."""
    table = [getattr(case, field) for case in facts]
    num_axes = min(len(row) for row in table)
    return {f"axis {axis + 1}": by_split(facts, [row[-num_axes:][axis] for row in table]) for axis in range(num_axes)}


def foreground_shares(facts: Sequence[CaseFacts]) -> Strips:
    """Percentage of a case's patches that contain foreground."""
    return {"": by_split(facts, [100 * case.patches for case in facts])}


def by_split(facts: Sequence[CaseFacts], values: Sequence[float]) -> dict[str, np.ndarray]:
    """The values of all cases by split, without nan: (M,) each."""
    table, split_of = np.array(values, dtype=np.float64), np.array([case.split for case in facts])
    return {split: table[(split_of == split) & ~np.isnan(table)] for split in SPLITS}


def places(count: int, *, width: float) -> np.ndarray:
    """Offsets of the points of a strip in [-width / 2, width / 2]: evenly spread, with neighbours far apart."""
    golden = (5**0.5 - 1) / 2
    return width * ((np.arange(count) + 0.5) * golden % 1 - 0.5)


@styled
def draw_survey(facts: Sequence[CaseFacts], *, patch_size: Extent, title: str) -> "Figure":
    """Draws class volumes on a logarithmic axis, shapes, spacings and patches with foreground. A dot is a case."""
    volumes, shapes = class_volumes(facts), axis_values(facts, field="shape")
    spacings = axis_values(facts, field="spacing")
    unit = facts[0].unit
    heights = [0.36 * len(volumes) + 0.5, 0.3 * len(shapes) + 0.5]
    figure = new_figure(sum(heights) + 1.4)
    figure.suptitle(title)
    grid = figure.add_gridspec(2, 3, height_ratios=heights)
    top = figure.add_subplot(grid[0, :])
    strips(top, volumes, logarithmic=True)
    top.set_xlabel(f"volume of a class in the cases that have it ({'ml' if unit == 'mm' else 'voxels'})")
    for column, (rows, name) in enumerate(
        (
            (shapes, "voxels along the file's axes"),
            (spacings, f"spacing along these axes ({unit})"),
            (foreground_shares(facts), f"patches of {in_words(patch_size)}\nwith foreground (%)"),
        )
    ):
        axes = figure.add_subplot(grid[1, column])
        strips(axes, rows)
        axes.set_xlabel(name)
        axes.set_xlim(left=0)
    handles, names = top.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(SPLITS), markerscale=2)
    caption(figure, "A dot is a case, a bar the median of its split.")
    return figure


def strips(axes: "Axes", rows: Strips, *, logarithmic: bool = False) -> None:
    """Draws for each row, from the top, a strip of dots for each split, with a bar at the split's median."""
    for row, values_of in enumerate(rows.values()):
        for split, offset, color in zip(SPLITS, (-0.27, 0.0, 0.27), LINE_COLORS, strict=False):
            values = values_of[split]
            label = split if row == 0 else None
            axes.plot(
                values, row + offset + places(len(values), width=0.18), "o", color=color, markersize=2.5, alpha=0.6,
                markeredgewidth=0, label=label,
            )  # fmt: skip
            if len(values):
                median = float(np.median(values))
                axes.plot([median, median], [row + offset - 0.12, row + offset + 0.12], color=color, linewidth=1.6)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if logarithmic:
        axes.set_xscale("log")
        low, high = decade(*axes.get_xlim())
        axes.set_xlim(low, high)
        ticks = round_numbers(low, high)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
