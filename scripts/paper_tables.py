"""Every table and figure of the papers, with the command that makes it or the reason why none does.

    python scripts/paper_tables.py --check    # are all of them there, and is the page up to date?
    python scripts/paper_tables.py --write    # writes docs/reference/paper-tables.md

The list is docs/reference/paper-tables/*.yaml, one file for each paper:

key                    meaning
paper, title, link     name of the paper on the page, its title and address
tables, figures        how many the paper has, and `counted_in`: where
note                   what else a reader must know (optional)
runs                   NAME: the command that trains the run NAME of the commands below
entries                one for each table and figure: `number`, `about`, and either `rows` or `why_not`
rows                   one for each command: `what`, and either `command` or `why_not`; `paper` and `ours` are numbers
                       of the paper and numbers measured here ("not run": none)

A test composes every command.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/reference/paper-tables"
PAGE = ROOT / "docs/reference/paper-tables.md"
# the order of the page
FILES = ("stp", "asvit", "dtop", "apformer")
ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")
HEAD = """# Tables and figures of the papers

Written by `python scripts/paper_tables.py --write` from a list for each paper ([STP](paper-tables/stp.yaml),
[AS-ViT](paper-tables/asvit.yaml), [DToP](paper-tables/dtop.yaml), [APFormer](paper-tables/apformer.yaml)); do not edit
it by hand.

Each table and each figure of the four papers is a command, or one line says why not. A command that trains gives one
run for each row of the table; `sct.eval` scores it and `sct.report` makes one table of all
([sweeps](../how-to/sweeps-and-folds.md), [reports](../how-to/reports.md), [figures](../how-to/figures.md)).

* Numbers in the column "paper" are the paper's, with its data and its evaluation. They are only for comparison.
* Numbers in the column "ours" were measured with this project. "not run": nobody has run this command yet.
* `PATH` is the folder of the data set, `ID` a case, `FOLDER` any folder. Other names in capitals are runs: the list at
  the end of each section has the command that trains each of them, which gets `run_dir=NAME`.
* The commands have the size of the paper. A sweep without `+experiment=...` takes a small task that a CPU trains.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table, or a part of a figure: a command, or the reason why there is none."""

    what: str
    command: str = ""
    why_not: str = ""
    paper: str = ""
    ours: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A table or a figure: rows, or the reason why there are none."""

    number: str
    about: str
    rows: list[Row] = field(default_factory=list)
    why_not: str = ""

    @property
    def commands(self) -> list[str]:
        return [row.command for row in self.rows if row.command]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper: how many tables and figures it has, and an entry for each that is listed."""

    paper: str
    title: str
    link: str
    counted_in: str
    tables: int
    figures: int
    entries: list[Entry]
    runs: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def expected(self) -> list[str]:
        """The numbers of all tables and figures; tables are counted in Roman numerals where the list does so."""
        is_roman = any(entry.number == "table I" for entry in self.entries)
        tables = ROMAN[: self.tables] if is_roman else range(1, self.tables + 1)
        return [f"table {n}" for n in tables] + [f"figure {n}" for n in range(1, self.figures + 1)]

    def every_command(self) -> Iterator[str]:
        """The commands of all rows, and of all runs that they need."""
        yield from self.runs.values()
        for entry in self.entries:
            yield from entry.commands


def read() -> list[Paper]:
    """The papers of the list, in the order of the page."""
    return [read_paper(FOLDER / f"{name}.yaml") for name in FILES]


def read_paper(path: Path) -> Paper:
    """One file of the list; TypeError for a key that is missing or unknown."""
    # without types: the numbers of a paper stay as they are written
    content = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    entries = [
        Entry(**{**entry, "rows": [Row(**row) for row in entry.get("rows", [])]}) for entry in content["entries"]
    ]
    counts = {name: int(content[name]) for name in ("tables", "figures")}
    return Paper(**{**content, **counts, "entries": entries})


def mistakes(paper: Paper) -> list[str]:
    """What is missing or wrong in the list of a paper."""
    listed = [entry.number for entry in paper.entries]
    found = [f"{number} is missing" for number in paper.expected if number not in listed]
    found += [f"{number} is not of the paper" for number in listed if number not in paper.expected]
    found += [f"{number} is listed twice" for number in sorted(set(listed)) if listed.count(number) > 1]
    for entry in paper.entries:
        if bool(entry.rows) == bool(entry.why_not):
            found.append(f"{entry.number} must have either rows or why_not")
        if entry.rows and not entry.commands:
            found.append(f"{entry.number} has rows but no command: give one why_not for all of it")
        for row in entry.rows:
            if bool(row.command) == bool(row.why_not):
                found.append(f"{entry.number}, {row.what}: must have either command or why_not")
            if (row.paper or entry.number.startswith("table")) and row.command and not row.ours:
                found.append(f"{entry.number}, {row.what}: say what was measured here, or 'not run'")
    used = {name for command in paper.every_command() for name in names_of_runs(command)}
    found += [f"the run {name} is not in runs" for name in sorted(used - {*paper.runs, "RUN"})]
    found += [f"no command uses the run {name}" for name in sorted(set(paper.runs) - used)]
    return [f"{paper.paper}: {what}" for what in found]


def names_of_runs(command: str) -> list[str]:
    """The runs that a command needs: ckpt=NAME, init=NAME, NAME=RUN of a figure, and a figure's first argument."""
    options = re.findall(
        r"(?:ckpt|init)=([A-Z0-9_]+)\b|--run \S+?=([A-Z0-9_]+)\b|--(?:run|baseline) ([A-Z0-9_]+) ?", command
    )
    named = ["".join(groups) for groups in options]
    first = re.match(r"sct-plot \w+ ([A-Z0-9_]+)\b", command)
    return [*named, first[1]] if first else named


