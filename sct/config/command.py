"""Entry points: Hydra around a task, and every mistake of the user as one message.

Hydra's own run folders and logging are switched off in `configs/hydra`: a run's folder is ours (`sct.runs.folder`).
"""

import difflib
import errno
import gc
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sct.config.check import check_composed, nearest
from sct.config.folders import CONFIG_DIR, hidden_files, options, own_folders, register_folders
from sct.config.help import Page, help_text
from sct.config.naming import run_name
from sct.config.paths import quoted, text_overrides, whole_nodes
from sct.config.requests import register_schemas
from sct.config.saved import APPENDED, key_of
from sct.config.schema import Config
from sct.errors import UserError, visible
from sct.runtime.extras import install_command
from sct.runtime.full_disk import FULL, full_disk_told_once
from sct.runtime.memory import tune_allocator
from sct.runtime.signals import Ending, Interrupted
from sct.runtime.slurm import num_tasks, process_rank

logger = logging.getLogger(__name__)

CONFIG_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
# what is wrong with a place to write to, not with the program
DISK_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, *FULL)


def open_overrides(arguments: Sequence[str], *, groups: Sequence[str]) -> list[str]:
    """Overrides in which the keys of `groups`, which the command's own config does not know, are added to it."""
    added = tuple(f"{group}." for group in groups)
    return [f"++{argument}" if argument.startswith(added) else argument for argument in arguments]


