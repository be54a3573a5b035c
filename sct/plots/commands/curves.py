"""Pixel loss of the training and validation Dice of several runs against steps (figure 8 of the APFormer paper).

    sct-plot curves --run baseline=RUN --run "+ SSA"=RUN --run "+ GRPE"=RUN
    sct-plot curves --run APFormer=RUN --quantities train/loss tokens/alive_1 val/dice/lesion

Reads metrics.jsonl of each run folder, also of a run that still trains. The pale curve is what was logged, the thick
one its running mean. The pixel loss (train/loss_pixel) judges the logits of every voxel and means the same for every
method; train/loss is the whole, with each method's own terms.
"""

import argparse
from pathlib import Path

from sct.errors import UserError
from sct.plots.commands import base
from sct.plots.curves import COMPARED, draw_curves, read_curve


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    base.add_runs(made)
    made.add_argument(
        "--quantities", nargs="+", default=list(COMPARED), metavar="KEY",
        help=f"keys of metrics.jsonl, a panel each (default: {' '.join(COMPARED)})",
    )  # fmt: skip
    made.add_argument(
        "--smooth",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of a curve in the running mean (default: 0.05)",
    )
    return made


def draw(options: argparse.Namespace) -> base.Drawn:
    if not 0 <= options.smooth <= 1:
        raise UserError(f"--smooth {options.smooth}: give a share of the curve, from 0 to 1.")
    panels = [
        (quantity, [read_curve(Path(run), quantity) for _, run in options.runs]) for quantity in options.quantities
    ]
    figure = draw_curves(
        panels,
        runs=[name for name, _ in options.runs],
        share=options.smooth,
        about=f"Thick: running mean over {options.smooth:.0%} of the curve; pale: as logged.",
    )
    return base.Drawn(figure, Path("outputs/figures") / "curves")
