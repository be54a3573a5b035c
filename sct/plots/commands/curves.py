"""Pixel loss of the training and validation Dice of several runs against steps (figure 8 of the APFormer paper).

    sct-plot curves --run baseline=RUN --run "+ SSA"=RUN --run "+ GRPE"=RUN
    sct-plot curves --run APFormer=RUN --quantities train/loss tokens/alive_1 val/dice/lesion

Reads metrics.jsonl of each run folder, also while the run is training. Pale curve: logged values; thick curve: their
running mean. The pixel loss (train/loss_pixel) is computed from the logits of all voxels and is comparable between
methods; train/loss is the total loss, which includes the method's extra terms.
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
        help=f"keys of metrics.jsonl, one panel for each (default: {' '.join(COMPARED)})",
    )  # fmt: skip
    made.add_argument(
        "--smooth",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="window of the running mean as a share of the curve (default: 0.05)",
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
