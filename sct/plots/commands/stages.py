"""Tokens that exit early, and the prediction after each stage (figures 1, 3 and 4 of the DToP paper), by case.

    sct-plot stages RUN --case 0029 0030
    sct-plot stages RUN --case 0029 --p0 0.8 0.95 --output figure3

RUN is a run folder or checkpoint of encoder=dtop. Each case has two lines: the image with the patches that exited
(bright) and those that are still computed (pale) after each stage; below, the truth and the prediction after each
stage, in which a patch that exited keeps its own. With --p0 each case is shown with each of these thresholds.
"""

import argparse
from typing import Any

from sct.plots.commands import base
from sct.plots.planes import PLANES, view
from sct.plots.runs import Run, find_case, load_window, open_run
from sct.plots.stages import StageRow, draw_stages, stages_of


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    made.add_argument("run", metavar="RUN")
    made.add_argument("--case", dest="cases", nargs="+", required=True, metavar="ID", help="cases of any split")
    made.add_argument(
        "--p0", type=float, nargs="+", default=[], metavar="P0", help="confidences from which tokens exit"
    )
    made.add_argument("--plane", choices=tuple(PLANES), default="axial", help="plane of volumes to draw")
    base.add_network_options(made)
    return made


def row_of(run: Run, case_id: str, *, plane: str) -> StageRow:
    case, split = find_case(run, case_id)
    window = load_window(run, case)
    exited, predictions = stages_of(run.network, window.image.unsqueeze(0).to(run.device), outputs=run.data.outputs)
    truth = window.label.numpy()
    return StageRow(
        name=f"{case.id} ({split})\np0 = {run.config.encoder.reducer.p0:g}",
        where=view(window.image.numpy(), truth, spacing=window.spacing, plane=plane),
        truth=truth,
        exited=exited,
        predictions=predictions,
    )


def draw(options: argparse.Namespace) -> base.Drawn:
    settings: list[dict[str, Any]] = [{"reducer": {"p0": p0}} for p0 in options.p0] or [{}]
    runs = [open_run(options.run, options=options, encoder=changes) for changes in settings]
    rows = [row_of(run, case, plane=options.plane) for case in options.cases for run in runs]
    figure = draw_stages(
        rows,
        classes=runs[0].data.outputs.legend,
        title=f"{runs[0].config.name}: tokens that exit early, and predictions",
        about="Bright patches exited and keep their prediction, pale patches are still computed. Filled: the "
        "prediction; outlined: the truth. Percentages are for the whole window.",
    )
    return base.Drawn(figure, runs[0].folder / "figures" / f"stages_{options.cases[0]}")
