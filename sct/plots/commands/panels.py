"""Predictions of several runs, image and truth (figures 5 and 6 of the APFormer paper), one row for each case.

    sct-plot panels --run APFormer=RUN --run TransUNet=RUN --cases ISIC_0000003 ISIC_0000007

Uses the predictions that sct.eval wrote into a run (eval/test or eval/val); if there are none, or with --fresh, the
network predicts now. For a volume, the slice with most of the truth is shown. Dice is computed for the whole case, as
the mean over classes in the truth or the prediction.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sct.errors import UserError
from sct.plots.commands import base
from sct.plots.panels import PanelRow, draw_panels, panel_row, prediction_of
from sct.plots.runs import Run, find_case, open_run


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    base.add_runs(made)
    made.add_argument("--cases", nargs="+", required=True, metavar="ID", help="cases that all runs have")
    made.add_argument("--fresh", action="store_true", help="predict again, also if sct.eval wrote predictions")
    base.add_network_options(made)
    return made


def row_of(runs: Sequence[Run], case_id: str, *, fresh: bool) -> PanelRow:
    case, split = find_case(runs[0], case_id)
    predictions = [prediction_of(run, find_case(run, case_id)[0], fresh=fresh) for run in runs]
    return panel_row(case, run=runs[0], predictions=predictions, name=f"{case.id} ({split})")


def draw(options: argparse.Namespace) -> base.Drawn:
    runs = [open_run(run, options=options) for _, run in options.runs]
    data = runs[0].data
    for run in runs:
        # only the labels must agree: with equal labels one run may predict classes and another regions
        if run.data.label_map != data.label_map:
            raise UserError(f"{run.source} has other labels than {runs[0].source}. Compare runs on the same data set.")
    rows = [row_of(runs, case, fresh=options.fresh) for case in options.cases]
    figure = draw_panels(
        rows,
        runs=[name for name, _ in options.runs],
        classes=data.outputs.legend,
        about="Filled: the prediction; in the last column: the truth. Dice of the whole case"
        + (", mean over classes." if len(data.outputs.names) > 1 else "."),
    )
    return base.Drawn(figure, Path("outputs/figures") / f"panels_{options.cases[0]}")
