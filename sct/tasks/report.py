"""Report: one table of any set of evaluated runs, as markdown, csv and LaTeX."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from sct.config.check import nearest
from sct.errors import UserError
from sct.plots import style, tradeoff
from sct.reports.collect import Setting, find_runs, settings
from sct.reports.tables import build_table, comma_separated, latex, markdown
from sct.runs.folder import log_to
from sct.runtime.files import write_text
from sct.runtime.plain import read_yaml_config

logger = logging.getLogger(__name__)

POLICY = (
    "Means over runs (seeds or folds) with their standard deviation. Scores of a run are means over cases first, then "
    "over classes; missed organs count. p: Wilcoxon's signed-rank test over cases against the baseline, from 6 common "
    "cases on. "
    "Costs are "
    "from `python -m sct.profile ckpt=RUN`; compare speeds only if they were measured side by side."
)

CHANGED = (
    "`SETTING=VALUE after training`: the checkpoint of a training, evaluated with another value of a setting of its "
    "pruning method. Nothing was trained for it."
)

SPREAD = "Mean Dice over classes; bars: standard deviation over runs (seeds or folds), no bar for a single run."


def report(cfg: DictConfig) -> None:
    """Writes table.md, table.csv and table.tex into `output`, a figure with plot=true, and prints the table."""
    log_to(None)
    cost = tradeoff.find_cost(cfg.cost)
    if cfg.plot:
        style.matplotlib()  # a missing package is an error here, before any run is read
    patterns = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)
    runs, left_out = find_runs(patterns, split=cfg.split)
    for folder in left_out:
        logger.warning("left out, not evaluated on %s: %s", cfg.split, folder)
    collected = settings(runs)
    unprofiled = sorted(str(run.folder) for run in runs if run.profile is None)
    if unprofiled:
        consequence = ", not in the plot" if cfg.plot else ""
        logger.warning("no costs of %s%s: run  python -m sct.profile ckpt=RUN", ", ".join(unprofiled), consequence)
    papers = read_papers(Path(cfg.papers)) if cfg.papers else {}
    baseline = pick_baseline(collected, label=cfg.baseline)
    table = build_table(
        collected,
        baseline=baseline,
        scores=list(cfg.scores),
        classes=cfg.classes,
        papers=papers,
    )
    text, folder = markdown(table), Path(cfg.output)
    about = f"{POLICY}\n\n{CHANGED}" if any(run.changed for run in runs) else POLICY
    write_text(folder / "table.md", f"{text}\n{about}\n")
    write_text(folder / "table.csv", comma_separated(table))
    write_text(folder / "table.tex", latex(table))
    # before the figure, which needs costs that may be missing
    logger.info("\n%s\nWritten to %s", text, folder)
    if cfg.plot:
        points = tradeoff.tradeoff_points(collected, cost=cost, baseline=baseline)
        style.save(tradeoff.draw_tradeoff(points, cost=cost, about=SPREAD), folder / "tradeoff")


def read_papers(path: Path) -> dict[str, dict[str, float]]:
    """Figures of papers, label -> column -> number; UserError where the file holds anything else."""
    papers = read_yaml_config(path)
    for figures in papers.values():
        if not isinstance(figures, dict) or not all(type(number) in (int, float) for number in figures.values()):
            raise UserError(f"papers={path} must hold, for each label, a mapping from column to figure, a number.")
    return papers


def pick_baseline(collected: list[Setting], *, label: str | None) -> Setting | None:
    """The setting with this label, or the only setting whose label contains it; UserError if there is no such one."""
    if label is None:
        return None
    for matches in ([s for s in collected if s.label == label], [s for s in collected if label in s.label]):
        if len(matches) == 1:
            return matches[0]
    state = "is part of several labels" if any(label in s.label for s in collected) else "is in no label"
    raise UserError(f"baseline={label} {state}. {nearest(label, [s.label for s in collected])}")
