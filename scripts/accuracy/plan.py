"""What the table of accuracy compares: contestants, tasks, the runs that fill the table, and how long each trains."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from sct.errors import UserError
from sct.runtime.files import write_text
from sct.runtime.plain import read_json

# share of the steps in which the learning rate grows, and number of validations of a training
WARMUP, VALIDATIONS = 0.05, 4


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A row of the table: overrides of `sct.train`, in all tasks and in single ones; package: a module it needs."""

    name: str
    what: str
    overrides: tuple[str, ...]
    by_task: Mapping[str, Sequence[str]] = field(default_factory=dict)
    package: str | None = None
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A column of the table: overrides before and after those of the contestant, and the length of every training.

    minutes, steps: of the training of each run, one of them; the other is None.
    folder: of the data, below the folder of all data; None: the program draws them. folds: of cross-validation
    """

    name: str
    what: str
    base: tuple[str, ...]
    last: tuple[str, ...] = ()
    minutes: float | None = None
    steps: int | None = None
    folder: str | None = None
    folds: int | None = None


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    task: Task
    contestant: Contestant
    seed: int
    fold: int | None

    @property
    def name(self) -> str:
        return f"{self.contestant.name}_seed{self.seed}" + ("" if self.fold is None else f"_fold{self.fold}")

    def overrides(self, *, data: Path) -> list[str]:
        """What makes the run, but for its length and its folder."""
        contestant, task = self.contestant, self.task
        root = [] if task.folder is None else [f"data.root={data / task.folder}"]
        fold = [] if task.folds is None else [f"data.folds={task.folds}", f"data.fold={self.fold}"]
        return [
            *task.base, *contestant.overrides, *contestant.by_task.get(task.name, ()), *task.last, *root, *fold,
            f"seed={self.seed}", f"name={contestant.name}",
        ]  # fmt: skip


@dataclass(frozen=True)
class Field:
    """All that may be compared."""

    reference: str
    contestants: dict[str, Contestant]
    tasks: dict[str, Task]

    @classmethod
    def read(cls, path: Path) -> "Field":
        """From a YAML file; UserError where it lacks something or has a key that nobody reads."""
        try:
            content = yaml.safe_load(path.read_text())
            found = cls(
                reference=content["reference"],
                contestants={
                    name: Contestant(name=name, **{**entry, "overrides": tuple(entry["overrides"])})
                    for name, entry in content["contestants"].items()
                },
                tasks={
                    name: Task(
                        name=name, **{**entry, "base": tuple(entry["base"]), "last": tuple(entry.get("last", ()))}
                    )
                    for name, entry in content["tasks"].items()
                },
            )
        except (AttributeError, KeyError, TypeError, yaml.YAMLError, OSError) as error:
            raise UserError(f"{path} is no list of contestants and tasks ({type(error).__name__}: {error}).") from error
        if found.reference not in found.contestants:
            raise UserError(f"{path}: the reference {found.reference} is none of the contestants.")
        for task in found.tasks.values():
            if (task.minutes is None) == (task.steps is None):
                raise UserError(f"{path}: task {task.name} needs either minutes or steps.")
        for contestant in found.contestants.values():
            if unknown := sorted(set(contestant.by_task) - set(found.tasks)):
                raise UserError(f"{path}: contestant {contestant.name} has settings on {unknown[0]}, which is no task.")
        return found


def cells_of(
    task: Task, contestants: Iterable[Contestant], *, seeds: Sequence[int], only: Sequence[int] | None = None
) -> list[Cell]:
    """The runs of a task; all contestants have one run of a seed and fold before any has the next.

    only: some of the folds, where the task has folds; None: all. UserError for a fold that the task does not have.
    """
    folds: list[int | None] = [None] if task.folds is None else list(range(task.folds))
    if only is not None and task.folds is not None:
        if unknown := set(only) - set(range(task.folds)):
            raise UserError(f"--folds {min(unknown)}: {task.name} has the folds 0 to {task.folds - 1}.")
        folds = list(only)
    return [Cell(task, contestant, seed, fold) for seed in seeds for fold in folds for contestant in contestants]


def check_packages(contestants: Iterable[Contestant]) -> None:
    """UserError if a contestant's package is not installed."""
    for contestant in contestants:
        if contestant.package is not None and find_spec(contestant.package) is None:
            raise UserError(
                f"{contestant.name} needs the package {contestant.package}: {contestant.remedy}, or name the other "
                "contestants with --contestants."
            )


def length(steps: int) -> list[str]:
    """The overrides that depend on the number of steps: warm-up, validations and checkpoints are shares of it."""
    every = math.ceil(steps / VALIDATIONS)
    return [
        f"trainer.max_steps={steps}",
        f"schedule.warmup_steps={math.ceil(WARMUP * steps)}",
        f"trainer.validate_every={every}",
        f"trainer.save_every={every}",
    ]


def steps_within(seconds: Sequence[float], *, minutes: float) -> int:
    """How many steps a contestant takes in its minutes, at the median of its measured seconds a step."""
    return max(VALIDATIONS, int(60 * minutes / median(seconds)))


@dataclass(frozen=True)
class Lengths:
    """How long the contestants of a task train, as its file `steps.json` keeps it.

    minutes: of every training; None where all take the same number of steps. seconds: measured seconds a step
    """

    minutes: float | None
    steps: dict[str, int]
    seconds: dict[str, list[float]]

    def check(self, *, minutes: float | None, steps: int | None, path: Path) -> None:
        """UserError where the folder holds runs of another length."""
        kept = f"--minutes {self.minutes:g}" if self.minutes is not None else f"--steps {max(self.steps.values())}"
        if (self.minutes, None if self.minutes is not None else max(self.steps.values())) != (minutes, steps):
            raise UserError(f"{path} says that runs were begun with {kept}. Give the same, or another --folder.")

    def write(self, path: Path) -> None:
        content: dict[str, Any] = {"minutes": self.minutes, "steps": self.steps, "seconds": self.seconds}
        write_text(path, json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Lengths":
        try:
            content = read_json(path, remedy="Remove the folder, or give another --folder.")
            return cls(content["minutes"], content["steps"], content["seconds"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} lacks {error}. Give another --folder.") from error
