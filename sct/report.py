"""What is left of an evaluation: a row per case and class, the means, and a table to read."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sct.files import write_text
from sct.metrics import Row, summarize, unique_rows

COLUMNS = ("case_id", "class", "dice", "hd95_mm", "missed", "false_positive")

POLICY = (
    "A missed organ counts with Dice 0 and HD95 = the physical diagonal of the image, and so does an organ "
    "predicted where there is none (false positive). An organ in neither map (absent) is left out. HD95 is "
    "in mm on the original grid. Means are over the cases of a class first, then over classes."
)


def write_report(
    folder: Path,
    rows: Iterable[Row],
    *,
    title: str,
    meta: Mapping[str, object] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict:
    """Write cases.csv, summary.json and table.md into `folder`, and return the summary.

    `meta` says what was scored (checkpoint, split, inferer; values that JSON knows), `groups` names means
    over some of the classes. Rows of one case that several processes brought are written once.
    """
    rows = unique_rows(rows)
    summary = {"title": title, "meta": dict(meta or {}), **summarize(rows, groups=groups)}
    write_text(folder / "cases.csv", _cases_csv(rows))
    write_text(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    about = "".join(f"- {key}: {value}\n" for key, value in summary["meta"].items())
    write_text(folder / "table.md", f"# {title}\n\n{about}\n{markdown_table(summary)}\n{POLICY}\n")
    return summary


def read_cases_csv(path: Path) -> list[Row]:
    """Rows of a cases.csv; an empty field is nan."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                case_id=line["case_id"],
                class_name=line["class"],
                dice=float(line["dice"] or "nan"),
                hd95_mm=float(line["hd95_mm"] or "nan"),
                missed=line["missed"] == "1",
                false_positive=line["false_positive"] == "1",
            )
            for line in csv.DictReader(file)
        ]


def markdown_table(summary: Mapping) -> str:
    """The summary as an aligned markdown table, a line per class and per mean, for a file or a terminal."""
    header = ("class", "Dice", "HD95 (mm)", "cases", "missed", "false pos.", "absent")
    lines: list[tuple[str, ...]] = []
    for name, counts in summary["counts_per_class"].items():
        scores = (summary["dice"]["per_class"][name], summary["hd95_mm"]["per_class"][name])
        lines.append((name, *_scores(*scores), *_counts(counts)))
    for group, mean in summary["dice"]["groups"].items():
        members = (f"mean {group}", *_scores(mean, summary["hd95_mm"]["groups"][group]))
        lines.append((*members, "", "", "", ""))
    means = _scores(summary["dice"]["mean"], summary["hd95_mm"]["mean"])
    lines.append(("**mean**", *(f"**{value}**" for value in means), *_counts(summary)))
    widths = [max(len(line[column]) for line in (header, *lines)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |\n"
        for line in (header, rule, *lines)
    )


def _cases_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        # repr keeps every digit: what is read back is what was measured
        numbers = ("" if math.isnan(value) else repr(float(value)) for value in (row.dice, row.hd95_mm))
        writer.writerow((row.case_id, row.class_name, *numbers, int(row.missed), int(row.false_positive)))
    return text.getvalue()


def _scores(dice: float | None, hd95: float | None) -> tuple[str, ...]:
    return "-" if dice is None else f"{dice:.4f}", "-" if hd95 is None else f"{hd95:.2f}"


def _counts(counts: Mapping) -> tuple[str, ...]:
    return tuple(str(counts[key]) for key in ("n_cases", "n_missed", "n_false_positive", "n_absent"))
