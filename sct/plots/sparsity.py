"""Sparsity of each class in the data, and the gain of a method for this class: tables 6 and 7 of the STP paper.

Letters: S spatial size, R scored classes or regions.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from scipy.stats import spearmanr
from torch import Tensor

from sct.data.cases import window_shape
from sct.data.outputs import Outputs, any_of
from sct.errors import UserError
from sct.models.grid import foreground_patches
from sct.models.patch import Extent, in_words
from sct.plots.style import FAINT, LINE_COLORS, caption, decade, new_figure, round_numbers, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ClassGain:
    """A class or region: shares of voxels and of patches without it (its sparsity), and Dice of two runs."""

    name: str
    voxels: float
    patches: float
    baseline: float
    run: float

    @property
    def gain(self) -> float:
        """Gain in Dice of the run over the baseline, in points (1/100)."""
        return 100 * (self.run - self.baseline)


def class_sparsity(labels: Iterable[Tensor], *, outputs: Outputs, patch_size: Extent) -> dict[str, tuple[float, float]]:
    """Sparsity of each class: shares of voxels and of patches without the class, means over label maps (*S).

    The share of voxels is the sparsity in the paper's appendix A: non-target voxels / all voxels.
    """
    shares_of: dict[str, list[tuple[float, float]]] = {name: [] for name in outputs.names}
    for label in labels:
        size = window_shape(patch_size, num_dims=label.ndim)
        for name, values in outputs.scored.items():
            mask = any_of(label, values)
            patches = foreground_patches(mask.long().unsqueeze(0), patch_size=size)
            shares_of[name].append((1 - mask.float().mean().item(), 1 - patches.float().mean().item()))
    return {name: (fmean(s[0] for s in shares), fmean(s[1] for s in shares)) for name, shares in shares_of.items()}


def class_gains(
    sparsity: Mapping[str, tuple[float, float]],
    *,
    baseline: Mapping[str, float | None],
    run: Mapping[str, float | None],
) -> list[ClassGain]:
    """Classes with a Dice in both runs, the sparsest (by voxels) first; UserError if there is no such class."""
    gains = [
        ClassGain(name, voxels, patches, first, second)
        for name, (voxels, patches) in sparsity.items()
        if (first := baseline.get(name)) is not None and (second := run.get(name)) is not None
    ]
    if not gains:
        raise UserError(
            f"The runs have no class in common: the data has {', '.join(sparsity)}, --baseline {', '.join(baseline)} "
            f"and --run {', '.join(run)}. Compare runs that were evaluated on the same data set."
        )
    return sorted(gains, key=lambda gain: -gain.voxels)


def rank_correlation(gains: Sequence[ClassGain], sparsity: Sequence[float]) -> float | None:
    """Spearman's rank correlation of sparsity and gain; None with fewer than 3 classes, or if all values are equal."""
    if len(gains) < 3:
        return None
    values = [gain.gain for gain in gains]
    if len(set(values)) == 1 or len(set(sparsity)) == 1:
        return None
    return float(spearmanr(sparsity, values).statistic)


def comma_separated(gains: Sequence[ClassGain]) -> str:
    """The numbers as csv: one line for each class, all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("class", "sparsity voxels", "sparsity patches", "dice baseline", "dice run", "gain points"))
    for gain in gains:
        writer.writerow((gain.name, gain.voxels, gain.patches, gain.baseline, gain.run, gain.gain))
    return text.getvalue()


@styled
def draw_sparsity(gains: Sequence[ClassGain], *, baseline: str, run: str, patch_size: Extent, about: str) -> "Figure":
    """Draws two panels, by voxels and by patches: each class is a point with its name, the sparsest on the right."""
    figure = new_figure(3.4)
    figure.suptitle(f"Gain of {run} over {baseline} by class")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, unit, sparsity in (
        (panels[0], "voxels", [gain.voxels for gain in gains]),
        (panels[1], f"patches of {in_words(patch_size)}", [gain.patches for gain in gains]),
    ):
        scatter(axes, [1 - value for value in sparsity], gains)
        axes.set_xlabel(f"share of {unit} with the class, sparse to the right")
        correlation = rank_correlation(gains, sparsity)
        if correlation is not None:
            axes.set_title(f"rank correlation of sparsity and gain {correlation:+.2f}")
    panels[0].set_ylabel("gain in Dice (points)")
    caption(figure, about)
    return figure


def scatter(axes: "Axes", dense: Sequence[float], gains: Sequence[ClassGain]) -> None:
    """Draws gains over the classes' shares on a logarithmic axis; shares fall to the right."""
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_xscale("log")
    axes.plot(dense, [gain.gain for gain in gains], "o", color=LINE_COLORS[0], markersize=5)
    for share, gain in zip(dense, gains, strict=True):
        axes.annotate(gain.name, (share, gain.gain), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7)
    low, high = decade(min(dense) / 1.6, max(dense) * 1.6)
    axes.set_xlim(high, low)
    ticks = round_numbers(low, min(high, 1))
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.margins(y=0.2)
    axes.grid(axis="y")
    axes.spines[["top", "right"]].set_visible(False)
