"""Training: from a composed config to a run folder with its checkpoints."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from sct.config.check import build
from sct.config.schema import TrainerConfig
from sct.config.trust import SHIPPED_ALONE, Trust
from sct.data.loading.workers import watched_workers
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.runs.build import build_criterion, build_inferer, build_segmenter, use_found
from sct.runs.card import FILE, differences, read_card, run_card, weights_digest, write_card
from sct.runs.folder import Plan, best_score, log_to, opened, plan_run
from sct.runtime import checkpoint, distributed
from sct.runtime.distributed import Processes
from sct.runtime.plain import plain_config
from sct.runtime.requeue import queue_again, signals_of_jobs
from sct.runtime.signals import Ending, Interrupted
from sct.training.trainer import Trainer

logger = logging.getLogger(__name__)


def train(
    cfg: DictConfig,
    *,
    overrides: Sequence[str] | None = None,
    trust: Trust | None = None,
    may_write: tuple[str, ...] | None = None,
) -> float:
    """Trains the network of a config; returns the best validation score, for sweepers.

    overrides, trust, may_write: the overrides that made the config, the code that it may name, and which folders of the
    data it may choose to write to (see `Plan`), if the config is not from the command line.

    Interrupted by a signal, once the run is saved; in a job of Slurm that is preempted, the job is queued again.
    """
    processes = distributed.join(cfg.trainer.device)
    log_to(None, level=logging.INFO if processes.is_main else logging.WARNING)
    ending = Ending(
        also=signals_of_jobs(os.environ), announce=processes.is_main, patience=1.0 * (processes.world_size > 1)
    )
    try:
        with ending:
            plan = processes.on_main(lambda: plan_run(cfg, trust=trust or Trust.of_command(cfg)))
            if overrides is not None:
                plan = replace(plan, overrides=list(overrides))
            if may_write is not None:
                plan = replace(plan, may_write=may_write)
            return train_run(plan, processes=processes, ending=ending)
    except Interrupted as interrupted:
        if processes.is_main:
            queue_again(os.environ, received=interrupted.number)
        raise


def train_run(plan: Plan, *, processes: Processes, ending: Ending) -> float:
    """Does the training of a plan in processes that have met; `ending`: of signals.

    Nothing is written into a run folder before config, data, network and checkpoint are checked.
    """
    cfg = OmegaConf.create(plan.config)
    settings = trainer_settings(cfg)
    which = "best" if settings.choose_best else "last"
    if plan.done and plan.folder is not None:
        score = best_score(plan.folder, metric=settings.best_metric, chosen=settings.choose_best)
        logger.info("done already, %s %s %.4f: %s", which, settings.best_metric, score, plan.folder)
        distributed.leave()
        return score
    set_determinism(settings.deterministic, device=processes.device)
    use_found(cfg)
    if plan.cache_dir is not None:
        cfg.data.cache_dir = plan.cache_dir
    data = build(cfg.data, key="data", trust=plan.trust)
    data.may_write = plan.may_write
    # one process finds and later checks the files; the others then read its result
    processes.on_main(lambda: data.prepare(check=False))
    data.prepare(check=False)
    # a data set may come from a stranger, too
    found = plain_config(data.found(), place=data.root)
    plan = replace(plan, config={**plan.config, "found": found})
    # a network that can't be built is told before the files are read, which takes minutes
    trainer = build_trainer(cfg, data=data, processes=processes, config=plan.config, trust=plan.trust)
    processes.on_main(data.prepare)
    data.prepare()
    first = None
    if not (plan.folder and checkpoint.step_files(plan.folder)):
        start(trainer, cfg)
        first = first_weights(trainer) if processes.is_main else None
    if plan.folder is not None:
        trainer.restore(plan.folder)
    with opened(plan, processes=processes) as run_dir, watched_workers():
        if processes.is_main:
            leave_card(plan, run_dir, first=first, trainer=trainer)
        best = trainer.fit(run_dir, ending=ending)
    # DistributedDataParallel goes before its process group: as the group's last owner it would wait for the group's
    # threads with Python's lock in its hands, and such a thread may be waiting for this lock
    trainer.model = trainer.segmenter
    logger.info(
        "%s %s %.4f at step %d; %s%s",
        which,
        settings.best_metric,
        best.get(settings.best_metric, math.nan),
        best["step"],
        trainer.goal.next_command(run_dir),
        f" 'plugins=[{','.join(plan.trust.plugins)}]'" if plan.trust.plugins else "",
    )
    distributed.leave()
    return best.get(settings.best_metric, math.nan)


def leave_card(plan: Plan, run_dir: Path, *, first: dict[str, str] | None, trainer: Trainer) -> None:
    """Writes the run's card; the previous card of a resumed run is kept in the new card's `history`.

    first: digests of the weights before the first step; None for a resumed run.
    """
    card = run_card(
        plan.config,
        overrides=plan.overrides,
        num_processes=trainer.processes.world_size,
        first=first,
        data=trainer.data,
        device=trainer.device,
        chosen=trainer.format,
    )
    before = previous_card(run_dir)
    if before is not None:
        history = before.pop("history", [])
        card["first_weights"] = first or before.get("first_weights")
        card["history"] = [*history, before] if differences(card, before) else history
    write_card(run_dir, card)


def previous_card(run_dir: Path) -> dict[str, Any] | None:
    """The card of a resumed run; None without one or, with a warning, if it is damaged."""
    if not (run_dir / FILE).exists():
        return None
    try:
        return read_card(run_dir)
    except UserError as error:
        logger.warning("%s It is made again, without its history.", error)
        return None


def start(trainer: Trainer, cfg: DictConfig) -> None:
    """Loads the first weights of a new run if its config names any (`init` or `pretrained`)."""
    if cfg.init is not None and cfg.pretrained is not None:
        raise UserError(f"init={cfg.init} and pretrained={cfg.pretrained} both give the first weights; keep one.")
    if cfg.init is not None:
        path = checkpoint.find(cfg.init, weights="best", key="init")
        trainer.start_from(weights_for(trainer.data, checkpoint.load(path), source=path), source=str(path))
    if cfg.pretrained is not None:
        trainer.start_pretrained(cfg.pretrained)
    reducer = trainer.segmenter.encoder.reducer
    if reducer is not None and reducer.freezes_encoder and cfg.init is None and cfg.pretrained is None:
        logger.warning(
            "%s trains a frozen encoder, but nothing gives it weights: it stays as it was drawn. Give init=RUN",
            type(reducer).__name__,
        )


def weights_for(data: SegmentationData, state: dict[str, Any], *, source: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint for a training on `data`: all, or of a pretraining without labels the encoder's.

    As in MAE: what fills in and decodes hidden patches has learnt that alone.
    """
    weights: dict[str, Tensor] = state["model"]
    if not data.labelled or state["config"]["data"].get("labelled", True):
        return weights
    logger.info("%s was pretrained without labels: its encoder is taken, its completion and decoder are not", source)
    return {name: value for name, value in weights.items() if name.startswith("encoder.")}


