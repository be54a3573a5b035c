"""Evaluation: scores of a trained segmenter on cases that it was not trained on."""

import logging
import os
from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sct.config.trust import Trust
from sct.errors import UserError
from sct.runs import card
from sct.runs.changes import KEY, folder_of
from sct.runs.evaluation import Evaluation
from sct.runs.evaluation import evaluate as score_all
from sct.runs.folder import log_to
from sct.runs.links import check_links
from sct.runs.look import FILE as LOOK_FILE
from sct.runs.look import check_settings
from sct.runs.meeting import prepare_to_score
from sct.runs.parts import evaluate_part
from sct.runs.postprocessing import FILE
from sct.runs.run import Run, open_run
from sct.runs.selection import measure_selection, selection_table
from sct.runtime.shards import local_rank
from sct.tasks.parts import all_end_together, shard_of_command

logger = logging.getLogger(__name__)

# settings of the data set that do not change its images: where files are, and how they are read
PLACES = ("root", "cache", "cache_dir", "num_workers", "check", "label_format")


def evaluate(cfg: DictConfig, *, may_write: tuple[str, ...] | None = None) -> None:
    """Writes cases.csv, summary.json, table.md, predictions, figures and the card of one split.

    may_write: the folders of the data that `cfg` may choose to write to, if it is not from the command line.
    """
    log_to(None)
    OmegaConf.to_object(cfg)  # the schema refuses an unknown number format
    check_settings(keep=cfg.first_look_keep, margin=cfg.first_look_margin)
    shard = shard_of_command(cfg.shard)
    run = open_run(
        cfg.ckpt,
        weights=cfg.weights,
        device=cfg.device,
        precision=cfg.precision,
        changes={"inferer": cfg.inferer, "data": cfg.data, "encoder": cfg.encoder},
        trust=Trust.of_command(cfg),
        postprocess="none" if cfg.postprocess == "choose" else cfg.postprocess,
        first_look="none" if cfg.first_look == "calibrate" else cfg.first_look,
        local_rank=local_rank(os.environ),
    )
    if may_write is not None:
        run.data.may_write = may_write
    run.load()
    if cfg.first_look == "calibrate":
        check_choice(cfg, "first_look", run=run)
        run.calibrate_look(keep=cfg.first_look_keep, margin=cfg.first_look_margin)
    if cfg.postprocess == "choose":
        check_choice(cfg, "postprocess", run=run)
        run.choose_postprocessing()
    if shard is not None:
        run.data.check = False  # by each process for its own part
    folder = Path(cfg.output) if cfg.output else default_folder(cfg, run=run)
    settings = {name: cfg[name] for name in ("split", "save_predictions", "figures", "lesions")}
    scores: Evaluation | None
    with all_end_together() if shard is not None else nullcontext():
        if shard is None:
            scores = score_all(run, folder=folder, **settings)
        else:
            scores = evaluate_part(run, folder=folder, **settings, shard=shard)
    if scores is not None:
        logger.info("\n%s\nWritten to %s", scores.table(), folder)
    if cfg.selection:
        logger.info("\n%s", selection_table(measure_selection(run, split=cfg.split, folder=folder)))


def default_folder(cfg: DictConfig, *, run: Run) -> Path:
    """The folder <run>/eval/<split> of the run's standard evaluation; UserError if this evaluation differs from it.

    With other settings of the pruning method it is <run>/changed/<settings>/eval/<split>.
    The number format that precision=auto chooses depends on the machine; it does not make another evaluation.
    """
    changed = ["inferer"] if "_target_" in cfg.inferer else [f"inferer.{key}" for key in cfg.inferer]
    changed += ["precision"] * (cfg.precision not in (None, "auto", run.config.trainer.precision))
    changed += ["postprocess"] * (cfg.postprocess == "none" and (run.folder / FILE).exists())
    changed += ["first_look"] * (cfg.first_look == "none" and (run.folder / LOOK_FILE).exists())
    changed += other_data(cfg, run=run, split=cfg.split)
    folder = folder_of(run.folder, changed=run.changed) / "eval" / cfg.split
    if changed:
        raise UserError(
            f"{', '.join(changed)} differ from the run's settings, and {folder} is for an evaluation with them: give "
            "output=FOLDER."
        )
    check_links(run.folder)
    return folder


def check_choice(cfg: DictConfig, key: str, *, run: Run) -> None:
    """UserError where what `key` asks for would be chosen on other data than the run was validated on."""
    changed = [f"{KEY}.{name}" for name in run.changed]
    if changed := changed + other_data(cfg, run=run, split="val"):
        raise UserError(
            f"{key}={cfg[key]}: {', '.join(changed)} differ from the run's. What a run keeps is chosen on its own "
            f"validation cases. Give {key}={cfg[key]} without that, and evaluate with it afterwards."
        )
    check_links(run.folder)


def other_data(cfg: DictConfig, *, run: Run, split: str) -> list[str]:
    """What of the data and the cases of a split is not as in the run."""
    changed = [f"data.{key}" for key in cfg.data if key not in PLACES]
    if (run.folder / card.FILE).exists() and split in ("val", "test"):
        recorded = card.read_card(run.folder)["split"][split]
        prepare_to_score(run, split=split)
        found = [case.name for case in run.data.cases(split)]
        changed += [f"the cases below data.root={run.data.root}"] * (recorded != found or run.data.is_other_set)
    return changed
