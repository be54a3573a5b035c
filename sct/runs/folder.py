"""A run's folder: its path, its saved config, and the choice of the folder for `resume`."""

import json
import logging
import math
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sct.config.check import check_config, to_dict
from sct.config.command import by_key, compose_config
from sct.config.naming import earlier_name
from sct.config.saved import key_of, saved_overrides
from sct.config.trust import SHIPPED_ALONE, Trust
from sct.errors import UserError
from sct.runs.identity import NOT_IDENTITY, changed_keys, changed_like, differing
from sct.runs.links import check_links
from sct.runtime import checkpoint
from sct.runtime.distributed import Processes
from sct.runtime.files import remove_unfinished, write_text
from sct.runtime.logs import LogFormatter, RunLog
from sct.runtime.migration import config_of_today
from sct.runtime.plain import read_yaml_config
from sct.runtime.rows import FILE, read_rows

logger = logging.getLogger(__name__)

# settings of the data that name folders which are written to
WRITTEN = ("root", "cache_dir")
FINISHED = "finished"
UNFINISHED = "unfinished"  # a signal has ended the training before its last step
# overrides that are not part of the label of a sweep's job, by the first part of their key
NOT_IN_LABEL = (*NOT_IDENTITY, "name", "paths", "sweep", "debug")


@dataclass(frozen=True)
class Plan:
    """The training that a command will do: its resolved config, the overrides of the config, its folder (None: new).

    newest: newest checkpoint of the folder, None without one; done: the run has finished and is not repeated; trust:
    what code the config may name; may_write: which of `data.root` and `data.cache_dir` may be written to; cache_dir:
    what takes the place of the config's `data.cache_dir`, None for the config's own.
    """

    config: dict[str, Any]
    overrides: list[str]
    folder: Path | None
    newest: Path | None
    done: bool
    trust: Trust = SHIPPED_ALONE
    may_write: tuple[str, ...] = WRITTEN
    cache_dir: str | None = None


def plan_run(cfg: DictConfig, *, trust: Trust) -> Plan:
    """Decides what to train and in which folder, and checks the config; writes nothing.

    resume=null: a new folder. resume=auto: resume the unfinished run of the same config that has come furthest, else a
    new folder.
    resume=once: as auto, but a finished run is not repeated. resume=PATH: resume this run with its saved config and
    the overrides that the command adds. `trust` applies to `cfg`; a saved config gets less trust, see `Trust.saved`:
    it also chooses no folder to write to.
    """
    if cfg.ckpt is not None:
        raise UserError(f"ckpt={cfg.ckpt} is not for training; resume=RUN_FOLDER resumes a run.")
    if cfg.resume in (None, "auto", "once"):
        check_config(cfg, trust=trust)
        chosen = choose_folder(cfg)
        done = cfg.resume == "once" and chosen is not None and (chosen / FINISHED).exists()
        config = config_to_save(cfg)
        if chosen is not None and (chosen / "config.yaml").exists():
            # names that the run read from its data set; the data set must still have them
            config["found"] = saved_config(chosen).get("found", {})
        may_write = WRITTEN if trust.saved_in is None else ("cache_dir",)
        newest = newest_step(chosen)
        return Plan(config, task_overrides(), chosen, newest=newest, done=done, trust=trust, may_write=may_write)
    folder = Path(cfg.resume)
    if folder.is_file():
        raise UserError(f"resume={folder} is a file; give the run folder, two levels above its checkpoints.")
    if not checkpoint.step_files(folder) or not (folder / "config.yaml").exists():
        raise UserError(f"resume={folder} is not a run folder with checkpoints; give another one.")
    if cfg.run_dir is not None and Path(cfg.run_dir).resolve() != folder.resolve():
        raise UserError(f"resume={folder} trains in this folder; leave run_dir={cfg.run_dir} out.")
    config, overrides = resumed_config(folder)
    trust = trust.saved(folder)
    check_config(OmegaConf.create(config), trust=trust)
    # `data.root` is the command's where it names another one
    may_write = WRITTEN if config["data"].get("root") != saved_config(folder)["data"].get("root") else ("cache_dir",)
    return Plan(
        config,
        overrides,
        folder,
        newest=newest_step(folder),
        done=False,
        trust=trust,
        may_write=may_write,
        cache_dir=own_cache(cfg, saved=config["data"].get("cache_dir")),
    )


