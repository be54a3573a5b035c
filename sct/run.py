"""A run's folder: where it is, what it was started with, and which one `resume` means."""

import fcntl
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sct import checkpoint
from sct.cli import compose_config
from sct.config import check_config, to_dict
from sct.distributed import Processes
from sct.errors import UserError
from sct.files import write_text

logger = logging.getLogger(__name__)

# what may differ between two starts of the same run
NOT_IDENTITY = ("resume", "run_dir", "ckpt", "profile")
FINISHED = "finished"


@dataclass(frozen=True)
class Plan:
    """What a command is to train: its resolved config, the overrides behind it, its folder (None: a new one)."""

    config: dict[str, Any]
    overrides: list[str]
    folder: Path | None


def plan_run(cfg: DictConfig) -> Plan:
    """Decides what to train and where, and checks the config; writes nothing.

    `resume=null` plans a new folder, `resume=auto` goes on with the newest unfinished run of the same config
    (or plans one), `resume=PATH` goes on with that run under its own config and what the command adds to it.
    """
    if cfg.ckpt is not None:
        raise UserError(f"ckpt={cfg.ckpt} is not for training; resume=RUN_FOLDER goes on with a run.")
    if cfg.resume in (None, "auto"):
        check_config(cfg)
        return Plan(to_dict(cfg), task_overrides(), choose_folder(cfg))
    folder = Path(cfg.resume)
    if folder.is_file():
        raise UserError(f"resume={folder} is a file; give the run folder, two levels above its checkpoints.")
    if not checkpoint.step_files(folder) or not (folder / "config.yaml").exists():
        raise UserError(f"resume={folder} is no run folder with checkpoints to go on from; give another one.")
    if cfg.run_dir is not None and Path(cfg.run_dir).resolve() != folder.resolve():
        raise UserError(f"resume={folder} trains in that folder; leave run_dir={cfg.run_dir} out.")
    config, overrides = resumed_config(folder)
    check_config(OmegaConf.create(config))
    return Plan(config, overrides, folder)


def choose_folder(cfg: DictConfig) -> Path | None:
    """`run_dir`, never with another run in it, or the run that `resume=auto` finds."""
    if cfg.run_dir is None:
        return newest_unfinished(cfg) if cfg.resume == "auto" else None
    folder = Path(cfg.run_dir)
    if not (folder / "config.yaml").exists() and not checkpoint.step_files(folder):
        return folder
    if not (folder / "config.yaml").exists():
        raise UserError(f"run_dir={folder} holds checkpoints but no config.yaml. Give another run_dir.")
    if cfg.resume is None:
        raise UserError(f"run_dir={folder} already holds a run. Give resume=auto to go on with it, or another run_dir.")
    changed = changed_keys(saved_identity(folder), identity(to_dict(cfg)))
    if changed:
        raise UserError(
            f"run_dir={folder} holds a run with another config ({', '.join(sorted(changed)[:8])} differ). Give "
            f"resume={folder} to go on with that one, or another run_dir."
        )
    return folder


def newest_unfinished(cfg: DictConfig) -> Path | None:
    """The newest run of this name and config that has not reached its last step."""
    runs = sorted((Path(cfg.paths.outputs) / cfg.name).glob("*/config.yaml"), reverse=True)
    unfinished = [path.parent for path in runs if not (path.parent / FINISHED).exists()]
    own = identity(to_dict(cfg))
    for folder in unfinished:
        if not changed_keys(saved_identity(folder), own):
            return folder
    if unfinished:
        changed = sorted(changed_keys(saved_identity(unfinished[0]), own))
        logger.warning(
            "resume=auto: starting anew, the unfinished %s differs in %s", unfinished[0], ", ".join(changed[:8])
        )
    return None


def saved_identity(folder: Path) -> dict[str, Any]:
    return identity(to_dict(OmegaConf.load(folder / "config.yaml")))


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The resolved config without what may differ between two starts of one run."""
    return {key: value for key, value in config.items() if key not in NOT_IDENTITY}


def resumed_arguments(arguments: list[str]) -> list[str]:
    """A command line behind the overrides of the run that its `resume=PATH` means: their keys are then known."""
    record = (
        Path(next((a.removeprefix("resume=") for a in arguments if a.startswith("resume=")), "")) / "overrides.json"
    )
    if not record.exists():
        return arguments
    given = {key_of(argument) for argument in arguments}
    return [override for override in json.loads(record.read_text()) if key_of(override) not in given] + arguments


def resumed_config(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The config that a run was started with, changed where the command asks for it, and the overrides of both.

    What is in the run's folder counts, not what the config files have become since: of these, only what the
    added overrides change is taken.
    """
    saved = to_dict(OmegaConf.load(folder / "config.yaml"))
    before = json.loads((folder / "overrides.json").read_text())
    added = [override for override in task_overrides() if override not in before]
    if not added:
        return saved, before
    replaced = {key_of(override) for override in added}
    after = [override for override in before if key_of(override) not in replaced] + added
    old, new = (to_dict(compose_config("train", overrides=overrides)) for overrides in (before, after))
    config = changed_like(saved, old=old, new=new)
    for key in sorted(changed_keys(saved, config)):
        logger.warning("%s differs from what this run was started with", key)
    return config, after


def changed_like(saved: dict[str, Any], *, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`saved` with every difference between `old` and `new` made to it too."""
    result = {key: value for key, value in saved.items() if key in new or key not in old}
    for key, value in new.items():
        if key in old and old[key] == value:
            continue
        nested = all(isinstance(node.get(key), dict) for node in (saved, old, new))
        result[key] = changed_like(saved[key], old=old[key], new=value) if nested else value
    return result


def changed_keys(old: Any, new: Any, *, key: str = "") -> set[str]:
    """Dotted keys at which two containers differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = (changed_keys(old.get(k), new.get(k), key=f"{key}.{k}" if key else k) for k in {**old, **new})
        return set().union(*parts)
    return set() if old == new else {key}


def key_of(override: str) -> str:
    """The key that an override is about."""
    return override.split("=")[0].lstrip("+~")


def task_overrides() -> list[str]:
    """What the command line asked for, without what tells runs apart."""
    if not HydraConfig.initialized():
        return []
    return [override for override in HydraConfig.get().overrides.task if key_of(override) not in NOT_IDENTITY]


@contextmanager
def opened(plan: Plan, *, processes: Processes) -> Iterator[Path]:
    """The folder of a run while it trains: made where it is new, with config and log in it, locked."""
    with ExitStack() as stack:

        def open_folder() -> Path:
            parent = Path(plan.config["paths"]["outputs"]) / plan.config["name"]
            try:
                folder = plan.folder or new_folder(parent)
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"The run folder can't be made ({error}). Set run_dir or paths.outputs.") from error
            stack.enter_context(locked(folder))
            (folder / FINISHED).unlink(missing_ok=True)
            write_text(folder / "overrides.json", json.dumps(plan.overrides, indent=1))
            write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plan.config)))
            log_to(folder)
            logger.info("run folder %s", folder)
            return folder

        yield processes.on_main(open_folder)


def new_folder(parent: Path) -> Path:
    """A folder named by the time, which no other run started at the same moment can get too."""
    now, number = f"{datetime.now():%Y-%m-%d_%H-%M-%S}", 1
    folder = parent / now
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = parent / f"{now}_{number}"
        else:
            return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second training out of the folder; however this one ends, the system frees the lock."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"{folder} is being trained in by another process. Wait for it, or end it.") from error
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s can't be locked (%s): start no second training in it", folder, error)
        yield


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
