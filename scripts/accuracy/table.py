"""From finished runs to the table of accuracy: paired scores and costs, as numbers and as Markdown."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

from accuracy.plan import Cell, Lengths, Task
from accuracy.runs import Place
from sct.errors import UserError
from sct.reports.collect import EvaluatedRun, Setting, paired_p_value, read_run
from sct.runs.folder import best_score


def task_rows(
    cells: Sequence[Cell],
    *,
    place: Place,
    lengths: Lengths,
    reference: str,
    predicted: Mapping[str, Sequence[float]],
) -> list[dict[str, Any]]:
    """One row for each contestant of a task whose runs have all finished."""
    by_contestant: dict[str, list[Cell]] = {}
    for cell in cells:
        by_contestant.setdefault(cell.contestant.name, []).append(cell)
    runs = {
        name: [read_run(place.of(cell), place.of(cell), split="test") for cell in own]
        for name, own in by_contestant.items()
    }
    check_cases(runs)
    settings = {name: Setting(name, own) for name, own in runs.items()}
    p_values = {
        name: paired_p_value(setting, settings[reference])
        for name, setting in settings.items()
        if reference in settings and name != reference
    }
    corrected = holm({name: p for name, p in p_values.items() if p is not None})
    rows = []
    for name, setting in settings.items():
        by_case = setting.by_case()
        steps = lengths.steps[name]
        # one number for each seed: all folds of a seed together are one cross-validation
        by_seed = [
            fmean(Setting(name, [run for run, cell in pairs if cell.seed == seed]).by_case().values())
            for pairs in [list(zip(runs[name], by_contestant[name], strict=True))]
            for seed in sorted({cell.seed for cell in by_contestant[name]})
        ]
        validated = [best_score(place.of(cell), metric="val/dice/mean") for cell in by_contestant[name]]
        rows.append({
            "contestant": name,
            "what": by_contestant[name][0].contestant.what,
            "runs": len(runs[name]),
            "cases": len(by_case),
            "dice": fmean(by_case.values()),
            "dice_by_seed": by_seed,
            "val_dice": fmean(validated),
            "difference": fmean(by_case.values()) - fmean(settings[reference].by_case().values())
            if reference in settings
            else None,
            "p": p_values.get(name),
            "p_holm": corrected.get(name),
            "missed": setting.count("n_missed"),
            "steps": steps,
            "step_seconds": median(lengths.seconds[name]) if name in lengths.seconds else None,
            "window": runs[name][0].profile["image_shape"],
            "params_m": setting.cost("params") / 1e6,
            "macs_g": setting.cost("macs", "total") / 1e9,
            "predict_seconds": median(predicted[name]) if name in predicted else None,
            "by_case": by_case,
        })  # fmt: skip
    return rows


def check_cases(runs: Mapping[str, Sequence[EvaluatedRun]]) -> None:
    """UserError where a run was trained or chosen on a case that it is scored on, or contestants have other cases."""
    tested: dict[str, list[frozenset[str]]] = {}
    for name, own in runs.items():
        for run in own:
            if run.card is None:
                raise UserError(f"{run.folder} has no card that tells its cases. Train it anew in another --folder.")
            split = {part: set(run.card["split"][part]) for part in ("train", "val", "test")}
            scored = {row.case_id for row in run.cases}
            if seen := scored & (split["train"] | split["val"]):
                raise UserError(f"{run.folder} is scored on {min(seen)}, which it was trained or chosen on.")
            tested.setdefault(name, []).append(frozenset(scored))
    if len({tuple(cases) for cases in tested.values()}) > 1:
        raise UserError(f"The contestants {', '.join(tested)} were scored on different cases. Give another --folder.")


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's p-values of several comparisons with one reference: each at least as large as the ones before it."""
    corrected, largest = {}, 0.0
    for number, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - number) * p_values[name]))
        corrected[name] = largest
    return corrected


def task_table(task: Task, rows: Sequence[Mapping[str, Any]], *, reference: str, minutes: float | None) -> str:
    """The rows of a task as a section in Markdown."""
    head = (
        "contestant", "Dice", "sd of seeds", f"against {reference}", "p", "p (Holm)", "Dice val", "missed a run",
        "steps", "s a step", "window", "parameters M", "MACs G", "s a case",
    )  # fmt: skip
    lines = [head, ("---", *["---:"] * (len(head) - 1))]
    for row in sorted(rows, key=lambda row: -row["dice"]):
        is_reference = row["contestant"] == reference
        seeds = row["dice_by_seed"]
        lines.append((
            row["what"],
            f"{row['dice']:.4f}",
            f"{stdev(seeds):.4f}" if len(seeds) > 1 else "-",
            "-" if is_reference or row["difference"] is None else f"{row['difference']:+.4f}",
            "-" if row["p"] is None else f"{row['p']:.2g}",
            "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
            f"{row['val_dice']:.4f}",
            f"{row['missed']:g}",
            str(row["steps"]),
            "-" if row["step_seconds"] is None else f"{row['step_seconds']:.2f}",
            " x ".join(map(str, row["window"][1:])),
            f"{row['params_m']:.1f}",
            f"{row['macs_g']:.2f}",
            "-" if row["predict_seconds"] is None else f"{row['predict_seconds']:.2f}",
        ))  # fmt: skip
    runs = {row["runs"] for row in rows}
    each = f"{min(runs)} run(s) a contestant" if len(runs) == 1 else "different numbers of runs"
    training = "the same steps" if minutes is None else f"{minutes:g} minutes of training each"
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return f"## {task.what}\n\n{rows[0]['cases']} unseen cases, {each}, {training}.\n\n{table}"


def summary_table(results: Mapping[str, Sequence[Mapping[str, Any]]], *, tasks: Mapping[str, Task]) -> str:
    """Mean Dice of every contestant on every task, a star where it differs from the reference (Holm's p below 0.05)."""
    cells: dict[str, dict[str, str]] = {}
    for task, rows in results.items():
        for row in rows:
            star = "*" if row["p_holm"] is not None and row["p_holm"] < 0.05 else ""
            cells.setdefault(row["what"], {})[task] = f"{row['dice']:.4f}{star}"
    lines = [("contestant", *(tasks[task].what for task in results)), ("---", *["---:"] * len(results))]
    lines += [(what, *(by_task.get(task, "-") for task in results)) for what, by_task in cells.items()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
