"""One network of the comparison: runs the commands that train, evaluate and profile it, if they have not run yet."""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from sct.compare.methods import CANVAS, IN_TRAINING
from sct.config.saved import key_of
from sct.errors import UserError
from sct.runs.identity import NOT_IDENTITY
from sct.runtime.children import call
from sct.runtime.plain import read_json


@dataclass(frozen=True)
class Cell:
    """One network of the table."""

    decoder: str
    method: str
    changes: tuple[str, ...]
    seed: int
    folder: Path

    @property
    def chooses(self) -> bool:
        """Whether the method chooses tokens."""
        return IN_TRAINING.get(self.method) != "-"

    @property
    def overrides(self) -> list[str]:
        canvas = ["completion=scatter"] if self.method == "dtop" and self.decoder in CANVAS else []
        name = f"name={self.decoder}_{self.method}"
        return [f"decoder={self.decoder}", *self.changes, *canvas, f"seed={self.seed}", name]


def run(command: str, *arguments: str, log: Path, threads: int) -> None:
    """Runs `python -m sct.<command>` with its output in `log`; UserError that names this file if the command fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log.parent.mkdir(parents=True, exist_ok=True)
    if call([sys.executable, "-m", f"sct.{command}", *arguments], log=log, environment=environment):
        raise UserError(f"python -m sct.{command} failed. See the reason at the end of {log}.")


def fill(cell: Cell, *, overrides: list[str], options: argparse.Namespace, threads: int) -> None:
    """Trains, evaluates and profiles one network; finished parts are not repeated."""
    log = cell.folder.with_suffix(".log")
    check_same(cell, overrides=overrides)
    if not (cell.folder / "finished").exists():
        arguments = [*overrides, *cell.overrides, f"run_dir={cell.folder}", "resume=auto"]
        run("train", *arguments, log=log, threads=threads)
    wanted = "selection.json" if cell.chooses else "summary.json"
    if not (cell.folder / "eval/test" / wanted).exists():
        settings = (f"ckpt={cell.folder}", "split=test", "save_predictions=false")
        run("eval", *settings, f"selection={str(cell.chooses).lower()}", log=log, threads=threads)
    if not (cell.folder / "profile.json").exists():
        settings = (f"ckpt={cell.folder}", f"profile.windows={options.windows}", "profile.latency=false")
        run("profile", *settings, log=log, threads=threads)


def check_same(cell: Cell, *, overrides: list[str]) -> None:
    """UserError if the cell's folder has a run with other overrides."""
    record = cell.folder / "overrides.json"
    if not record.exists():
        return
    content = read_json(record, remedy="Restore it, or give another --output.")
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise UserError(f"{record} is no list of overrides KEY=VALUE. Restore it, or give another --output.")
    recorded = {item.lstrip("+") for item in content}
    expected = {item.lstrip("+") for item in [*overrides, *cell.overrides] if key_of(item) not in NOT_IDENTITY}
    if recorded != expected:
        listed = ", ".join(sorted(recorded ^ expected))
        raise UserError(f"{cell.folder} holds a run with other settings: {listed}. Give another --output.")
