"""The work of `sct-compare`: trains, evaluates and profiles every network, and writes one table of all."""

import argparse
import json
import os

from sct.compare.cells import Cell, fill
from sct.compare.methods import SCORES, TABLES
from sct.compare.results import markdown, table, time_cells
from sct.runtime.children import each


def compare(options: argparse.Namespace, *, overrides: list[str]) -> str:
    """Fills all cells and writes the table; returns it as text."""
    changes = TABLES[options.table]
    cells = [
        Cell(
            decoder, method, tuple(changes[method]), seed, (options.output / f"{decoder}_{method}_seed{seed}").resolve()
        )
        for decoder in options.decoders
        for method in options.methods
        for seed in options.seeds
    ]
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    each(lambda cell: fill(cell, overrides=overrides, options=options, threads=threads), cells, jobs=options.jobs)
    rows = table(cells, time_cells(cells, options=options))
    (options.output / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    text = markdown(rows, scores=SCORES[options.table])
    (options.output / "table.md").write_text(text)
    return text
