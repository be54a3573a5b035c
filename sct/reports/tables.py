"""The table of a report: cells with standard deviations, written as markdown, csv and LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sct.evaluation.markup import plain_cell, plain_markdown
from sct.evaluation.scores import DISTANCES, HEADS, SCORES
from sct.reports.collect import Setting, paired_p_value, spread


@dataclass(frozen=True)
class Cell:
    """A number and its format; a `value` of None is shown as a dash."""

    value: float | None
    std: float | None = None
    digits: int = 2
    percent: bool = False
    suffix: str = ""
    signed: bool = False
    is_probability: bool = False  # a p-value is never 0: a tiny one is shown as "< 0.001"

    def text(self) -> str:
        if self.value is None:
            return "-"
        if self.is_probability and self.value < 10**-self.digits:
            return f"< {10**-self.digits:.{self.digits}f}"
        scale = 100 if self.percent else 1
        number = f"{self.value * scale:{'+' if self.signed else ''}.{self.digits}f}"
        if self.std is not None:
            number += f" ± {self.std * scale:.{self.digits}f}"
        return f"{number} %" if self.percent else number + self.suffix


# letters that LaTeX writes by a name
NAMED = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum"}

Table = list[dict[str, str | Cell]]


def build_table(
    settings: Sequence[Setting],
    *,
    baseline: Setting | None,
    scores: Sequence[str],
    classes: bool,
    papers: Mapping[str, Mapping[str, float]],
) -> Table:
    """A row for each setting: scores, missed cases, a paired test, tokens and costs, also relative to `baseline`.

    scores: names as in summary.json; "hd95" stands for hd95 in the measured unit. classes: adds a column of every
    score for each class and each group of classes. papers: label -> column -> number from a paper, in its own column.
    """
    measured = [name for name in SCORES if any(name in run.summary for s in settings for run in s.runs)]
    shown_scores = [name for name in measured if name in scores or name.split("_")[0] in scores]
    heads = list(dict.fromkeys(head for figures in papers.values() for head in figures))
    rows = []
    for setting in settings:
        row: dict[str, str | Cell] = {"setting": setting.label, "runs": Cell(len(setting.runs), digits=0)}
        for name in shown_scores:
            row |= score_cells(setting, name, classes=classes)
        for head, key in (("missed", "n_missed"), ("false pos.", "n_false_positive")):
            row[head] = Cell(setting.count(key), digits=1 if len(setting.runs) > 1 else 0)
        if baseline is not None:
            p_value = None if setting is baseline else paired_p_value(setting, baseline)
            row["p"] = Cell(p_value, digits=3, is_probability=True)
        values = setting.selection()
        row["selection"] = Cell(fmean(values) if values else None, spread(values), digits=4, signed=True)
        shares = setting.kept()
        row["tokens kept"] = Cell(shares.tokens if shares else None, digits=0, percent=True)
        row["foreground kept"] = Cell(shares.foreground if shares else None, digits=0, percent=True)
        row["patches kept"] = Cell(shares.patches if shares else None, digits=0, percent=True)
        row |= cost_cells(setting, baseline)
        for head in heads:
            row[f"{head} (paper, not ours)"] = Cell(papers.get(setting.label, {}).get(head), digits=4)
        rows.append(row)
    # rows of different data sets have different classes and units
    shown = [head for head in dict.fromkeys(head for row in rows for head in row) if not all_dashes(rows, head)]
    return [{head: row.get(head, Cell(None)) for head in shown} for row in rows]


def score_cells(setting: Setting, name: str, *, classes: bool) -> dict[str, str | Cell]:
    """Mean of a score over classes and runs, with its standard deviation over runs; `classes`: also for each class."""
    digits = 2 if name in DISTANCES else 4
    return {
        HEADS[name] if part == "mean" else f"{HEADS[name]} {part}": Cell(
            fmean(values) if values else None, spread(values), digits=digits
        )
        for part, values in setting.scores(name).items()
        if part == "mean" or classes
    }


def cost_cells(setting: Setting, baseline: Setting | None) -> dict[str, str | Cell]:
    """Parameters, MACs, speed and memory from the profiles, and the factors of improvement over the baseline."""
    params, macs = setting.cost("params"), setting.cost("macs", "total")
    row: dict[str, str | Cell] = {
        "params M": Cell(params / 1e6 if params is not None else None),
        "MACs G": Cell(macs / 1e9 if macs is not None else None, digits=3),
    }
    encoder = setting.cost("macs", "encoder")
    row["encoder MACs G"] = Cell(encoder / 1e9 if encoder is not None else None, digits=3)
    for name in ("inference", "training"):
        row[f"{name} images/s"] = Cell(setting.cost("throughput", name))
    row["training MiB"] = Cell(setting.cost("peak_memory_mb", "training"), digits=0)
    if baseline is not None:
        row["MACs saved"] = Cell(ratio(baseline.cost("macs", "total"), macs), suffix="x")
        for name in ("inference", "training"):
            rates = setting.cost("throughput", name), baseline.cost("throughput", name)
            row[f"{name} speed"] = Cell(ratio(*rates), suffix="x")
    return row


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def all_dashes(rows: Table, head: str) -> bool:
    """Whether a column has no number and no text."""
    return all(isinstance(cell := row.get(head, Cell(None)), Cell) and cell.value is None for row in rows)


def markdown(table: Table) -> str:
    """The table as markdown with aligned columns."""
    heads = list(map(plain_markdown, table[0]))
    lines = [[plain_markdown(cell) if isinstance(cell, str) else cell.text() for cell in row.values()] for row in table]
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |\n"
        for line in (heads, rule, *lines)
    )


def comma_separated(table: Table) -> str:
    """The table as csv with all digits; a standard deviation has its own column, whose name ends in `std`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    spreads = {head for row in table for head, cell in row.items() if isinstance(cell, Cell) and cell.std is not None}
    names = [name for head in table[0] for name in ([head, f"{head} std"] if head in spreads else [head])]
    writer.writerow(map(plain_cell, names))
    for row in table:
        line: list[object] = []
        for head, cell in row.items():
            values = [plain_cell(cell)] if isinstance(cell, str) else [cell.value, cell.std]
            line += ["" if value is None else value for value in values[: 1 + (head in spreads)]]
        writer.writerow(line)
    return text.getvalue()


def latex(table: Table) -> str:
    """The table as a LaTeX tabular with booktabs rules."""
    heads = list(table[0])
    lines = [[escaped(cell if isinstance(cell, str) else cell.text()) for cell in row.values()] for row in table]
    body = "".join("    " + " & ".join(line) + r" \\" + "\n" for line in lines)
    return (
        r"\begin{tabular}{l" + "r" * (len(heads) - 1) + "}\n"
        r"    \toprule" + "\n"
        "    " + " & ".join(map(escaped, heads)) + r" \\" + "\n"
        r"    \midrule" + "\n" + body + r"    \bottomrule" + "\n"
        r"\end{tabular}" + "\n"
    )


def escaped(text: str) -> str:
    """The text in one line, with LaTeX's special characters escaped: none of it is a command."""
    harmless = {letter: f"\\{letter}" for letter in "%&_#${}"} | {"±": r"$\pm$", "<": "$<$", ">": "$>$"}
    harmless |= {letter: rf"\text{name}{{}}" for letter, name in NAMED.items()}
    return "".join(harmless.get(letter, letter) for letter in " ".join(text.split()))
