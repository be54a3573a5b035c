"""The rows of metrics.jsonl: one JSON object a line, each with its `step`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Rows:
    """lines: the good lines, as they are in the file; values: what each says; damaged: numbers of the others, from 1.

    An incomplete last line, as a killed process leaves it, is neither.
    """

    lines: list[bytes]
    values: list[dict[str, Any]]
    damaged: list[int]


def read_rows(path: Path) -> Rows:
    """All good rows of a file, whatever lies between them; none without a file."""
    rows = Rows([], [], [])
    if not path.exists():
        return rows
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        row = parsed(line)
        if row is None:
            rows.damaged.append(number)
        else:
            rows.lines.append(line)
            rows.values.append(row)
    return rows


def parsed(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if it is no row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
