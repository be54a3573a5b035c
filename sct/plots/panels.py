"""Predictions of several runs beside image and truth: figures 5 and 6 of the APFormer paper.

Letters: C channels, S spatial size of the file, Q classes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sct.data.cases import Case
from sct.data.formats.nifti import turned
from sct.errors import UserError
from sct.evaluation.metrics import quick_dice
from sct.inference import predict_volume
from sct.models.selfcheck import choose_precision
from sct.plots.planes import View, outline, show, view
from sct.plots.runs import Run
from sct.plots.style import INK, TRUTH, WIDTH, caption, class_color, new_figure, styled
from sct.runtime.precision import autocast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PanelRow:
    """One case. truth, predictions of all runs (*S); scores: Dice of the whole case, mean over classes or regions."""

    name: str
    where: View
    truth: np.ndarray
    predictions: list[np.ndarray]
    scores: list[float]


def prediction_of(run: Run, case: Case, *, fresh: bool) -> np.ndarray:
    """Label map (*S) of a case on its file's grid: read from an evaluation of this run if there is one, else predicted.

    fresh: always predict.
    """
    for split in ("test", "val"):
        path = run.data.format.label_path(run.folder / "eval" / split / "predictions" / case.name, like=case.image)
        if path.exists() and not fresh:
            logger.info("%s: using the prediction %s", run.source, path)
            return run.data.format.read_written(path)
    logger.info("%s: predicting %s", run.source, case.name)
    chosen = choose_precision(run.config.trainer.precision, network=run.network, device=run.device, remedy=None)
    chosen.log()
    with autocast(run.device, chosen.dtype):
        return predict_volume(
            run.network,
            run.data.load_case(case),
            run.inferer,
            roi_size=run.data.roi_size,
            outputs=run.data.outputs,
            device=run.device,
        )


def panel_row(case: Case, *, run: Run, predictions: Sequence[np.ndarray], name: str) -> PanelRow:
    """Image and truth of a case as `run` reads them, and the predictions, all turned to the orientation of figures."""
    assert case.label is not None
    voxels, grid = run.data.format.read_image(case.image)
    truth = run.data.format.read_label(case.label)[0]
    if wrong := [labels.shape for labels in predictions if labels.shape != truth.shape]:
        raise UserError(f"{case.image} has shape {truth.shape}, its prediction {wrong[0]}. Predict again with --fresh.")
    scores = [
        float(np.nanmean(quick_dice(labels.astype(int), truth, outputs=run.data.outputs))) for labels in predictions
    ]
    image = np.asarray(run.data.normalisation({"image": torch.from_numpy(voxels)})["image"])
    truth = run.data.outputs.label_map.cleared(truth)
    arrays = [image, truth[None], *(labels[None] for labels in predictions)]
    spacing, slices_first = grid.spacing, truth.ndim > run.data.file_dims
    if truth.ndim == 3 and not slices_first:
        views = [turned(array, affine=grid.affine) for array in arrays]
        arrays, spacing = [array for array, _ in views], np.linalg.norm(views[0][1][:3, :3], axis=0)
    image, truth, *labels = arrays[0], *(array[0].astype(int) for array in arrays[1:])
    shown = truth if truth.any() else labels[0]
    where = view(image, shown, spacing=spacing.tolist(), slices_first=slices_first)
    return PanelRow(name, where, truth, labels, scores)


@styled
def draw_panels(rows: Sequence[PanelRow], *, runs: Sequence[str], classes: Sequence[str], about: str) -> "Figure":
    """Draws a row for each case: image, the predictions of all runs (filled) with the truth (outlined), truth."""
    names = ("Image", *runs, "Truth")
    width = max(WIDTH, 1.1 * len(names))
    heights = [row.where.height for row in rows]
    figure = new_figure((width - 0.4) / len(names) * sum(heights) + 0.22 * len(rows) + 0.75, width=width)
    grid = figure.subplots(len(rows), len(names), squeeze=False, height_ratios=heights)
    seen: set[int] = set()
    for line, row in zip(grid, rows, strict=True):
        truth = row.where.of(row.truth)
        planes = [row.where.of(labels) for labels in (*row.predictions, row.truth)]
        for axes in line:
            show(axes, row.where.picture, aspect=row.where.aspect)
        for axes, labels in zip(line[1:], planes, strict=True):
            seen |= set(np.unique(labels[labels > 0]).tolist())
            tint(axes, labels, aspect=row.where.aspect)
            for value in np.unique(labels[labels > 0]):
                outline(axes, labels == value, color=class_color(value))
            for value in np.unique(truth[truth > 0]):
                outline(axes, truth == value)
        for axes, score in zip(line[1:-1], row.scores, strict=True):
            axes.set_xlabel(f"Dice {score:.3f}")
        line[0].set_ylabel(row.name + (f"\n{row.where.note}" if row.where.note else ""))
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name)
    legend(figure, classes=[(value, classes[value]) for value in sorted(seen)])
    caption(figure, about)
    return figure


def tint(axes: "Axes", labels: np.ndarray, *, aspect: float) -> None:
    """Draws labels (H, W) in the colours of their classes, half transparent; background stays free."""
    colors = np.zeros((*labels.shape, 4))
    for value in np.unique(labels[labels > 0]).tolist():
        colors[labels == value] = (*class_color(value), 0.45)
    axes.imshow(colors, aspect=aspect, interpolation="nearest")


def legend(figure: "Figure", *, classes: Sequence[tuple[int, str]], title: str = "") -> None:
    """Draws the legend of classes (value, name) and of the outline above the panels, below a title."""
    axes = figure.axes[0]
    entries = [
        axes.plot([], [], linestyle="none", marker="s", color=class_color(value), label=name)[0]
        for value, name in classes
    ]
    entries += axes.plot(
        [], [], linestyle="none", marker="s", markerfacecolor=TRUTH, markeredgecolor=INK, label="outline of the truth"
    )
    figure.legend(handles=entries, loc="outside upper center", ncols=5, title=title)
