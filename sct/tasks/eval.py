"""Evaluation: scores of a trained segmenter on cases it never saw."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sct.config.trust import Trust
from sct.errors import UserError
from sct.runs import card
from sct.runs.folder import log_to
from sct.runs.run import Run, open_run

logger = logging.getLogger(__name__)

# settings of the data that say where they are and how they are read, not what they are
PLACES = ("root", "cache", "cache_dir", "num_workers", "check")


def evaluate(cfg: DictConfig) -> None:
    """Writes cases.csv, summary.json, table.md, predictions, figures and the card of one split."""
    log_to(None)
    OmegaConf.to_object(cfg)  # the schema refuses what is no number format
    run = open_run(
        cfg.ckpt,
        weights=cfg.weights,
        device=cfg.device,
        precision=cfg.precision,
        changes={"inferer": cfg.inferer, "data": cfg.data},
        trust=Trust.of_command(cfg),
    )
    run.load()
    folder = Path(cfg.output) if cfg.output else default_folder(cfg, run=run)
    scores = run.evaluate(cfg.split, output=folder, save_predictions=cfg.save_predictions, figures=cfg.figures)
    logger.info("\n%s\nWritten to %s", scores.table(), folder)


def default_folder(cfg: DictConfig, *, run: Run) -> Path:
    """<run>/eval/<split>, which is the run's own evaluation: UserError where this one is another.

    What precision=auto chooses is a circumstance, as the machine is, and not another evaluation.
    """
    changed = ["inferer"] if "_target_" in cfg.inferer else [f"inferer.{key}" for key in cfg.inferer]
    changed += [f"data.{key}" for key in cfg.data if key not in PLACES]
    changed += ["precision"] * (cfg.precision not in (None, "auto", run.config.trainer.precision))
    if (run.folder / card.FILE).exists() and cfg.split in ("val", "test"):
        recorded = card.read_card(run.folder)["split"][cfg.split]
        found = [case.name for case in run.data.cases(cfg.split)]
        changed += [f"the cases below data.root={run.data.root}"] * (recorded != found)
    if changed:
        raise UserError(
            f"{', '.join(changed)} differ from the run's, so its own evaluation in {run.folder / 'eval' / cfg.split} "
            "would be written over by another one: give output=FOLDER."
        )
    return run.folder / "eval" / cfg.split
