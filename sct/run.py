"""A run's folder: where it is, what it was started with, and which one `resume` means."""

import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sct import checkpoint
from sct.cli import compose_config
from sct.config import to_dict
from sct.distributed import Processes
from sct.errors import UserError
from sct.files import write_text

logger = logging.getLogger(__name__)

# what may differ between two starts of the same run
NOT_IDENTITY = ("resume", "run_dir", "ckpt", "profile")


def open_run(cfg: DictConfig, *, processes: Processes) -> tuple[DictConfig, Path]:
    """The config and folder of the run to train: decided by the main process, the same in all.

    `resume=null` makes a new folder, `resume=auto` goes on with the newest unfinished run of the same config
    (or starts one), `resume=PATH` goes on with that run under its own config plus what else the command says.
    """
    decision, problem = None, None
    if processes.is_main:
        try:
            cfg, folder = choose_run(cfg)
            decision = (to_dict(cfg), str(folder))
        except UserError as error:
            problem = str(error)
    decision, problem = processes.broadcast((decision, problem))
    if problem is not None:
        raise UserError(problem)
    container, folder_name = decision
    run_dir = Path(folder_name)
    if processes.is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(container)))
        write_text(run_dir / "overrides.json", json.dumps(task_overrides(), indent=1))
        log_to(run_dir)
    else:
        log_to(None, level=logging.WARNING)
    return OmegaConf.create(container), run_dir


def choose_run(cfg: DictConfig) -> tuple[DictConfig, Path]:
    """Which folder, and with which config."""
    if cfg.resume is None or (cfg.resume == "auto" and cfg.run_dir is not None):
        return cfg, new_folder(cfg)
    if cfg.resume == "auto":
        return cfg, newest_unfinished(cfg) or new_folder(cfg)
    run_dir = Path(cfg.resume)
    if run_dir.is_file():
        raise UserError(f"resume={run_dir} is a file; give the run folder, two levels above its checkpoints.")
    if not checkpoint.step_files(run_dir):
        raise UserError(f"resume={run_dir} holds no {checkpoint.FOLDER}/step_*.pt to go on from.")
    return resumed_config(run_dir), run_dir


def new_folder(cfg: DictConfig) -> Path:
    """`run_dir`, or outputs/<name>/<time>; never one that holds another run."""
    if cfg.run_dir is not None:
        folder = Path(cfg.run_dir)
        if (folder / "config.yaml").exists() and cfg.resume != "auto":
            raise UserError(
                f"run_dir={folder} already holds a run. Give resume=auto to go on with it, or another run_dir."
            )
        if (folder / "config.yaml").exists() and identity(OmegaConf.load(folder / "config.yaml")) != identity(cfg):
            raise UserError(
                f"run_dir={folder} holds a run with another config. Give resume={folder} to go on with "
                "that one, or another run_dir."
            )
        return folder
    base = Path(cfg.paths.outputs) / cfg.name / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}_{number}")
    return folder


def newest_unfinished(cfg: DictConfig) -> Path | None:
    """The newest run of this name and config that has not reached its last step."""
    for path in sorted((Path(cfg.paths.outputs) / cfg.name).glob("*/config.yaml"), reverse=True):
        if identity(OmegaConf.load(path)) == identity(cfg) and not (path.parent / "finished").exists():
            return path.parent
    return None


def identity(cfg: Any) -> dict[str, Any]:
    """The resolved config without what may differ between two starts of one run."""
    return {key: value for key, value in to_dict(cfg).items() if key not in NOT_IDENTITY}


def resumed_config(run_dir: Path) -> DictConfig:
    """The config of a run, composed anew from what it was started with and what the command adds."""
    if not (run_dir / "overrides.json").exists():
        raise UserError(f"{run_dir} has no overrides.json; is it a run folder?")
    before = json.loads((run_dir / "overrides.json").read_text())
    added = [override for override in task_overrides() if override not in before]
    cfg = compose_config("train", overrides=before + added)
    saved = OmegaConf.load(run_dir / "config.yaml")
    for key in sorted(changed_keys(identity(saved), identity(cfg))):
        logger.warning("%s differs from what this run was started with.", key)
    return cfg


def changed_keys(old: Any, new: Any, *, key: str = "") -> set[str]:
    """Dotted keys at which two containers differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = (changed_keys(old.get(k), new.get(k), key=f"{key}.{k}" if key else k) for k in {**old, **new})
        return set().union(*parts)
    return set() if old == new else {key}


def task_overrides() -> list[str]:
    """What the command line asked for, without what tells runs apart."""
    if not HydraConfig.initialized():
        return []
    overrides = HydraConfig.get().overrides.task
    return [override for override in overrides if override.split("=")[0].lstrip("+") not in NOT_IDENTITY]


def log_to(run_dir: Path | None, *, level: int = logging.INFO) -> None:
    """Log messages go to the terminal, and to the train.log of a run folder."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if run_dir is not None:
        handlers.append(logging.FileHandler(run_dir / "train.log"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        root.addHandler(handler)
    root.setLevel(level)
