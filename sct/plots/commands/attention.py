"""Attention before and after pruning (figure 7 of the APFormer paper), for one case of a trained run.

    sct-plot attention RUN --case ISIC_0000003
    sct-plot attention RUN --case ISIC_0000003 --layer 4 --head 6 --query 10 21 --output figure7

RUN is a run folder or checkpoint of a network with encoder.attention: apformer, ap_setr, ap_transunet. Above: the
matrix of one block and head, before pruning (all queries) and after it (pruned queries and dependencies are grey).
Below: the row of one query patch over the image. --query is the row and column of this patch, counted from 0; the
default is a patch on the border of the foreground.
"""

import argparse

from sct.plots.attention import attention_matrices, border_query, draw_attention, foreground_shares
from sct.plots.commands import base
from sct.plots.planes import view
from sct.plots.runs import find_case, load_window, open_run


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    made.add_argument("run", metavar="RUN")
    made.add_argument("--case", required=True, metavar="ID", help="a case of any split")
    base.add_query_options(made)
    base.add_network_options(made)
    return made


def draw(options: argparse.Namespace) -> base.Drawn:
    run = open_run(options.run, options=options)
    case, split = find_case(run, options.case)
    window = load_window(run, case)
    encoder = run.network.encoder
    image = window.image.unsqueeze(0).to(run.device)
    matrices = attention_matrices(encoder, image, layer=options.layer, head=options.head)
    patch_size, grid = encoder.spec.patch_size, encoder.spec.grid
    query = tuple(
        options.query or border_query(foreground_shares(window.label, patch_size=patch_size), matrices.query_mask)
    )
    base.check_query(query, grid=grid)
    truth = window.label.numpy()
    middle = query[-1] * patch_size[-1] + patch_size[-1] // 2
    shown = view(window.image.numpy(), truth, spacing=window.spacing, index=middle)
    figure = draw_attention(
        matrices,
        head=options.head,
        where=shown,
        truth=truth,
        query=query,
        title=f"{run.config.name}, {case.id} ({split}): block {options.layer}, head {options.head}",
        about=f"N = {matrices.before.shape[0]} patches. Colours are logarithmic; each panel has its own scale, from "
        "its 1st to its 99.9th percentile. Pruned entries are grey in the matrices and uncoloured over the image. The "
        "matrix before pruning has all queries. \u03b1: of the image; \u03bb: of the block, mean over heads.",
    )
    return base.Drawn(figure, run.folder / "figures" / f"attention_{case.id}_block{options.layer}_head{options.head}")
