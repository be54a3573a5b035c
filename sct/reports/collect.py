"""From run folders to the rows of a table: groups runs of one setting and reads their scores and costs.

A row is one setting; the runs of a setting differ only in the seed or the fold. Nothing is trained or scored here:
`sct.eval` wrote the scores, `sct.profile` the costs.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from sct.config.saved import key_of, saved_overrides
from sct.data.splits import SPLITS
from sct.errors import UserError
from sct.evaluation.metrics import Row
from sct.evaluation.scores import read_cases_csv
from sct.runs.card import FILE, digest, read_card
from sct.runs.changes import FOLDER, label
from sct.runs.folder import saved_config
from sct.runs.identity import identity
from sct.runs.selection import read_value
from sct.runtime.plain import read_json

# keys in which the runs of one setting differ: not part of the setting
REPEATS = ("seed", "data.fold")
# names and places of files: not part of the setting
PLACES = ("name", "run_dir", "data.root", "data.cache_dir", "paths")
# keys that name an earlier run: only whether they are set is part of the setting, since the run may depend on the seed
SOURCES = ("init", "loss.teacher")
AGAIN = "Make it again with  python -m {} ckpt=RUN"


class Kept(NamedTuple):
    """Shares that are left after the last pruning stage.

    foreground, patches: of the patches of whole images, those with foreground and all; tokens: of a window's tokens
    """

    foreground: float
    patches: float
    tokens: float


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluated run: its config, the overrides of its command, its scores, and its costs if it was profiled.

    changed: settings of the pruning method that the evaluation had instead of the training's; config has them too.
    selection: mean Dice minus that of a random choice of tokens; None where it was not measured.
    """

    folder: Path
    config: dict[str, Any]
    overrides: list[str]
    summary: dict[str, Any]
    cases: list[Row]
    profile: dict[str, Any] | None
    card: dict[str, Any] | None
    changed: dict[str, Any] = field(default_factory=dict)
    selection: float | None = None

    @property
    def mark(self) -> str:
        """What a label says of settings that were changed after training; empty where none was."""
        return f"{label(self.changed)} after training" if self.changed else ""

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def data(self) -> str:
        """Identifies the data set: digest of all cases on the card, equal in every fold; without a card the folder."""
        if self.card is None:
            return str(lookup(self.config, ("data", "root")))
        return digest(sorted({case for split in SPLITS for case in self.card["split"][split]}))


@dataclass(frozen=True)
class Setting:
    """A row of the table: all runs of one setting, under one label."""

    label: str
    runs: list[EvaluatedRun]

    def scores(self, score: str) -> dict[str, list[float]]:
        """Values of a score ("dice", "hd95_mm", ...) of all runs, for each class, each group of classes and "mean"."""
        parts = [run.summary[score] for run in self.runs if score in run.summary]
        if not parts:
            return {}
        values_by_name = {"mean": [part["mean"] for part in parts]}
        for kind in ("groups", "per_class"):
            for name in parts[0][kind]:
                values_by_name[name] = [part[kind].get(name) for part in parts]
        return {name: [v for v in values if v is not None] for name, values in values_by_name.items()}

    def count(self, key: str) -> float:
        """Mean over runs of a count in summary.json: n_missed, n_false_positive, ..."""
        return fmean(run.summary[key] for run in self.runs)

    def cost(self, *keys: str) -> float | None:
        """Mean of a number in profile.json over the profiled runs; None if no profile has the number."""
        values = [lookup(run.profile, keys) for run in self.runs if run.profile is not None]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    def selection(self) -> list[float]:
        """Value of the selection of tokens of the runs in which it was measured."""
        return [run.selection for run in self.runs if run.selection is not None]

    def kept(self) -> Kept | None:
        """Shares that the last pruning stage keeps, mean over the runs; None without pruning."""
        shares = [last_kept(run.summary["meta"]) for run in self.runs]
        known = [share for share in shares if share is not None]
        return Kept(*(fmean(values) for values in zip(*known, strict=True))) if known else None

    def by_case(self) -> dict[str, float]:
        """Dice of each case: the mean over its classes, then over the runs that were evaluated on the case."""
        scores: dict[str, list[float]] = {}
        for run in self.runs:
            run_scores: dict[str, list[float]] = {}
            for row in run.cases:
                if not math.isnan(row.dice):
                    run_scores.setdefault(row.case_id, []).append(row.dice)
            for case, values in run_scores.items():
                scores.setdefault(case, []).append(fmean(values))
        return {case: fmean(values) for case, values in scores.items()}


def find_runs(patterns: Iterable[str], *, split: str) -> tuple[list[EvaluatedRun], list[Path]]:
    """Runs below folders or glob patterns: the runs evaluated on `split`, and the folders of the other runs.

    A run counts once for its own settings and once for each set of changed settings that it was evaluated with.
    """
    folders: dict[Path, None] = {}
    for pattern in patterns:
        places = [Path(pattern)] if Path(pattern).exists() else sorted(map(Path, glob(pattern, recursive=True)))
        if not places:
            raise UserError(f"runs={pattern} matches nothing. Give run folders, folders of runs, or a quoted pattern.")
        for place in places:
            folders |= {path.parent.resolve(): None for path in sorted(place.rglob("config.yaml"))}
    evaluated = {folder: places for folder in folders if (places := evaluations(folder, split=split))}
    if not evaluated:
        raise UserError(
            f"None of {len(folders)} run(s) was evaluated on split={split}. Run  python -m sct.eval ckpt=RUN "
            f"split={split}  for each."
        )
    runs = [read_run(folder, place, split=split) for folder, places in evaluated.items() for place in places]
    return runs, [folder for folder in folders if folder not in evaluated]


