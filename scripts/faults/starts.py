"""Commands in forked processes, each with a fault."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.context import ForkProcess
from pathlib import Path

import hydra
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from faults.ends import ENDS, KILLED, TERMINATED, Moment, at_call
from sct.config.folders import CONFIG_DIR, register_folders
from sct.config.requests import register_schemas

BY_THE_CLOCK = "by the clock"
# a forked command starts at once: this process has already imported the packages
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Fault:
    """name: of the moment at which a start ends; end: how; number: at which call; delay: seconds, by the clock."""

    name: str
    end: str
    moment: Moment | None = None
    number: int = 0
    delay: float | None = None


def launch(
    main: Callable[[], None], config_name: str, arguments: Sequence[str], *, log: Path, fault: Fault | None = None
) -> ForkProcess:
    """Starts a command in a process of its own; its messages go to `log`."""
    config = composed(config_name, tuple(arguments))

    def command() -> None:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if fault is not None and fault.moment is not None:
            at_call(fault.moment, number=fault.number, end=ENDS[fault.end])
        torch.set_num_threads(1)  # faster on tensors as small as these
        sys.argv = ["sct", *arguments]
        # the config is composed already: that takes longer than some steps
        hydra.main = lambda **settings: lambda task: lambda: task(config)
        main()

    process = FORK.Process(target=command)
    process.start()
    return process


@lru_cache(maxsize=8)
def composed(config_name: str, arguments: tuple[str, ...]) -> DictConfig:
    """The config of a command, as Hydra gives it to the task."""
    register_schemas()
    register_folders()
    if not GlobalHydra.instance().is_initialized():
        initialize_config_dir(config_dir=str(CONFIG_DIR), version_base="1.3")
    config = compose(config_name=config_name, overrides=list(arguments), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def faults_of_end(fault: Fault, *, status: int, said: str) -> list[str]:
    """What is wrong in how a start has ended."""
    if status == 0:
        return []
    if fault.name == BY_THE_CLOCK:
        # before the command listens to signals, the system ends it
        statuses = {"SIGKILL": (KILLED,), "SIGTERM": (TERMINATED, -signal.SIGTERM)}[fault.end]
        words = ""
    else:
        statuses, words = ENDS[fault.end].statuses, ENDS[fault.end].words
    faults = [] if status in statuses else [f"status {status}"]
    faults += [] if words in said or status == KILLED else [f"does not say {words!r}"]
    return faults + ["a traceback"] * ("Traceback" in said and fault.end != "dead worker")
