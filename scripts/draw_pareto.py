"""Dice against the time of a case: the figure of a table of `scripts/accuracy_table.py`.

    python scripts/accuracy_table.py --list scripts/accuracy/pareto.yaml --data PATH --folder outputs/pareto
    python scripts/draw_pareto.py outputs/pareto/table.json --output outputs/pareto/front

A panel for each task. The line joins the front: networks than which no other one is both faster and better. Writes a
PNG and a PDF. Needs the extra `figures`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

from sct.errors import UserError
from sct.plots.style import LINE_COLORS, MARK, caption, new_figure, save, styled
from sct.runtime.plain import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, metavar="TABLE.json")
    parser.add_argument("--output", type=Path, default=Path("outputs/pareto/front"), help="file without its ending")
    return parser.parse_args(argv)


def front(rows: Rows) -> list[Mapping[str, Any]]:
    """The rows than which no other one is both faster and better, fastest first."""
    found: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["predict_seconds"], -row["dice"])):
        if not found or row["dice"] > found[-1]["dice"]:
            found.append(row)
    return found


def read_tasks(path: Path) -> dict[str, Rows]:
    """The timed rows of each task of a table, by what the task is.

    UserError where the file is no table, or nothing in it is timed.
    """
    content = read_json(path, remedy="Make it with scripts/accuracy_table.py.")
    try:
        tasks: dict[str, Rows] = {
            task["what"]: [row for row in task["rows"] if row["predict_seconds"] is not None]
            for task in content["tasks"].values()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no table of scripts/accuracy_table.py: it lacks {error}.") from error
    if not tasks or not all(tasks.values()):
        raise UserError(f"{path} has a task without a timed network. Run scripts/accuracy_table.py to its end.")
    return tasks


@styled
def draw(tasks: Mapping[str, Rows]) -> "Figure":
    figure = new_figure(2.9 * len(tasks) + 0.6)
    for axes, (name, rows) in zip(figure.subplots(len(tasks), 1, squeeze=False).flat, tasks.items(), strict=True):
        best = front(rows)
        axes.plot([row["predict_seconds"] for row in best], [row["dice"] for row in best], color=MARK, linewidth=1)
        # numbers at the points, names beside the panel: names of points that lie close together would cover each other
        for number, row in enumerate(sorted(rows, key=lambda row: row["predict_seconds"]), start=1):
            seeds = row["dice_by_seed"]
            axes.errorbar(
                row["predict_seconds"], row["dice"], yerr=stdev(seeds) if len(seeds) > 1 else None, fmt="o",
                color=MARK if row in best else LINE_COLORS[0], capsize=2.5, elinewidth=0.9,
                label=f"{number}  {row['what']}",
            )  # fmt: skip
            place = (row["predict_seconds"], row["dice"])
            axes.annotate(str(number), place, xytext=(4, 4), textcoords="offset points", fontsize=7)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=6, markerscale=0.6, frameon=False)
        axes.set_title(name, loc="left")
        axes.set_xlabel("seconds a case")
        axes.set_ylabel("mean Dice")
        axes.margins(x=0.1, y=0.15)
        axes.grid()
        axes.spines[["top", "right"]].set_visible(False)
    caption(figure, "The line joins the networks than which no other one is both faster and better.")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    try:
        figure = draw(read_tasks(options.table))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    for path in save(figure, options.output):
        print(path)


if __name__ == "__main__":
    main()
