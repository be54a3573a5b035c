"""Relative positions of a trained APFormer as heat maps (figure 4 of its paper): equations 8 and 9.

    sct-plot positions RUN
    sct-plot positions RUN --layer 4 --head 6 --query 10 10 --output figure4

RUN is a run folder or checkpoint of a network with encoder.attention.positions: apformer. Above: the Gaussian prior G
of one block and head, for all pairs of patches, and for one query on the grid. Below: the same with the learned offsets
R, which is what attention gets. --query is the row and column of the patch, counted from 0; the default is the middle.
"""

import argparse

from sct.plots.commands import base
from sct.plots.positions import draw_positions, positions_of
from sct.plots.runs import open_run


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    made.add_argument("run", metavar="RUN")
    base.add_query_options(made)
    base.add_network_options(made)
    return made


def draw(options: argparse.Namespace) -> base.Drawn:
    run = open_run(options.run, options=options, with_data=False)
    positions = positions_of(run.network.encoder, layer=options.layer, head=options.head)
    grid = run.network.encoder.spec.grid
    query = tuple(options.query or (size // 2 for size in grid))
    base.check_query(query, grid=grid)
    figure = draw_positions(
        positions,
        query=query,
        grid=grid,
        title=f"{run.config.name}: relative positions of block {options.layer}, head {options.head}",
        about=f"Grid of {' x '.join(map(str, grid))} patches. theta = {positions.theta:.2f} patches. Each row has its "
        "own scale. The heat map of a query has, at the place of every key, what is added to their product.",
    )
    return base.Drawn(figure, run.folder / "figures" / f"positions_block{options.layer}_head{options.head}")
