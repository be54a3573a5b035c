"""What is left of an evaluation: a row per case and class, the means, and a table to read."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sct.errors import UserError
from sct.evaluation.lesions import RULE, aligned, lesion_table
from sct.evaluation.markup import plain_cell, plain_markdown, text_of_cell
from sct.evaluation.metrics import (
    DISTANCES,
    LESION_COUNTS,
    LESION_SHARES,
    POOLED,
    SHARES,
    Row,
    summarize,
    unique_rows,
)
from sct.evaluation.pooled import VOXEL_COUNTS
from sct.runtime.files import write_text

SCORES = (*SHARES, *POOLED, *DISTANCES, *LESION_SHARES)
COLUMNS = ("case_id", "class", *SHARES, *DISTANCES, *VOXEL_COUNTS, "missed", "false_positive")
# where they were asked for
LESIONS = (*LESION_SHARES, *LESION_COUNTS)
# what earlier versions did not measure
NEW = ("nsd", *VOXEL_COUNTS)
# columns of a table where nobody chooses them
SHOWN = ("dice", "nsd", "hd95")
HEADS = {
    "dice": "Dice",
    "iou": "IoU",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "nsd": "NSD",
    "pooled_iou": "IoU pooled",
    "hd95_mm": "HD95 (mm)",
    "hd95_voxel": "HD95 (voxels)",
    "lesion_sensitivity": "lesion sensitivity",
    "lesion_precision": "lesion precision",
    "lesion_f1": "lesion F1",
}

POLICY = (
    "A missed organ counts with the worst value of every score: 0, and for HD95 the diagonal of the image; so does an "
    "organ predicted where there is none (false positive). An organ in neither map (absent) is left out. Scores are of "
    "the original grid, HD95 in mm where its spacing is known and in voxels where it is not. NSD is the share of both "
    "surfaces that is within the tolerance of the other one, in mm or voxels likewise. Means are over the cases of a "
    "class first, then over classes."
)


def summary_of(
    rows: Iterable[Row],
    *,
    title: str,
    meta: Mapping[str, object] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict:
    """Means by class and over classes, as summary.json has them.

    `meta` says what was scored (checkpoint, split, inferer; values that JSON knows), `groups` names means over some of
    the classes.
    """
    return {"title": title, "meta": dict(meta or {}), **summarize(list(rows), groups=groups)}


def write_report(
    folder: Path,
    rows: Iterable[Row],
    *,
    title: str,
    meta: Mapping[str, object] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    scores: Sequence[str] = SHOWN,
) -> dict:
    """Write cases.csv, summary.json and table.md into `folder`, and return the summary, see `summary_of`.

    `scores` are the columns of the table. Rows of one case that several processes brought are written once.
    """
    rows = unique_rows(rows)
    summary = summary_of(rows, title=title, meta=meta, groups=groups)
    write_text(folder / "cases.csv", _cases_csv(rows))
    write_text(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    about = "".join(f"- {key}: {plain_markdown(str(value))}\n" for key, value in summary["meta"].items())
    text = f"# {plain_markdown(title)}\n\n{about}\n{markdown_table(summary, scores=scores)}\n{POLICY}\n"
    if "lesions" in summary:
        text += f"\n{lesion_table(summary['lesions'])}\n{RULE}\n"
    write_text(folder / "table.md", text)
    return summary


def read_cases_csv(path: Path) -> list[Row]:
    """Rows of a cases.csv; an empty field is nan, and so is a score that earlier versions did not measure.

    UserError where another column is missing.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        absent = [name for name in COLUMNS if name not in (*(lines.fieldnames or ()), *NEW)]
        if absent:
            raise UserError(
                f"{path}: lacks the column(s) {', '.join(absent)}. It is of an older version: run sct.eval again."
            )
        return [
            Row(
                case_id=text_of_cell(line["case_id"]),
                class_name=text_of_cell(line["class"]),
                missed=line["missed"] == "1",
                false_positive=line["false_positive"] == "1",
                **{name: float(line.get(name) or "nan") for name in (*SHARES, *DISTANCES, *VOXEL_COUNTS, *LESIONS)},
            )
            for line in lines
        ]


def markdown_table(summary: Mapping, *, scores: Sequence[str] = SHOWN) -> str:
    """The summary as an aligned markdown table, a line per class and per mean, for a file or a terminal.

    scores: columns, of `SHARES`, `pooled_iou` and `hd95`, which is every unit that the summary has it in
    """
    columns = [name for name in SCORES if name in summary and (name in scores or name.split("_")[0] in scores)]
    header = ("class", *(HEADS[name] for name in columns), "cases", "missed", "false pos.", "absent")
    lines: list[tuple[str, ...]] = []
    for name, counts in summary["counts_per_class"].items():
        own = [_number(summary[column]["per_class"][name], of=column) for column in columns]
        lines.append((name, *own, *_counts(counts)))
    for group in summary["dice"]["groups"]:
        own = [_number(summary[column]["groups"][group], of=column) for column in columns]
        lines.append((f"mean {group}", *own, "", "", "", ""))
    means = [_number(summary[column]["mean"], of=column) for column in columns]
    lines.append(("**mean**", *(f"**{value}**" for value in means), *_counts(summary)))
    return aligned([header, *lines])


def _cases_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    lesions = LESIONS if any(row.lesions is not None for row in rows) else ()
    writer.writerow((*COLUMNS, *lesions))
    for row in rows:
        columns = (*SHARES, *DISTANCES, *VOXEL_COUNTS)
        numbers, more = ([_exact(getattr(row, name)) for name in names] for names in (columns, lesions))
        names = plain_cell(row.case_id), plain_cell(row.class_name)
        writer.writerow((*names, *numbers, int(row.missed), int(row.false_positive), *more))
    return text.getvalue()


def _exact(value: float) -> str:
    # repr keeps every digit: what is read back is what was measured
    return "" if math.isnan(value) else repr(float(value))


def _number(value: float | None, *, of: str) -> str:
    return "-" if value is None else f"{value:.4f}" if of in (*SHARES, *POOLED, *LESION_SHARES) else f"{value:.2f}"


def _counts(counts: Mapping) -> tuple[str, ...]:
    return tuple(str(counts[key]) for key in ("n_cases", "n_missed", "n_false_positive", "n_absent"))
