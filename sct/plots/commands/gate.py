"""Foreground probability by the gate of a trained run, and the patches that stay queries, one row for each case.

    sct-plot gate RUN --case ISIC_0000003 ISIC_0000007 ISIC_0000012

RUN is a run folder or checkpoint of a network with encoder.gate: apformer, ap_transunet. Patches with a probability of
background >= encoder.gate.threshold are pruned as queries of attention.
"""

import argparse

import numpy as np

from sct.plots.commands import base
from sct.plots.gate import GateRow, draw_gate, gate_of
from sct.plots.planes import view
from sct.plots.runs import Run, find_case, load_window, open_run


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    made.add_argument("run", metavar="RUN")
    made.add_argument("--case", dest="cases", nargs="+", required=True, metavar="ID", help="cases of any split")
    base.add_network_options(made)
    return made


def row_of(run: Run, case_id: str) -> GateRow:
    case, split = find_case(run, case_id)
    window = load_window(run, case)
    probability, query_mask = gate_of(run.network.encoder, window.image.unsqueeze(0).to(run.device))
    truth = window.label.numpy()
    where = view(window.image.numpy(), truth, spacing=window.spacing)
    return GateRow(f"{case.id} ({split})", where, truth, probability, query_mask)


def draw(options: argparse.Namespace) -> base.Drawn:
    run = open_run(options.run, options=options)
    rows = [row_of(run, case) for case in options.cases]
    share = np.mean([row.query_mask.mean() for row in rows])
    threshold = run.config.encoder.gate.threshold
    figure = draw_gate(
        rows,
        threshold=1 - threshold,
        title=f"{run.config.name}: query-wise pruning",
        about=f"Patches with a probability of background of {threshold:g} or more are pruned as queries (pale). Mean "
        f"over these cases: {share:.1%} are queries.",
    )
    return base.Drawn(figure, run.folder / "figures" / f"gate_{options.cases[0]}")
