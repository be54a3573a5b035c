"""Every pruning method in one table: trained, scored on unseen cases, counted, and timed side by side.

    sct-compare +experiment=hippocampus_stp_mta data.root=PATH/Task04_Hippocampus
    sct-compare +experiment=lookalike_stp_mta --decoders unetr_thin fcn --jobs 2
    sct-compare +experiment=isic_apformer --table apformer --seeds 0 1 2   # its table IV

`python -m sct.compare` is the same command. Finished work is not repeated: call the command again after an
interruption, or with more methods or seeds. All settings except the method come from the experiment and its overrides.

column                        measured on
scores, foreground kept       test cases
selection                     test cases: mean Dice minus that of a random choice of tokens
MACs, tokens                  windows of validation cases
speed                         all networks in turn, in one process; relative to the first row

Results: <output>/table.md and table.json.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from sct.compare.methods import DECODERS, TABLES
from sct.errors import UserError
from sct.runtime.signals import Interrupted


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="sct-compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table", choices=TABLES, default="methods", help="rows of the table: pruning methods, or parts of APFormer"
    )
    parser.add_argument("--decoders", nargs="+", help="default: unetr_thin and fcn; with --table apformer: unet")
    parser.add_argument("--methods", nargs="+", help="only these rows; speed is relative to the first one")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/compare_methods"))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time; they share the cores")
    parser.add_argument("--windows", type=int, default=16, help="validation windows for the mean of MACs")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds")
    parser.add_argument("--device", default="cpu", help="device of the timing; trainings use trainer.device")
    parser.add_argument("overrides", nargs="*", help="the experiment and any other setting, as for sct.train")
    options = parser.parse_intermixed_args(argv)
    options.decoders = options.decoders or DECODERS[options.table]
    options.methods = options.methods or list(TABLES[options.table])
    if unknown := set(options.methods) - set(TABLES[options.table]):
        parser.error(f"unknown rows {sorted(unknown)}; --table {options.table} has {', '.join(TABLES[options.table])}")
    return options, options.overrides


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = parse(argv)
    try:
        # imported only here: torch takes seconds, and --help does not need it
        sys.stdout.write(import_module("sct.compare.task").compare(options, overrides=overrides))
    except UserError as error:
        sys.exit(f"Error: {error}")
    except Interrupted as interrupted:
        sys.stderr.write(f"{interrupted}\n")
        sys.exit(interrupted.status)


if __name__ == "__main__":
    main()
