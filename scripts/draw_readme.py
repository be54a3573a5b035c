"""The picture of the README: a slice, the patches whose tokens survive each pruning stage, and the labels.

    python scripts/draw_readme.py outputs/demo/make                    # writes docs/figures/readme.png
    python scripts/draw_readme.py RUN --case 0031 --output FILE.png

RUN is the run folder of a network that prunes tokens. One window of a test case goes through the network
once: the window around the foreground, and of it the axial slice with most organs. Needs the extra `figures`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import sct
from sct.errors import UserError
from sct.models.grid import foreground_patches, pruning_depth
from sct.plots import style
from sct.plots.planes import View, faded, grey, outline, show, view
from sct.runtime.files import atomic
from sct.training.validation import foreground_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUTPUT = Path("docs/figures/readme.png")
FONT = {"font.size": 15, "axes.titlesize": 17, "axes.labelsize": 16, "legend.fontsize": 16}
DPI = 150


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("run", metavar="RUN")
    made.add_argument("--case", metavar="ID", help="a test case (default: the first one)")
    made.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.png", help=f"default: {OUTPUT}")
    return made


@torch.no_grad()
def draw(path: str, *, case_id: str | None) -> "Figure":
    """The figure of one case: image, one panel for every stage, predicted labels, and the organs' colours below."""
    run = sct.load(path, device="cpu", precision="fp32")
    cases = {case.id: case for case in run.data.cases("test")}
    if case_id is not None and case_id not in cases:
        raise UserError(f"--case {case_id}: the test cases of {path} are {', '.join(cases)}.")
    volume = run.data.load_case(cases[case_id or min(cases)])
    assert volume.label is not None
    image, label = foreground_window(volume.image, volume.label, size=run.data.roi_size)
    prediction = run.network.predict(image.unsqueeze(0))
    num_stages = prediction.encoded.num_depths
    if not num_stages:
        raise UserError(f"{path} prunes no tokens. Give a run with a pruning method, such as encoder=stp.")
    truth = label.numpy()
    return draw_panels(
        view(image.numpy(), truth, spacing=volume.spacing, index=fullest_slice(truth)),
        depth=pruning_depth(prediction.encoded)[0].numpy(),
        organs=foreground_patches(label.unsqueeze(0), patch_size=run.network.encoder.spec.patch_size)[0].numpy(),
        labels=run.data.outputs.labels(prediction.logits[0]).numpy(),
        num_stages=num_stages,
        names=run.data.outputs.legend,
    )


def fullest_slice(labels: np.ndarray) -> int:
    """The axial slice of labels (*S) with most different labels, and of these the one with most voxels of them."""
    slices = [labels[..., index] for index in range(labels.shape[-1])]
    return max(range(len(slices)), key=lambda index: (len(np.unique(slices[index])), np.count_nonzero(slices[index])))


@style.styled
def draw_panels(
    where: View,
    *,
    depth: np.ndarray,
    organs: np.ndarray,
    labels: np.ndarray,
    num_stages: int,
    names: Sequence[str],
) -> "Figure":
    """depth (*grid): number of stages that a patch survived; organs (*grid): patches with any; labels index `names`."""
    style.matplotlib().rcParams.update(FONT)
    num_panels = num_stages + 2
    figure = style.new_figure(3.2 * where.height + 1.6, width=3.2 * num_panels)
    line = figure.subplots(1, num_panels)
    show(line[0], where.picture, aspect=where.aspect)
    line[0].set(title="slice of a phantom CT", xlabel=f"{depth.size} tokens")
    for stage, axes in enumerate(line[1:-1], start=1):
        kept = depth >= stage
        draw_kept(axes, where, kept=kept)
        share = (kept & organs).sum() / organs.sum()
        axes.set(
            title=f"after pruning stage {stage}", xlabel=f"{kept.sum()} tokens kept:\n{share:.0%} of the organ patches"
        )
    plane = where.of(labels)
    show(line[-1], grey(where.picture), aspect=where.aspect)
    line[-1].set(title="predicted labels", xlabel="a label for every voxel")
    for value in np.unique(plane[plane > 0]):
        fill(line[-1], plane == value, color=style.class_color(value), aspect=where.aspect)
    present = [value for value in range(1, len(names)) if (plane == value).any()]
    handles = [
        line[-1].plot([], [], "s", markersize=13, color=style.class_color(value), label=names[value].replace("_", " "))[
            0
        ]
        for value in present
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), handletextpad=0.2)
    return figure


def draw_kept(axes: "Axes", where: View, *, kept: np.ndarray) -> None:
    """The slice with the patches (*grid) that are not kept pale, each kept patch in a frame."""
    alive = where.of(kept)
    show(axes, faded(where.picture, alive), aspect=where.aspect)
    height, width = (size / count for size, count in zip(where.picture.shape[:2], alive.shape, strict=True))
    rectangle = style.matplotlib().patches.Rectangle
    for row, column in zip(*np.nonzero(alive), strict=True):
        corner = (column * width - 0.5, row * height - 0.5)
        axes.add_patch(rectangle(corner, width, height, fill=False, edgecolor=style.MARK, linewidth=1.6))


def fill(axes: "Axes", mask: np.ndarray, *, color: style.Color, aspect: float) -> None:
    """A mask (H, W) in one colour, half transparent, with its border."""
    tinted = np.zeros((*mask.shape, 4))
    tinted[mask] = (*color, 0.6)
    axes.imshow(tinted, aspect=aspect, interpolation="none")
    outline(axes, mask, color=color)


def main(argv: Sequence[str] | None = None) -> None:
    options = parser().parse_args(argv)
    try:
        figure = draw(options.run, case_id=options.case)
    except UserError as error:
        sys.exit(f"Error: {error}")
    with atomic(options.output) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    print(options.output)


if __name__ == "__main__":
    main()
