"""Training loss and validation Dice of several runs against steps (figure 8 of the APFormer paper).

    python scripts/plot_curves.py --run baseline=RUN --run "+ SSA"=RUN --run "+ GRPE"=RUN
    python scripts/plot_curves.py --run APFormer=RUN --quantities train/loss tokens/alive_1 val/dice/lesion

Reads metrics.jsonl of each run folder, also of a run that still trains. The pale curve is what was
logged, the thick one its running mean.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sct.errors import UserError
from sct.plots import command
from sct.plots.curves import NAMES, draw_curves, read_curve


def parser() -> argparse.ArgumentParser:
    made = command.make_parser(__doc__)
    command.add_runs(made)
    made.add_argument(
        "--quantities", nargs="+", default=list(NAMES), metavar="KEY",
        help=f"keys of metrics.jsonl, a panel each (default: {' '.join(NAMES)})",
    )  # fmt: skip
    made.add_argument(
        "--smooth",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of a curve in the running mean (default: 0.05)",
    )
    return made


def draw(options: argparse.Namespace) -> command.Drawn:
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
    return command.Drawn(figure, Path("outputs/figures") / "curves")


def main(argv: Sequence[str] | None = None) -> None:
    command.execute(parser(), draw, argv)


if __name__ == "__main__":
    main()