def by_key(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides by the key that they are about."""
    return {key_of(override): override for override in overrides}


def pairs(texts: Sequence[str], *, option: str) -> dict[str, str]:
    """What the scripts' options take as NAME=VALUE, by name."""
    if wrong := [text for text in texts if "=" not in text]:
        raise UserError(f"{option} {wrong[0]}: give NAME=VALUE.")
    return dict(text.split("=", 1) for text in texts)


class FailedJob(Exception):
    """A job of a sweep that has told its user's mistake: Hydra goes on with the others."""


def run(task: str, *, config_name: str, page: Page, open_groups: Sequence[str] = ()) -> None:
    """Composes the config from the command line, checks it, and runs the task; exits with 1 after a user's mistake.

    `task` is "module:function". The module is imported only after the config proved good: torch and MONAI take
    seconds, which `--help` and a misspelt key need not wait for.
    The keys of `open_groups` are those of a trained run, unknown here: the task checks them. `--help` prints `page`.
    """
    tune_allocator()
    sys.argv[1:] = whole_nodes(text_overrides(open_overrides(sys.argv[1:], groups=open_groups)))
    # Hydra then raises instead of printing its own reports and exiting
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    register_schemas()
    register_folders()
    if {"--help", "-h"} & set(sys.argv[1:]):
        print_help(page, config_name=config_name)
        return
    if is_first():
        warn_of_hidden_files()
    started = False
    # the processes of torchrun and srun can only end together; jobs sent to Slurm begin as processes of their own
    together = "RANK" in os.environ or num_tasks(os.environ) > 1

    def guarded(cfg: DictConfig) -> Any:
        nonlocal started
        started = True
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        end = fail_job if in_sweep and not together else fail
        checked = False
        # caught in here, since Hydra reports what passes through it with a line of its own
        try:
            if OmegaConf.get_type(cfg) is Config:
                cfg.name = run_name(cfg, given=by_key(HydraConfig.get().overrides.task))
            check_composed(cfg)
            checked = True
            module, _, function = task.partition(":")
            return getattr(imported(module), function)(cfg)
        except UserError as error:
            end(str(error) if checked or is_first() else "")
        except CONFIG_ERRORS as error:
            end(explain(error, config_name=config_name) if checked or is_first() else "")
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            end(f"{error}. Make room, or write elsewhere (paths.outputs, run_dir, output, data.cache_dir).")
        except KeyboardInterrupt as error:
            interrupted = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
            fail(str(interrupted) if is_first() else "", status=interrupted.status)

    try:
        with Ending(announce=False), full_disk_told_once():
            hydra.main(config_path=str(CONFIG_DIR), config_name=config_name, version_base="1.3")(guarded)()
    except Interrupted as interrupted:  # before the task has begun
        fail(str(interrupted), status=interrupted.status)
    except FailedJob:
        fail(
            "Some jobs of the sweep failed, see above. Called again with resume=once, it repeats none that ended well."
        )
    except (*CONFIG_ERRORS, ValueError) as error:
        if started:
            raise
        fail(explain(error, config_name=config_name) if is_first() else "")


def imported(module: str) -> ModuleType:
    """The module, imported without garbage collection.

    Imports make hundreds of thousands of objects that all stay: looking through them again and again takes a seventh of
    their time, and the end of the process takes a second longer. The later jobs of a sweep find the module imported:
    what is left of the job before them must be collected.
    """
    if module in sys.modules:
        return sys.modules[module]
    gc.disable()
    try:
        found = import_module(module)
        gc.freeze()
    finally:
        gc.enable()
    return found


def warn_of_hidden_files() -> None:
    """Says which config files of the user are not read, since another one has their name."""
    for path, first in hidden_files():
        logger.warning("%s is not read: %s has the same name. Give your file another one.", path, first)


def print_help(page: Page, *, config_name: str) -> None:
    """Prints the help page, with the values that the command line asks for."""
    overrides = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    try:
        sys.stdout.write(help_text(page, compose_config(config_name, overrides=overrides)))
    except CONFIG_ERRORS as error:
        fail(explain(error, config_name=config_name))


def is_first() -> bool:
    """Whether this process is the first of a run's: the one that tells what is the same in all."""
    return process_rank(os.environ) == 0


def fail(message: str, *, status: int = 1) -> None:
    """Ends the command."""
    tell(message)
    sys.exit(status)


def fail_job(message: str) -> None:
    """Ends one job of a sweep."""
    tell(message)
    raise FailedJob


def tell(message: str) -> None:
    """A message about a mistake; a process of torchrun or srun other than the first says which one it is."""
    place = "" if is_first() else f" in process {process_rank(os.environ)}"
    if message:
        sys.stderr.write(f"Error{place}: {visible(message)}\n")


def explain(error: Exception, *, config_name: str) -> str:
    """What is wrong in a config or on the command line, where, and the nearest valid key or choice."""
    chain = list(causes(error))
    text = str(chain[0])
    if isinstance(error, YAMLError):
        return f"A config file is not valid YAML: {text}"
    if isinstance(error, OverrideParseException):
        name, equals, value = str(error.override).partition("=")
        example = f""" A value that is text takes two pairs of quotes: "{name}={quoted(value)}".""" if equals else ""
        return (
            f"{error.override!r} on the command line can't be read as KEY=VALUE ({chain[1]}). Quote lists and "
            f"special characters: 'key=[1,2]'.{example}"
        )
    if match := re.search(r"Multiple values for (\w+)", text):
        return f"{match[1]} is chosen twice. Give it once, without a plus sign: {match[1]}=NAME."
    if match := re.search(r"Could not override '([^']+)'", text):
        file = re.match(r"In '([^']+)'", text)
        return unknown_key(match[1], config_name=config_name, place=f"{file[1]}.yaml" if file else "")
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, name = match.groups()
        if group.startswith("hydra/"):
            return (
                f"There is no {group}={name} here. Optuna and Slurm (hydra/sweeper=optuna, hydra/launcher=slurm) come "
                f"with  {install_command('sweep')}"
            )
        return (
            f"There is no {group}={name}. {nearest(name, options(group))} Choices: {', '.join(options(group))}. "
            f"Searched: {' and '.join(map(str, (CONFIG_DIR, *own_folders())))}; --config-dir PATH adds your own folder."
        )
    file = re.match(r"In '([^']+)'", text)
    place = f" in {file[1]}.yaml" if file else ""
    for cause in chain:
        key = getattr(cause, "full_key", None)
        if not key:
            continue
        if "Key '" in str(cause) and file:
            return unknown_key(key, config_name=config_name, place=place.removeprefix(" in "))
        return f"{key}{place}: {str(cause).splitlines()[0]}. Correct this value."
    return f"{text.splitlines()[0]}: {chain[1]}" if len(chain) > 1 and len(text.splitlines()) == 1 else text.strip()


def unknown_key(key: str, *, config_name: str, place: str) -> str:
    """The message about a key that doesn't exist, on the command line or in the file `place`."""
    if place and key in APPENDED:
        return f"{place} must begin with the line '# @package _global_': without it its keys are not found."
    if key in APPENDED:
        return f"{key} is added to a command with a plus sign: +{key}=NAME, one of {', '.join(options(key))}."
    swept = any(argument.startswith("+sweep=") for argument in sys.argv[1:])
    where = f"in {place}" if place else "on the command line" + (" or in hydra.sweeper.params" if swept else "")
    known = [*known_keys(config_name, without=key), *(f"+{name}" for name in APPENDED)]
    if key in known and not place:
        return (
            f"{key}={{...}} {where} changes single settings of {key}, and has one that is not there. Correct its name, "
            f"add it with +{key}.NAME=VALUE, or replace all of {key} by a dict that has a _target_."
        )
    named = any("_target_=" in argument for argument in sys.argv[1:])
    added = f" A setting that only your own class has is added with a plus sign: +{key}=VALUE." if named else ""
    return f"Unknown key {key} {where}. {nearest_key(key, known)}{added}"


def nearest_key(key: str, known: list[str]) -> str:
    """The likeliest of all dotted keys: beside it, of the same name elsewhere, or of similar spelling."""
    parent, _, name = key.rpartition(".")
    siblings = [other for other in known if other.rpartition(".")[0] == parent] or [k for k in known if "." not in k]
    same_name = [other for other in known if other.rpartition(".")[2] == name]
    close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6) or same_name[:1]
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"Known there: {', '.join(siblings)}."


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def known_keys(config_name: str, *, without: str = "") -> list[str]:
    """Every valid key of the config that the command line asks for, leaving out its broken overrides."""
    choices = [arg for arg in sys.argv[1:] if "=" in arg and "." not in arg.split("=")[0] and not arg.startswith("-")]
    choices = [arg for arg in choices if arg.split("=")[0].lstrip("+~") != without]
    for overrides in (choices, []):
        try:
            return list(all_keys(OmegaConf.to_container(compose_config(config_name, overrides=overrides))))
        except CONFIG_ERRORS:
            continue
    return []


def all_keys(node: Any, *, prefix: str = "") -> Iterator[str]:
    """Dotted keys of all nodes, inner ones included."""
    if isinstance(node, dict):
        for name, child in node.items():
            yield f"{prefix}{name}"
            yield from all_keys(child, prefix=f"{prefix}{name}.")


def compose_checked(config_name: str, *, overrides: Sequence[str]) -> DictConfig:
    """As `compose_config`; UserError for a mistake in the overrides or in a config file."""
    try:
        config = compose_config(config_name, overrides=whole_nodes(text_overrides(overrides)))
        check_composed(config)
    except CONFIG_ERRORS as error:
        raise UserError(explain(error, config_name=config_name)) from error
    return config


def compose_config(config_name: str, *, overrides: list[str]) -> DictConfig:
    """The config of a command line, without running anything."""
    register_schemas()
    register_folders()
    if GlobalHydra.instance().is_initialized():  # inside a running task
        return compose(config_name=config_name, overrides=overrides)
    with initialize_config_dir(config_dir=str(CONFIG_DIR), version_base="1.3"):
        return compose(config_name=config_name, overrides=overrides)
