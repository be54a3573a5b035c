"""The runs of the table: they are timed, trained, evaluated and counted by the commands that a user gives."""

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sct
from accuracy.plan import Cell, Contestant, Lengths, Task, length, steps_within
from sct.compare.cells import run
from sct.config.saved import key_of, saved_overrides
from sct.errors import UserError
from sct.reports.collect import PLACES
from sct.runs.identity import NOT_IDENTITY
from sct.runtime.children import each
from sct.runtime.rows import FILE, read_rows

# steps of a run that is only timed, and between two of its times; the first time, of a cold start, is left out
TIMED_STEPS, TIMED_EVERY = 12, 4


@dataclass(frozen=True)
class Place:
    """Where and how the commands run.

    folder: of all results; data: of all data sets; settings: overrides of every training; jobs: runs at a time;
    threads: of each
    """

    folder: Path
    data: Path
    settings: tuple[str, ...]
    jobs: int
    threads: int

    def of(self, cell: Cell) -> Path:
        return self.folder / cell.task.name / cell.name

    def command(self, name: str, *arguments: str, log: Path) -> None:
        run(name, *arguments, log=log, threads=self.threads)

    def each(self, function, items: Iterable) -> list:
        """The results of a function, `jobs` at a time."""
        return each(function, items, jobs=self.jobs)


def lengths_of(
    task: Task,
    contestants: Sequence[Contestant],
    *,
    place: Place,
    minutes: float | None,
    steps: int | None,
    rounds: int,
) -> Lengths:
    """How long every contestant trains: read from the folder, or measured for those that it does not have.

    minutes or steps: of every training; with steps nothing is measured.
    """
    path = place.folder / task.name / "steps.json"
    known = Lengths(minutes, {}, {})
    if path.exists():
        known = Lengths.read(path)
        known.check(minutes=minutes, steps=steps, path=path)
    missing = [contestant for contestant in contestants if contestant.name not in known.steps]
    seconds = {} if minutes is None else step_seconds(task, missing, place=place, rounds=rounds)
    found = {
        contestant.name: steps if minutes is None else steps_within(seconds[contestant.name], minutes=minutes)
        for contestant in missing
    }
    lengths = Lengths(minutes, {**known.steps, **found}, {**known.seconds, **seconds})
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths.write(path)
    return lengths


def step_seconds(task: Task, contestants: Sequence[Contestant], *, place: Place, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of every contestant, loading and augmentation included; the contestants take turns.

    As many run at a time as in the trainings, so that memory and caches are shared as there.
    """
    cells = [
        Cell(task, contestant, number, None if task.folds is None else 0)
        for number in range(rounds)
        for contestant in contestants
    ]
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for cell, found in zip(cells, place.each(lambda cell: timed(cell, place=place), cells), strict=True):
        seconds[cell.contestant.name] += found
    return seconds


def timed(cell: Cell, *, place: Place) -> list[float]:
    """Seconds a step, several times, of a training of a few steps; its folder is removed."""
    folder = place.folder / cell.task.name / "timed" / cell.name
    shutil.rmtree(folder, ignore_errors=True)
    place.command(
        "train", *cell.overrides(data=place.data), *place.settings, f"trainer.max_steps={TIMED_STEPS}",
        f"trainer.log_every={TIMED_EVERY}", f"trainer.validate_every={TIMED_STEPS}", "schedule.warmup_steps=0",
        "inferer.mirror_axes=[]", f"run_dir={folder}", log=folder.with_suffix(".log"),
    )  # fmt: skip
    rows = read_rows(folder / FILE).values
    shutil.rmtree(folder)
    return [row["time/data_s"] + row["time/step_s"] for row in rows if "time/step_s" in row][1:]


def fill(cell: Cell, *, place: Place, steps: int) -> None:
    """Trains, evaluates and counts one run; parts that are finished are not repeated, a stopped training goes on."""
    folder = place.of(cell)
    log = folder.with_suffix(".log")
    settings = [*cell.overrides(data=place.data), *place.settings, *length(steps)]
    if (folder / "finished").exists():
        check_same(folder, settings)
    else:
        place.command("train", *settings, f"run_dir={folder}", "resume=auto", log=log)
    if not (folder / "eval/test/summary.json").exists():
        place.command("eval", f"ckpt={folder}", "split=test", "save_predictions=false", log=log)
    if not (folder / "profile.json").exists():
        place.command("profile", f"ckpt={folder}", "profile.latency=false", log=log)


def check_same(folder: Path, overrides: Sequence[str]) -> None:
    """UserError if the run in a folder was trained with other overrides; names of folders may differ."""
    recorded, expected = (
        {item.lstrip("+") for item in items if not key_of(item).startswith((*PLACES, *NOT_IDENTITY))}
        for items in (saved_overrides(folder), overrides)
    )
    if recorded != expected:
        listed = ", ".join(sorted(recorded ^ expected))
        raise UserError(f"{folder} holds a run with other settings: {listed}. Give another --folder.")


def prediction_seconds(cells: Sequence[Cell], *, place: Place, cases: int) -> dict[str, list[float]]:
    """Seconds to segment a case, mirrors included, of one run of every contestant; the contestants take turns.

    Loading and writing are not part of it. A first round warms up.
    """
    runs = {cell.contestant.name: sct.load(str(place.of(cell)), device="cpu") for cell in cells}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(cases + 1):
        for name, trained in runs.items():
            data = trained.data
            data.prepare()
            case = data.cases("test")[max(0, number - 1) % len(data.cases("test"))]
            volume = data.load_case(case)
            start = time.perf_counter()
            trained.segment(case, volume, form=data.format)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds
