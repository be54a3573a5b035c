"""What the selection of tokens is worth in trained runs: each case predicted with other tokens, by the same weights.

    python scripts/check_selection.py RUN [RUN ...] [--split test] [--cases 0] [--seed 0] [--device auto]

Only the ranking of the tokens changes; each stage keeps as many tokens of an image as before.

ranking     which tokens rank first
learned     those of the run itself
random      drawn anew for each window, from --seed
inverted    those that the run ranks last
truth       patches with a boundary of the labels, then other patches with foreground, then the rest

The value of the selection is the mean Dice with the learned ranking minus the mean Dice with a random one; p is of
Wilcoxon's signed-rank test over the cases. The shares are of patches alive after each stage: of all, with foreground,
with or next to a boundary, and with a wrongly predicted voxel. `agreement` is Spearman's correlation of the first
stage's scores of a window and of its mirror image. The result is written to RUN/eval/SPLIT/selection.json, and its
value is a column of `sct.report`. `sct.eval selection=true` does the same.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from sct.errors import UserError
from sct.runs.run import open_run
from sct.runs.selection import measure_selection, selection_table


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--cases", type=int, default=0, help="number of cases, 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the random ranking")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    logging.basicConfig(level=logging.WARNING)
    for name in options.runs:
        run = open_run(name, device=options.device, precision="fp32")
        folder = Path(run.folder) / "eval" / options.split
        selection = measure_selection(
            run, split=options.split, folder=folder, count=options.cases or None, seed=options.seed
        )
        print(f"{name}: {options.split}\n{selection_table(selection)}\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
