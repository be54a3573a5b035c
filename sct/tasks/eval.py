"""Evaluation: scores of a trained segmenter on cases that it was not trained on."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sct.config.trust import Trust
from sct.errors import UserError
from sct.runs import card
from sct.runs.folder import log_to
from sct.runs.postprocessing import FILE
from sct.runs.run import Run, open_run

logger = logging.getLogger(__name__)

# settings of the data set that do not change its images: where files are, and how they are read
PLACES = ("root", "cache", "cache_dir", "num_workers", "check", "label_format")


def evaluate(cfg: DictConfig) -> None:
    """Writes cases.csv, summary.json, table.md, predictions, figures and the card of one split."""
    log_to(None)
    OmegaConf.to_object(cfg)  # the schema refuses an unknown number format
    run = open_run(
        cfg.ckpt,
        weights=cfg.weights,
        device=cfg.device,
        precision=cfg.precision,
        changes={"inferer": cfg.inferer, "data": cfg.data},
        trust=Trust.of_command(cfg),
        postprocess="none" if cfg.postprocess == "choose" else cfg.postprocess,
    )
    run.load()
    if cfg.postprocess == "choose":
        check_choice(cfg, run=run)
        run.choose_postprocessing()
    folder = Path(cfg.output) if cfg.output else default_folder(cfg, run=run)
    scores = run.evaluate(
        cfg.split, output=folder, save_predictions=cfg.save_predictions, figures=cfg.figures, lesions=cfg.lesions
    )
    logger.info("\n%s\nWritten to %s", scores.table(), folder)


def default_folder(cfg: DictConfig, *, run: Run) -> Path:
    """The folder <run>/eval/<split> of the run's standard evaluation; UserError if this evaluation differs from it.

    The number format that precision=auto chooses depends on the machine; it does not make another evaluation.
    """
    changed = ["inferer"] if "_target_" in cfg.inferer else [f"inferer.{key}" for key in cfg.inferer]
    changed += ["precision"] * (cfg.precision not in (None, "auto", run.config.trainer.precision))
    changed += ["postprocess"] * (cfg.postprocess == "none" and (run.folder / FILE).exists())
    changed += other_data(cfg, run=run, split=cfg.split)
    if changed:
        raise UserError(
            f"{', '.join(changed)} differ from the run's settings. The run's evaluation in "
            f"{run.folder / 'eval' / cfg.split} would be overwritten by another one: give output=FOLDER."
        )
    return run.folder / "eval" / cfg.split


def check_choice(cfg: DictConfig, *, run: Run) -> None:
    """UserError where post-processing would be chosen on other data than the run was validated on."""
    if changed := other_data(cfg, run=run, split="val"):
        raise UserError(
            f"postprocess=choose: {', '.join(changed)} differ from the run's. The post-processing of a run is chosen "
            "on its own validation cases. Choose without that, and evaluate with it afterwards."
        )


def other_data(cfg: DictConfig, *, run: Run, split: str) -> list[str]:
    """What of the data and the cases of a split is not as in the run."""
    changed = [f"data.{key}" for key in cfg.data if key not in PLACES]
    if (run.folder / card.FILE).exists() and split in ("val", "test"):
        recorded = card.read_card(run.folder)["split"][split]
        found = [case.name for case in run.data.cases(split)]
        changed += [f"the cases below data.root={run.data.root}"] * (recorded != found)
    return changed
