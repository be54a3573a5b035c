"""Pixel loss and Dice over the training of several runs: figure 8 of the APFormer paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sct.errors import UserError
from sct.plots.style import DASHES, LINE_COLORS, caption, new_figure, styled
from sct.runs.folder import saved_config
from sct.runtime.migration import metrics_of_today
from sct.runtime.rows import FILE, read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# quantity -> title of its panel, label of its axis
NAMES = {
    # train/loss includes terms that differ between methods, so it can't compare methods
    "train/loss_pixel": ("Training, without the method's extra terms", "pixel loss"),
    "train/loss": ("Training, with the method's extra terms", "total loss"),
    "val/dice/mean": ("Validation", "Dice, mean over classes"),
}
COMPARED = ("train/loss_pixel", "val/dice/mean")


@dataclass(frozen=True)
class Curve:
    """Values of a quantity at ascending steps, (L,) each."""

    steps: np.ndarray
    values: np.ndarray


def read_curve(run: Path, quantity: str) -> Curve:
    """A quantity of a run's metrics.jsonl; UserError when there is no such file or quantity."""
    path = run / FILE
    if not path.is_file():
        raise UserError(f"{run} has no {FILE}. Give a run folder of sct.train.")
    pixel = saved_config(run).get("loss", {}).get("pixel") if (run / "config.yaml").is_file() else None
    rows = [metrics_of_today(row, pixel=pixel or {}) for row in read_rows(path).values]
    points = [(row["step"], row[quantity]) for row in rows if quantity in row]
    if not points:
        known = sorted({name for row in rows for name in row} - {"step"})
        raise UserError(f"{path} has no {quantity} yet. It has: {', '.join(known) or 'nothing'}.")
    steps, values = zip(*points, strict=True)
    return Curve(np.array(steps), np.array(values, dtype=np.float64))


def smooth(values: np.ndarray, *, share: float) -> np.ndarray:
    """Running mean of values (L,) over a centred window of `share` * L values; near the ends the window is smaller.

    A window of fewer than 3 values does not change the curve.
    """
    reach = int(share * len(values)) // 2
    sums = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    half = np.minimum(np.minimum(index, len(values) - 1 - index), reach)
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)


@styled
def draw_curves(
    panels: Sequence[tuple[str, Sequence[Curve]]], *, runs: Sequence[str], share: float, about: str
) -> "Figure":
    """Draws one panel for each quantity (its name, one curve for each run): smoothed, with the raw curve in pale."""
    figure = new_figure(2.9)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (quantity, curves) in zip(grid, panels, strict=True):
        for number, curve in enumerate(curves):
            color = LINE_COLORS[number % len(LINE_COLORS)]
            dash = DASHES[number // len(LINE_COLORS) % len(DASHES)]
            axes.plot(curve.steps, curve.values, color=color, alpha=0.3, linewidth=0.7)
            smoothed = smooth(curve.values, share=share)
            marker = "o" if len(curve.steps) <= 30 else ""
            axes.plot(curve.steps, smoothed, color=color, linestyle=dash, marker=marker, markersize=2.5)
        axes.set_xlabel("step")
        title, label = NAMES.get(quantity, (quantity, ""))
        axes.set_title(title)
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.grid(visible=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(grid[0].get_lines()[1::2], runs, loc="outside upper center", ncols=min(len(runs), 5))
    caption(figure, about)
    return figure
