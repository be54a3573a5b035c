"""Importance of each head of attention for each token (figure 3 of the AS-ViT paper), one row for each case and block.

    sct-plot heads RUN --case ISIC_0000003 --layers 7 9
    sct-plot heads RUN --case 0029 --layers 4 --plane coronal

RUN is a run folder or checkpoint of a plain ViT: encoder=asvit, and any other without encoder.attention. The importance
of a head is the norm of the token's context vector in this head, divided by the sum over heads: with it AS-ViT weights
the class token's attention. Patches that were pruned before the block are not coloured.
"""

import argparse

from sct.plots.commands import base
from sct.plots.heads import HeadRow, draw_heads, head_importance
from sct.plots.planes import PLANES, view
from sct.plots.runs import Run, find_case, load_window, open_run


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    made.add_argument("run", metavar="RUN")
    made.add_argument("--case", dest="cases", nargs="+", required=True, metavar="ID", help="cases of any split")
    made.add_argument("--layers", type=int, nargs="+", default=[1], help="numbers of blocks, from 1 (default: 1)")
    made.add_argument("--plane", choices=tuple(PLANES), default="axial", help="plane of volumes to draw")
    base.add_network_options(made)
    return made


def rows_of(run: Run, case_id: str, *, options: argparse.Namespace) -> list[HeadRow]:
    case, split = find_case(run, case_id)
    window = load_window(run, case)
    image, truth = window.image.unsqueeze(0).to(run.device), window.label.numpy()
    where = view(window.image.numpy(), truth, spacing=window.spacing, plane=options.plane)
    return [
        HeadRow(
            f"{case.id}\n({split})\nblock {layer}",
            where,
            truth,
            head_importance(run.network.encoder, image, layer=layer),
        )
        for layer in options.layers
    ]


def draw(options: argparse.Namespace) -> base.Drawn:
    run = open_run(options.run, options=options)
    rows = [row for case in options.cases for row in rows_of(run, case, options=options)]
    figure = draw_heads(
        rows,
        title=f"{run.config.name}: importance of the heads",
        about="Brighter: the head counts more in the score of this token (equation 6 of the AS-ViT paper). All panels "
        "have one scale. Patches pruned before the block are not coloured; the truth is outlined in the image.",
    )
    return base.Drawn(figure, run.folder / "figures" / f"heads_{options.cases[0]}")
