"""Prediction: label maps of new images, by a run's network or by an export of it."""

from omegaconf import DictConfig, OmegaConf

from sct.config.trust import Trust
from sct.runs.folder import log_to
from sct.runs.run import open_run


def predict(cfg: DictConfig) -> None:
    """Writes one label map for each input, on the grid and in the format of the input; inputs are never overwritten."""
    log_to(None)
    OmegaConf.to_object(cfg)  # the schema refuses an unknown number format
    run = open_run(
        cfg.ckpt,
        weights=cfg.weights,
        device=cfg.device,
        precision=cfg.precision,
        backend=cfg.backend,
        changes={"inferer": cfg.inferer, "data": reading(cfg)},
        trust=Trust.of_command(cfg),
        postprocess=cfg.postprocess,
    )
    run.predict_files(cfg.input, output=cfg.output)


def reading(cfg: DictConfig) -> dict[str, str]:
    """What the command says about files, as settings of the data; what it does not say stays as it is in the run."""
    settings = {"series": cfg.series, "label_format": cfg.format}
    return {key: value for key, value in settings.items() if value is not None}