def page(papers: Sequence[Paper]) -> str:
    """The page as Markdown."""
    parts = [HEAD, coverage(papers)]
    for paper in papers:
        parts += [f"## {paper.paper}\n", f"[{paper.title}]({paper.link}); {paper.counted_in}.\n"]
        parts += [f"{paper.note}\n"] if paper.note else []
        parts += [section(entry) for entry in paper.entries]
        if paper.runs:
            runs = [f"| `{name}` | `{command}` |" for name, command in paper.runs.items()]
            parts.append("\n".join([f"### Runs of {paper.paper}\n", "| name | trained by |", "|---|---|", *runs, ""]))
    return "\n".join(parts)


def coverage(papers: Sequence[Paper]) -> str:
    """How many tables and figures are commands, and how many are not."""
    lines = [
        "| paper | tables | figures | by commands | in part | by none, with a reason |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for paper in papers:
        whole = sum(bool(e.commands) and not any(row.why_not for row in e.rows) for e in paper.entries)
        none = sum(bool(e.why_not) for e in paper.entries)
        rest = len(paper.entries) - whole - none
        lines.append(f"| {paper.paper} | {paper.tables} | {paper.figures} | {whole} | {rest} | {none} |")
    return "\n".join(lines) + "\n"


def section(entry: Entry) -> str:
    """A table or figure with its rows; columns that no row fills are left out."""
    title = f"### {entry.number[0].upper()}{entry.number[1:]}: {entry.about}\n"
    if entry.why_not:
        return f"{title}\nNo command: {entry.why_not}.\n"
    has_numbers = any(row.paper or row.ours for row in entry.rows)
    lines = (
        ["| row | command | paper | ours |", "|---|---|---|---|"]
        if has_numbers
        else ["| part | command |", "|---|---|"]
    )
    for row in entry.rows:
        cells = [row.what, f"`{row.command}`" if row.command else f"none: {row.why_not}"]
        cells += [row.paper or "-", row.ours or "-"] if has_numbers else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([title, *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    todo = parser.add_mutually_exclusive_group(required=True)
    todo.add_argument("--check", action="store_true", help="fail if a table or figure is missing or the page is old")
    todo.add_argument("--write", action="store_true", help="write the page")
    options = parser.parse_args()
    papers = read()
    wrong = [what for paper in papers for what in mistakes(paper)]
    if options.write:
        PAGE.write_text(page(papers))
        print(PAGE)
    elif not PAGE.exists() or PAGE.read_text() != page(papers):
        wrong.append(f"{PAGE.relative_to(ROOT)} is old: run python scripts/paper_tables.py --write")
    for paper in papers:
        there = len({entry.number for entry in paper.entries} & set(paper.expected))
        total = len(paper.expected)
        print(f"{paper.paper}: {there} of {total} tables and figures ({there / total:.0%})")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