def first_weights(trainer: Trainer) -> dict[str, str]:
    """Digests of the network before its first step, and of the loss: a teacher, the weights of classes."""
    return {
        "network": weights_digest(trainer.segmenter.state_dict()),
        "loss": weights_digest(trainer.criterion.state_dict()),
    }


def build_trainer(
    cfg: DictConfig,
    *,
    data: SegmentationData,
    processes: Processes,
    config: dict[str, Any],
    trust: Trust = SHIPPED_ALONE,
) -> Trainer:
    """A trainer before its first step, with weights drawn from `cfg.seed`; `config` is saved in its checkpoints."""
    torch.manual_seed(cfg.seed)
    segmenter = build_segmenter(cfg, data=data, trust=trust)
    if cfg.trainer.get("deep_supervision") and not segmenter.decoder.num_levels:
        logger.warning(
            "trainer.deep_supervision=true is ignored: this network has no level that counts. decoder=unetr, thin, "
            "primus, unet and cup (from patches of 8 voxels on), model=nnunet and monai_dynunet have some"
        )
    return Trainer(
        settings=trainer_settings(cfg),
        seed=cfg.seed,
        config=config,
        processes=processes,
        data=data,
        segmenter=segmenter,
        criterion=build_criterion(cfg, data=data, trust=trust),
        make_optimizer=build(cfg.optimizer, key="optimizer", trust=trust),
        schedule=build(cfg.schedule, key="schedule", trust=trust),
        inferer=build_inferer(cfg, trust=trust),
    )


def trainer_settings(cfg: DictConfig) -> TrainerConfig:
    """The trainer section as a typed object, also if the config was read from a file."""
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainerConfig), cfg.trainer))
    assert isinstance(settings, TrainerConfig)
    return settings


def set_determinism(on: bool, *, device: torch.device) -> None:
    """Switches deterministic operations on or off; on CUDA, operations without a deterministic form only warn."""
    torch.use_deterministic_algorithms(on, warn_only=device.type == "cuda")
    torch.backends.cudnn.benchmark = not on