def evaluations(folder: Path, *, split: str) -> list[Path]:
    """The folders that hold an evaluation of a run: its own, and those below it for changed settings."""
    places = [folder, *sorted((folder / FOLDER).glob("*"))]
    return [place for place in places if (place / "eval" / split / "summary.json").exists()]


def read_run(folder: Path, place: Path, *, split: str) -> EvaluatedRun:
    """Reads a run folder, and the evaluation and profile in `place`, see `evaluations`."""
    scores, profile = place / "eval" / split, place / "profile.json"
    config, summary = saved_config(folder), read_json(scores / "summary.json", remedy=AGAIN.format("sct.eval"))
    changed = lookup(summary["meta"], ("encoder", "reducer")) or {}
    if changed:
        config = {**config, "encoder": {**config["encoder"], "reducer": {**config["encoder"]["reducer"], **changed}}}
    return EvaluatedRun(
        folder=place,
        config=config,
        overrides=saved_overrides(folder),
        summary=summary,
        cases=read_cases_csv(scores / "cases.csv"),
        profile=read_json(profile, remedy=AGAIN.format("sct.profile")) if profile.exists() else None,
        card=read_card(folder) if (folder / FILE).exists() else None,
        changed=changed,
        selection=read_value(scores),
    )


def settings(runs: Sequence[EvaluatedRun]) -> list[Setting]:
    """Groups runs that differ only in seed or fold; the order of the runs is kept.

    The label is the run's name. If several settings have this name, the overrides in which they differ follow.
    UserError if a setting has two runs with the same seed and fold.
    """
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        config = without(identity(run.config), (*REPEATS, *PLACES, *SOURCES))
        has_source = [lookup(run.config, key.split(".")) is not None for key in SOURCES]
        key = json.dumps([run.name, config, has_source, run.data, run.mark], sort_keys=True)
        groups.setdefault(key, []).append(run)
    for group in groups.values():
        seen: dict[tuple, Path] = {}
        for run in group:
            repeat = tuple(lookup(run.config, key.split(".")) for key in REPEATS)
            if repeat in seen:
                raise UserError(
                    f"{run.folder} and {seen[repeat]} have the same config, seed and fold: leave one out of runs."
                )
            seen[repeat] = run.folder
    by_name: dict[str, list[list[EvaluatedRun]]] = {}
    for group in groups.values():
        by_name.setdefault(group[0].name, []).append(group)
    return [
        Setting(label, group)
        for name, named in by_name.items()
        for label, group in zip(labels(name, [group[0] for group in named]), named, strict=True)
    ]


def labels(name: str, runs: Sequence[EvaluatedRun]) -> list[str]:
    """Labels for several settings with one name: the name and the overrides that not all of the settings have.

    If overrides are equal (the config files were changed between the runs), the label also has the run's folder.
    Settings that were changed after training are always in the label.
    """
    hidden = (*REPEATS, *PLACES, *SOURCES)
    overrides = [[item for item in run.overrides if key_of(item) not in hidden] for run in runs]
    common = set(overrides[0]).intersection(*overrides)
    differing = [[item.lstrip("+") for item in items if item not in common] for items in overrides]
    labels = [" ".join(filter(None, (*items, run.mark))) for items, run in zip(differing, runs, strict=True)]
    folders = ["" if labels.count(words) == 1 else f"({run.folder})" for words, run in zip(labels, runs, strict=True)]
    return [" ".join(filter(None, (name, words, folder))) for words, folder in zip(labels, folders, strict=True)]


def paired_p_value(ours: Setting, baseline: Setting) -> float | None:
    """Two-sided p-value of Wilcoxon's signed-rank test over common cases; None below 6 cases or without differences."""
    first, second = ours.by_case(), baseline.by_case()
    cases = sorted(first.keys() & second.keys())
    difference = np.array([first[case] - second[case] for case in cases])
    # with fewer than 6 pairs no result can reach 0.05
    if len(cases) < 6 or not difference.any():
        return None
    return float(wilcoxon(difference).pvalue)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over runs; None for a single run."""
    return stdev(values) if len(values) > 1 else None


def last_kept(meta: Mapping[str, Any]) -> Kept | None:
    """Shares that the last stage keeps, from an evaluation's `meta`; None without pruning.

    Earlier versions wrote shares of patches alone, and called them shares of tokens.
    """
    for foreground, patches, tokens in (
        ("patches/foreground_kept", "patches/kept", "tokens/kept"),
        ("tokens/foreground_kept", "tokens/random_kept", "tokens/random_kept"),
    ):
        stages = [int(name.rsplit("_", 1)[1]) for name in meta if name.startswith(f"{foreground}_")]
        if stages:
            last = max(stages)
            return Kept(*(meta[f"{name}_{last}"] for name in (foreground, patches, tokens)))
    return None


def lookup(node: Any, keys: Iterable[str]) -> Any:
    """A value in nested dictionaries; None if a key is missing."""
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def without(config: Mapping[str, Any], keys: Sequence[str], *, prefix: str = "") -> dict[str, Any]:
    """A config without some of its dotted keys."""
    rest = {}
    for name, value in config.items():
        path = f"{prefix}{name}"
        if path not in keys:
            rest[name] = without(value, keys, prefix=f"{path}.") if isinstance(value, Mapping) else value
    return rest
