"""Profile: costs of a network, in total and by part."""

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sct.config.check import to_dict
from sct.config.command import key_of
from sct.config.schema import ProfileConfig
from sct.config.trust import Trust
from sct.profiling.macs import check_convention
from sct.profiling.profile import format_profile
from sct.runs.changes import folder_of
from sct.runs.experiment import Experiment, from_config
from sct.runs.folder import log_to, task_overrides
from sct.runs.links import check_links
from sct.runs.run import Run, open_run
from sct.runtime.distributed import pick_device

logger = logging.getLogger(__name__)


def profile(cfg: DictConfig) -> None:
    """Writes profile.json (and a trace) into the run folder, or a new folder, and prints the table."""
    log_to(None)
    check_convention(cfg.profile.convention)
    experiment: Experiment
    if cfg.ckpt is not None:
        experiment = open_run(
            cfg.ckpt,
            device=cfg.trainer.device,
            precision="fp32",
            changes={"encoder": asked_of_encoder(cfg)},
            trust=Trust.of_command(cfg),
        )
    else:
        experiment = from_config(cfg, device=pick_device(cfg.trainer.device))
    folder = new_folder(cfg)
    if isinstance(experiment, Run):
        check_links(experiment.folder)
        folder = folder_of(experiment.folder, changed=experiment.changed)
    settings = OmegaConf.to_object(cfg.profile)
    assert isinstance(settings, ProfileConfig)
    by_image = experiment.network.encoder.by_image
    if not settings.latency and not by_image and settings.windows:
        logger.warning("profile.windows=%d is ignored: every image has the same cost", settings.windows)
        settings = replace(settings, windows=0)
    if not settings.latency and by_image:
        logger.info("this network prunes by the content of the image: it is run, which is slower than counting alone")
    if by_image and not settings.windows:
        logger.warning(
            "this network prunes by the content of the image, but the image is noise: give profile.windows=16"
        )
    result = experiment.measure(settings, trace_dir=folder / "trace")
    result.write(folder / "profile.json")
    logger.info("\n%s\nWritten to %s", format_profile(result), folder / "profile.json")


def asked_of_encoder(cfg: DictConfig) -> dict[str, Any]:
    """The settings of `encoder` that the command line gives beside ckpt=RUN."""
    asked = OmegaConf.create({})
    for key in map(key_of, task_overrides()):
        if key.startswith("encoder."):
            OmegaConf.update(asked, key.removeprefix("encoder."), OmegaConf.select(cfg, key))
    return to_dict(asked)


def new_folder(cfg: DictConfig) -> Path:
    """The folder for the profile of an untrained network."""
    return Path(cfg.run_dir or f"{cfg.paths.outputs}/{cfg.name}/profile_{datetime.now():%Y-%m-%d_%H-%M-%S}")
