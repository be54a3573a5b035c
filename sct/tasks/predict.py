"""Prediction: label maps of new images, by a run's network or by an export of it."""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sct.config.trust import Trust
from sct.runs.folder import log_to
from sct.runs.prediction import predict_files
from sct.runs.run import open_run
from sct.runtime.shards import local_rank
from sct.tasks.parts import all_end_together, shard_of_command


def predict(cfg: DictConfig) -> None:
    """Writes one label map for each input, on the grid and in the format of the input; inputs are never overwritten."""
    log_to(None)
    OmegaConf.to_object(cfg)  # the schema refuses an unknown number format
    shard = shard_of_command(cfg.shard)
    run = open_run(
        cfg.ckpt,
        weights=cfg.weights,
        device=cfg.device,
        precision=cfg.precision,
        backend=cfg.backend,
        changes={"inferer": cfg.inferer, "data": reading(cfg)},
        trust=Trust.of_command(cfg),
        postprocess=cfg.postprocess,
        first_look=cfg.first_look,
        local_rank=local_rank(os.environ),
    )
    with all_end_together():
        predict_files(run, Path(cfg.input), output=Path(cfg.output), recursive=cfg.recursive, shard=shard)


def reading(cfg: DictConfig) -> dict[str, str]:
    """What the command says about files, as settings of the data; what it does not say stays as it is in the run."""
    settings = {"series": cfg.series, "label_format": cfg.format}
    return {key: value for key, value in settings.items() if value is not None}