def own_cache(cfg: DictConfig, *, saved: str | None) -> str:
    """The cache of a command that resumes a run: the folder of the saved config may be anybody's."""
    given = {key_of(override) for override in task_overrides()}
    folder = str(cfg.data.cache_dir if "data.cache_dir" in given else cfg.paths.cache)
    if folder != saved:
        logger.warning(
            "the cache is in %s, not in %s as at the start of the run: data.cache_dir=FOLDER chooses it", folder, saved
        )
    return folder


def config_to_save(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config without `plugins`: a saved run must not choose the packages to trust."""
    return {key: value for key, value in to_dict(cfg).items() if key != "plugins"}


def newest_step(folder: Path | None) -> Path | None:
    """The newest checkpoint of a run folder."""
    return next(iter(checkpoint.step_files(folder)), None) if folder is not None else None


def newest_name(folder: Path) -> str:
    """The name of the newest checkpoint, which grows with its step; empty without one."""
    newest = newest_step(folder)
    return newest.name if newest is not None else ""


def choose_folder(cfg: DictConfig) -> Path | None:
    """The folder `run_dir`, or the run that `resume=auto` or `resume=once` finds; UserError if it has another run."""
    if cfg.run_dir is None:
        finished = newest_run(cfg, finished=True) if cfg.resume == "once" else None
        return finished or (newest_run(cfg, finished=False) if cfg.resume is not None else None)
    folder = Path(cfg.run_dir)
    if not (folder / "config.yaml").exists() and not checkpoint.step_files(folder):
        return folder
    if not (folder / "config.yaml").exists():
        raise UserError(f"run_dir={folder} holds checkpoints but no config.yaml. Give another run_dir.")
    if cfg.resume is None:
        raise UserError(f"run_dir={folder} already holds a run. Give resume=auto to resume it, or another run_dir.")
    if changed := differing(saved_config(folder), to_dict(cfg)):
        raise UserError(
            f"run_dir={folder} holds a run with another config ({', '.join(changed[:8])} differ). Give "
            f"resume={folder} to resume that run, or another run_dir."
        )
    return folder


def newest_run(cfg: DictConfig, *, finished: bool) -> Path | None:
    """The run of most steps with this name and config that has finished, or with finished=False one that has not.

    Of several with as many steps the newest. Steps come first, since clocks of machines differ and are set back.
    """
    given = by_key(HydraConfig.get().overrides.task) if HydraConfig.initialized() else {}
    names = {cfg.name, earlier_name(cfg, given=given)}
    runs = [path.parent for name in names for path in (Path(cfg.paths.outputs) / name).glob("*/config.yaml")]
    runs.sort(key=lambda folder: (newest_name(folder), folder.name), reverse=True)
    runs = [folder for folder in runs if (folder / FINISHED).exists() == finished]
    current, changes = to_dict(cfg), {}
    for folder in runs:
        changes[folder] = differing(saved_config(folder), current)
        if not changes[folder]:
            return folder
    # no warning for resume=once: the runs of a sweep differ on purpose
    if runs and cfg.resume == "auto":
        changed = ", ".join(changes[runs[0]][:8])
        logger.warning("resume=auto: starting anew, the unfinished %s differs in %s", runs[0], changed)
    return None


def best_score(folder: Path, *, metric: str, chosen: bool = True) -> float:
    """The validation score of the weights that a finished run kept as its best: the best, or the last one."""
    scores = [row[metric] for row in read_rows(folder / FILE).values if metric in row]
    if not scores:
        return math.nan
    return max(scores) if chosen else scores[-1]


def saved_config(folder: Path) -> dict[str, Any]:
    """The config of the training in a run folder; with a warning that of its checkpoint, if the file is damaged."""
    path = folder / "config.yaml"
    try:
        return config_of_today(read_yaml_config(path))
    except UserError:
        # zeros, as a power cut leaves them; what is wrong in another way may be somebody's intention
        if b"\0" not in path.read_bytes() or (state := checkpoint.load_newest(folder)) is None:
            raise
    logger.warning("%s is damaged: it is made again from the newest checkpoint", path)
    return dict(state["config"])


def resumed_config(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The saved config of a run with the changes of the command's new overrides, and all overrides.

    The saved config counts: later changes of the config files have no effect, except on keys that the new overrides
    change.
    """
    saved, before = saved_config(folder), saved_overrides(folder)
    # of a key that has several, as a node that is replaced, all or none
    replaced = {key_of(override) for override in task_overrides() if override not in before}
    added = [override for override in task_overrides() if key_of(override) in replaced]
    if not added:
        return saved, before
    after = [override for override in before if key_of(override) not in replaced] + added
    old, new = (to_dict(compose_config("train", overrides=overrides)) for overrides in (before, after))
    config = changed_like(saved, old=old, new=new)
    for key in sorted(changed_keys(saved, config)):
        logger.warning("%s differs from its value at the start of this run", key)
    return config, after


def task_overrides() -> list[str]:
    """The overrides of the command line without the keys in `NOT_IDENTITY`."""
    if not HydraConfig.initialized():
        return []
    return [override for override in HydraConfig.get().overrides.task if key_of(override) not in NOT_IDENTITY]


def job_label(overrides: list[str]) -> str:
    """The overrides of a sweep's job as a part of a folder name; empty outside a sweep.

    Each override is shown as the last part of its key and its value; paths are left out.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return ""
    parts = []
    for override in overrides:
        key, value = key_of(override), override.partition("=")[2]
        if key.split(".")[0] not in NOT_IN_LABEL and "/" not in value:
            tidy = re.sub(r"[^\w.-]+", "-", value).strip("-")
            parts.append(tidy if key in ("experiment", "recipe", "variant") else f"{key.rpartition('.')[2]}-{tidy}")
    return "_".join(parts)[:150]


@contextmanager
def opened(plan: Plan, *, processes: Processes) -> Iterator[Path]:
    """Makes and locks the folder of a run while it trains, and writes config, overrides and log into it."""
    with ExitStack() as stack:

        def open_folder() -> Path:
            parent = Path(plan.config["paths"]["outputs"]) / plan.config["name"]
            try:
                folder = plan.folder or new_folder(parent, label=job_label(plan.overrides))
                folder.mkdir(parents=True, exist_ok=True)
                check_links(folder)
            except OSError as error:
                raise UserError(f"The run folder can't be made ({error}). Set run_dir or paths.outputs.") from error
            stack.enter_context(locked(folder))
            if newest_step(folder) != plan.newest:
                raise UserError(f"Another process has trained in {folder} in the meantime. Call this command again.")
            for mark in (FINISHED, UNFINISHED):
                (folder / mark).unlink(missing_ok=True)
            remove_unfinished(folder)
            write_text(folder / "overrides.json", json.dumps(plan.overrides, indent=1))
            write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plan.config)))
            log_to(folder)
            logger.info("run folder %s", folder)
            return folder

        yield processes.on_main(open_folder)


def new_folder(parent: Path, *, label: str = "") -> Path:
    """Makes a folder named by the time and the label; another run at the same moment gets another folder."""
    now, number = f"{datetime.now():%Y-%m-%d_%H-%M-%S}" + (f"_{label}" if label else ""), 1
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
    """Prevents a second training in the folder; the system frees the lock when this process ends in any way."""
    # not a soft lock: the lock file would remain if the process is killed
    lock = FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"Another process is training in {folder}. Wait until it ends, or stop it.") from error
    except OSError as error:  # some network file systems have no locks
        logger.warning("%s can't be locked (%s): do not start a second training in it", folder, error)
    try:
        yield
    finally:
        lock.release()


def log_to(run_dir: Path | None, *, level: int = logging.INFO) -> None:
    """Sends log messages to the terminal and, with `run_dir`, to the file train.log in it."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if run_dir is not None:
        handlers.append(RunLog(run_dir / "train.log"))
    for handler in handlers:
        handler.setFormatter(LogFormatter())
        root.addHandler(handler)
    root.setLevel(level)
