"""Profile: what a network costs, in whole and by part."""

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from sct.config.check import build, check_config
from sct.config.schema import ProfileConfig
from sct.profiling.macs import check_convention
from sct.profiling.segmenter import profile_segmenter
from sct.profiling.table import format_profile
from sct.profiling.windows import sample_windows
from sct.runs.build import build_segmenter, load_trained
from sct.runs.folder import log_to
from sct.runtime.distributed import pick_device

logger = logging.getLogger(__name__)


def profile(cfg: DictConfig) -> None:
    """Writes profile.json (and a trace) into the run folder, or a new folder, and prints the table."""
    log_to(None)
    check_convention(cfg.profile.convention)
    device = pick_device(cfg.trainer.device)
    if cfg.ckpt is not None:
        run_cfg, data, segmenter = load_trained(cfg.ckpt, weights="best", changes={}, device=device)
        folder = run_folder(Path(cfg.ckpt))
    else:
        check_config(cfg)
        run_cfg, data = cfg, build(cfg.data, key="data")
        torch.manual_seed(cfg.seed)
        segmenter = build_segmenter(cfg, data=data)
        folder = Path(cfg.run_dir or f"{cfg.paths.outputs}/{cfg.name}/profile_{datetime.now():%Y-%m-%d_%H-%M-%S}")
    settings = OmegaConf.to_object(cfg.profile)
    assert isinstance(settings, ProfileConfig)
    windows = None
    by_image = segmenter.encoder.by_image
    if not settings.latency and not by_image:
        # shapes alone are counted: nothing is computed, and an image's values change nothing
        device = torch.device("meta")
        if settings.windows:
            logger.warning("profile.windows=%d is ignored: every image has the same cost", settings.windows)
            settings = replace(settings, windows=0)
    elif not settings.latency:
        logger.info("what this network prunes depends on the image: it is computed, which takes longer than counting")
    if by_image and not settings.windows:
        logger.warning("what this network prunes depends on the image, and this is noise: give profile.windows=16")
    if settings.windows:
        data.prepare()
        windows = sample_windows(data, count=settings.windows, split=settings.split)
    result = profile_segmenter(
        segmenter,
        image_shape=(data.num_channels, *data.roi_size),
        criterion=build(run_cfg.loss, key="loss", outputs=data.outputs),
        make_optimizer=build(run_cfg.optimizer, key="optimizer"),
        settings=settings,
        device=device,
        trace_dir=folder / "trace",
        windows=windows,
    )
    result.write(folder / "profile.json")
    logger.info("\n%s\nWritten to %s", format_profile(result), folder / "profile.json")


def run_folder(ckpt: Path) -> Path:
    """The run folder of a run folder or of a checkpoint in it."""
    return ckpt if ckpt.is_dir() else ckpt.parent.parent
