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
stage's scores of a window and of its mirror image. The result is written to RUN/eval/SPLIT/selection.json.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sct.errors import UserError
from sct.evaluation.selection import KINDS, Selection, check_selection
from sct.inference import SlidingWindow
from sct.runs.run import open_run


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--cases", type=int, default=0, help="number of cases, 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the random ranking")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


def table(selection: Selection) -> str:
    """A line for each ranking."""
    stages = range(1, selection.num_stages + 1)
    heads = [f"{kind} {stage}" for stage in stages for kind in KINDS]
    lines = [f"{'ranking':9} {'Dice':>7} {'p':>7}  " + " ".join(f"{head:>12}" for head in heads)]
    for ranking, outcome in selection.outcomes.items():
        p = selection.p_value(ranking)
        shown = "" if p is None else f"{p:.2g}"
        shares = [f"{outcome.shares.of(kind, stage):12.3f}" for stage in stages for kind in KINDS]
        lines.append(f"{ranking:9} {outcome.mean:7.4f} {shown:>7}  " + " ".join(shares))
    agreement = "" if selection.agreement is None else f", agreement {selection.agreement:.3f}"
    return "\n".join([*lines, f"value of the selection {selection.value:+.4f}{agreement}"])


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    logging.basicConfig(level=logging.WARNING)
    for name in options.runs:
        run = open_run(name, device=options.device, precision="fp32")
        cases = run.data.cases(options.split)[: options.cases or None]
        selection = check_selection(
            tqdm(cases, desc=name),
            network=run.network,
            data=run.data,
            inferer=SlidingWindow(overlap=run.inferer.overlap, blending=run.inferer.blending),
            device=run.device,
            seed=options.seed,
        )
        print(f"{name}: {len(cases)} cases of {options.split}\n{table(selection)}\n")
        folder = Path(run.folder) / "eval" / options.split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "selection.json").write_text(json.dumps(selection.summary(), indent=1), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
