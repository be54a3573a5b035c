"""Pruning depth over the anatomy (figures 2 and 3 of the STP paper), or exited tokens per stage (1 and 4 of DToP's).

    sct-plot depth RUN --case hippocampus_001 hippocampus_015
    sct-plot depth RUN --case 0029 --planes axial coronal --output figure2

RUN is a run folder or checkpoint of a network that prunes tokens. The figure shows the window around the foreground of
each case (the complete case if it is not larger than data.roi_size): the image with the truth outlined, how long each
patch is kept, and the patches that remain after each stage. Below: the kept share of patches with foreground, and the
share that a random choice of as many patches would keep.
"""

import argparse
from collections.abc import Sequence

from sct.models.patch import in_words
from sct.plots.commands import base
from sct.plots.depth import DepthRow, depths_of, draw_depth, stage_shares, views_of
from sct.plots.planes import PLANES
from sct.plots.runs import Run, find_case, load_window, open_run


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    made.add_argument("run", metavar="RUN")
    made.add_argument("--case", dest="cases", nargs="+", required=True, metavar="ID", help="cases of any split")
    made.add_argument(
        "--planes", nargs="+", choices=tuple(PLANES), default=list(PLANES), help="planes of volumes to draw"
    )
    base.add_network_options(made)
    return made


def row_of(run: Run, case_id: str, *, planes: Sequence[str]) -> DepthRow:
    case, split = find_case(run, case_id)
    window = load_window(run, case)
    depth = depths_of(run.network.encoder, window.image.unsqueeze(0).to(run.device))[0]
    truth = window.label.numpy()
    return DepthRow(
        name=f"{case.id} ({split})",
        views=views_of(window.image.numpy(), truth, spacing=window.spacing, planes=planes),
        truth=truth,
        depth=depth,
        shares=stage_shares(depth, window.label, patch_size=run.network.encoder.spec.patch_size),
    )


def draw(options: argparse.Namespace) -> base.Drawn:
    run = open_run(options.run, options=options)
    rows = [row_of(run, case, planes=options.planes) for case in options.cases]
    depth, patch_size = rows[0].depth, run.network.encoder.spec.patch_size
    figure = draw_depth(
        rows,
        title=f"{run.config.name}: {depth.words.title[0].lower()}{depth.words.title[1:]}",
        about=f"{depth.stages.size} patches with edges of {in_words(patch_size)} voxels. Pale patches "
        "are removed by this stage or an earlier one. Percentages are for the whole window: kept share of patches with "
        "foreground, and of all patches (the share that a random choice of as many patches keeps).",
    )
    return base.Drawn(figure, run.folder / "figures" / f"depth_{options.cases[0]}")
