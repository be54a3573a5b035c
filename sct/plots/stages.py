"""Predictions of every stage of a network whose tokens exit early: figures 1, 3 and 4 of the DToP paper.

Letters: B batch, C channels, Q channels of the logits, S spatial size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sct.data.outputs import Outputs
from sct.errors import UserError
from sct.models.exits import merge_stages
from sct.models.grid import pruning_depth, resize
from sct.models.segmenter import Segmenter
from sct.models.tokens import Encoded
from sct.plots.panels import legend, tint
from sct.plots.planes import View, faded, outline, show
from sct.plots.style import WIDTH, caption, class_color, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class StageRow:
    """One case with one threshold: truth (*S), and for each stage the patches that exited and the prediction.

    exited: (*grid) bool for each stage, patches that exited at this stage or before; no entry for the last stage
    predictions: label maps (*S) of the early stages and of the whole network
    """

    name: str
    where: View
    truth: np.ndarray
    exited: list[np.ndarray]
    predictions: list[np.ndarray]


def stage_logits(encoded: Encoded, *, size: Sequence[int]) -> list[Tensor]:
    """Logits (B, Q, *S) after every early stage; a place that exited keeps the prediction of its own stage.

    For heads of class queries (ATM), the class scores of the stage multiply the masks of all places, as in the decoder.
    """
    logits = []
    for output in merge_stages(encoded, losses=True).stages:
        masks = resize(output.masks.float(), size)
        if output.classes is not None:
            present = output.classes.float().log_softmax(dim=-1)[..., 0]
            masks = F.logsigmoid(masks) + present.reshape(*present.shape, *[1] * len(encoded.grid))
        logits.append(masks)
    return logits


@torch.no_grad()
def stages_of(network: Segmenter, image: Tensor, *, outputs: Outputs) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`StageRow.exited` and `StageRow.predictions` of an image (1, C, *S); UserError if no token can exit early."""
    prediction = network.predict(image)
    encoded = prediction.encoded
    if not encoded.early_outputs:
        raise UserError(
            "In this network no token exits early. Give a run of encoder=dtop, with encoder.reducer.p0 below 1."
        )
    depth = pruning_depth(encoded)[0].cpu().numpy()
    logits = [*stage_logits(encoded, size=image.shape[2:]), prediction.logits]
    exited = [depth < stage for stage in range(1, encoded.num_depths + 1)]
    return exited, [outputs.labels(values[0]).cpu().numpy().astype(int) for values in logits]


@styled
def draw_stages(rows: Sequence[StageRow], *, classes: Sequence[str], title: str, about: str) -> "Figure":
    """Draws two lines for each row: image and exited patches of all stages; below, truth and predictions of the stages.

    Patches that exited are bright, and those that are still computed are pale.
    """
    num_early = len(rows[0].exited)
    names = ("Image", *(f"Exited after stage {stage}" for stage in range(1, num_early + 1)), "Whole network")
    # a flat plane still needs space for its name
    heights = [max(row.where.height, 0.4) for row in rows for _ in range(2)]
    figure = new_figure((WIDTH - 0.5) / len(names) * sum(heights) + 0.22 * len(heights) + 1.1)
    grid = figure.subplots(len(heights), len(names), squeeze=False, height_ratios=heights)
    seen: set[int] = set()
    for above, below, row in zip(grid[::2], grid[1::2], rows, strict=True):
        show(above[0], row.where.picture, aspect=row.where.aspect)
        # the last column has the patches of the stage before it: no token exits at the end
        for axes, exited in zip(above[1:], [*row.exited, row.exited[-1]], strict=True):
            show(axes, faded(row.where.picture, row.where.of(exited)), aspect=row.where.aspect)
            axes.set_xlabel(f"{exited.mean():.1%} exited")
        for axes, labels in zip(below, (row.truth, *row.predictions), strict=True):
            seen |= set(np.unique(labels[labels > 0]).tolist())
            draw_labels(axes, labels, row=row)
        above[0].set_ylabel(row.name + (f"\n{row.where.note}" if row.where.note else ""))
        below[0].set_xlabel("truth")
        for stage, axes in enumerate(below[1:-1], start=1):
            axes.set_xlabel(f"predicted after stage {stage}")
        below[-1].set_xlabel("predicted at the end")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name)
    legend(figure, classes=[(value, classes[value]) for value in sorted(seen)], title=title)
    caption(figure, about)
    return figure


def draw_labels(axes: "Axes", labels: np.ndarray, *, row: StageRow) -> None:
    """Draws a label map (*S) of a row in the colours of its classes, with the truth outlined."""
    plane, truth = row.where.of(labels), row.where.of(row.truth)
    show(axes, row.where.picture, aspect=row.where.aspect)
    tint(axes, plane, aspect=row.where.aspect)
    for value in np.unique(plane[plane > 0]):
        outline(axes, plane == value, color=class_color(int(value)))
    for value in np.unique(truth[truth > 0]):
        outline(axes, truth == value)
