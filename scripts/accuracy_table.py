"""The table of accuracy: many networks on several tasks, the same recipe and the same minutes of training for each.

    python scripts/accuracy_table.py --data PATH --plan                       # what would run, and how long
    python scripts/accuracy_table.py --data PATH --jobs 2                     # everything
    python scripts/accuracy_table.py --data PATH --task hippocampus --contestants stp dense --seeds 0 1 2
    python scripts/accuracy_table.py --data PATH --task brats --minutes 2     # or --steps 400: the same steps for all

Contestants and tasks are in scripts/accuracy/contestants.yaml; PATH has the folders of the data sets that it names.
For a task with minutes, the seconds of a training step are measured first: the contestants take turns, and as many run
at a time as later. Each then trains as many steps as fit into the minutes. A run is trained by `sct.train`, which
keeps the weights that are best on validation cases, and scored by `sct.eval` on test cases. Dice is compared case by
case with the reference (Wilcoxon's signed-rank test; Holm's correction for the number of rows). At the end the time to
segment a case is measured, again in turn.

Everything lies in --folder, with table.md and table.json. Give the same command again after a stop: finished runs are
not repeated, and a stopped one goes on.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from accuracy.plan import Cell, Contestant, Field, Task, cells_of, check_packages
from accuracy.runs import Place, fill, lengths_of, prediction_seconds
from accuracy.table import summary_table, task_rows, task_table

from sct.errors import UserError
from sct.profiling.timing import device_name
from sct.runtime.files import write_text
from sct.runtime.signals import Interrupted

CONTESTANTS = Path(__file__).parent / "accuracy" / "contestants.yaml"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with the folders of the data sets")
    parser.add_argument("--folder", type=Path, default=Path("outputs/accuracy"), help="folder of runs and table")
    parser.add_argument("--list", type=Path, default=CONTESTANTS, help="YAML file of contestants and tasks")
    parser.add_argument("--task", nargs="+", help="some of the tasks; default: all")
    parser.add_argument("--contestants", nargs="+", help="some of the contestants; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folds", nargs="+", type=int, help="some of a task's folds; default: all")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="of training of each run, instead of those of the list")
    length.add_argument("--steps", type=int, help="the same number of steps for all, instead of the same minutes")
    parser.add_argument("--rounds", type=int, default=2, help="rounds in which the time of a step is measured")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of every training")
    parser.add_argument("--cases", type=int, default=5, help="cases on which the time of prediction is measured")
    parser.add_argument("--plan", action="store_true", help="only tell what would run")
    return parser.parse_args(argv)


def chosen(names: Sequence[str] | None, *, among: dict[str, Any], option: str) -> list[Any]:
    """The entries with these names; all without names. UserError for an unknown name."""
    if unknown := [name for name in names or () if name not in among]:
        raise UserError(f"{option} {unknown[0]} is unknown. There are {', '.join(among)}.")
    return [among[name] for name in names or among]


def length_of(task: Task, options: argparse.Namespace) -> tuple[float | None, int | None]:
    """Minutes and steps of the training of each run of a task; one of them is None."""
    if options.minutes is not None or options.steps is not None:
        return options.minutes, options.steps
    return task.minutes, task.steps


def plan(tasks: Sequence[Task], contestants: Sequence[Contestant], options: argparse.Namespace) -> str:
    """What would run, and the hours of its trainings."""
    lines, total = [], 0.0
    for task in tasks:
        number = len(cells_of(task, contestants, seeds=options.seeds, only=options.folds))
        minutes, steps = length_of(task, options)
        total += number * (minutes or 0)
        each = f"{steps} steps" if minutes is None else f"{minutes:g} minutes"
        lines.append(f"{task.name}: {number} runs of {each}")
    if total:
        lines.append(f"{total / options.jobs / 60:.1f} hours of training, {options.jobs} run(s) at a time")
    return "\n".join(lines)


def run_task(task: Task, contestants: Sequence[Contestant], options: argparse.Namespace, *, reference: str) -> dict:
    """Fills a task's part of the table; returns its rows and its text."""
    place = Place(options.folder, options.data, tuple(options.settings), options.jobs, options.threads)
    minutes, steps = length_of(task, options)
    lengths = lengths_of(task, contestants, place=place, minutes=minutes, steps=steps, rounds=options.rounds)
    cells = cells_of(task, contestants, seeds=options.seeds, only=options.folds)

    def filled(cell: Cell) -> None:
        fill(cell, place=place, steps=lengths.steps[cell.contestant.name])
        print(f"{task.name} {cell.name} done", file=sys.stderr)

    place.each(filled, cells)
    first = [cell for cell in cells if (cell.seed, cell.fold) == (cells[0].seed, cells[0].fold)]
    predicted = prediction_seconds(first, place=place, cases=options.cases)
    rows = task_rows(cells, place=place, lengths=lengths, reference=reference, predicted=predicted)
    text = task_table(task, rows, reference=reference, minutes=minutes)
    return {"what": task.what, "rows": rows, "minutes": minutes, "text": text}


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    try:
        field = Field.read(options.list)
        tasks = chosen(options.task, among=field.tasks, option="--task")
        contestants = chosen(options.contestants, among=field.contestants, option="--contestants")
        print(plan(tasks, contestants, options), file=sys.stderr)
        if options.plan:
            return
        check_packages(contestants)
        options.folder, options.data = options.folder.resolve(), options.data.resolve()
        results = {}
        for task in tasks:
            results[task.name] = run_task(task, contestants, options, reference=field.reference)
            write_results(results, field=field, options=options)
    except UserError as error:
        sys.exit(str(error))
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.status)
    print((options.folder / "table.md").read_text())


def write_results(results: dict[str, dict], *, field: Field, options: argparse.Namespace) -> None:
    """Writes table.json and table.md, of the tasks that are finished."""
    machine = {
        "processor": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "jobs": options.jobs,
        "threads": options.threads,
    }
    content = {"date": date.today().isoformat(), "machine": machine, "seeds": options.seeds, "tasks": results}
    write_text(options.folder / "table.json", json.dumps(content, indent=2) + "\n")
    summary = summary_table({task: result["rows"] for task, result in results.items()}, tasks=field.tasks)
    where = (
        f"{content['date']}, {machine['processor']}, {options.jobs} run(s) at a time, {options.threads} thread(s) each"
    )
    star = f"Mean Dice of unseen cases; *: differs from {field.reference}, Holm's p below 0.05."
    sections = "\n".join(result["text"] for result in results.values())
    write_text(options.folder / "table.md", f"# Accuracy\n\n{where}. {star}\n\n{summary}\n{sections}")


if __name__ == "__main__":
    main()
