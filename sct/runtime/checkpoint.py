"""Checkpoints that survive anything: written aside, flushed, renamed; the one before is kept.

A run's folder holds `checkpoints/step_*.pt` (the two newest, to go on from) and `best.pt` (to evaluate).
"""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sct.errors import UserError
from sct.runtime.files import flush_folder
from sct.runtime.migration import config_of_today

logger = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "checkpoints"


def save(state: dict[str, Any], path: Path) -> None:
    """Writes `state` to `path`: at any moment the file is whole, the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # always the same name: what a killed process left is overwritten, and does not fill the disk
    temporary = path.parent / "unfinished.tmp"
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    flush_folder(path.parent)


def save_step(state: dict[str, Any], run_dir: Path, *, step: int) -> None:
    """Saves the state after `step` steps, and only then removes all but this one and the one before.

    A later one can only be a damaged file that the run could not go on from.
    """
    path = run_dir / FOLDER / f"step_{step:08d}.pt"
    save(state, path)
    before = [other for other in step_files(run_dir) if other.name < path.name]
    for other in step_files(run_dir):
        if other not in (path, *before[:1]):
            other.unlink()


def step_files(run_dir: Path) -> list[Path]:
    """The step checkpoints of a run, newest first."""
    return sorted((run_dir / FOLDER).glob("step_*.pt"), reverse=True)


def read(path: Path) -> Any:
    """What a .pt file holds, on the CPU; UserError when it can't be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} can't be read as a checkpoint ({reason}). Take another one.") from error


def load(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU; UserError when the file is not one."""
    state = read(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of sct (format {FORMAT}).")
    if "config" in state:
        state["config"] = config_of_today(state["config"])
    return state


def load_newest(run_dir: Path) -> dict[str, Any] | None:
    """The last state of a run, the one before when that is damaged, None when there is none.

    UserError when none of those that are there can be read: starting anew would write over them.
    """
    files = step_files(run_dir)
    for path in files:
        try:
            return load(path)
        except UserError as error:
            logger.warning("%s", error)
    if files:
        raise UserError(f"No checkpoint in {files[0].parent} can be read. Move them away to start this run anew.")
    return None


def find(ckpt: str, *, weights: str, key: str = "ckpt") -> Path:
    """The checkpoint file that `ckpt` (a file or a run folder) means; `key` is its name in messages."""
    path = Path(ckpt)
    if path.is_file():
        return path
    if weights not in ("best", "last"):
        raise UserError(f"weights={weights!r} must be best or last.")
    best = path / FOLDER / "best.pt"
    if weights == "best" and best.is_file():
        return best
    steps = step_files(path)
    if not steps:
        raise UserError(f"{key}={ckpt} is neither a checkpoint file nor a run folder with {FOLDER}/*.pt in it.")
    if weights == "best":
        logger.warning("%s was never validated, so it has no best.pt; taking %s.", path, steps[0].name)
    return steps[0]


def folder_of(path: Path) -> Path:
    """The run's folder of a checkpoint file."""
    return path.parent.parent if path.parent.name == FOLDER else path.parent


def weights_of(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint is evaluated with: where a run averages them, the average."""
    return state.get("ema") or state["model"]


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], *, source: str) -> None:
    """Loads a full set of weights; UserError that names what does not fit."""
    own = module.state_dict()
    problems = [f"{name} is missing in the file" for name in own if name not in weights]
    problems += [f"{name} is not in this model" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in this model"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    if problems:
        shown = shortened(problems, separator="\n  ")
        raise UserError(
            f"{source} holds weights of another model:\n  {shown}\nUse the config of that run, or start a new run."
        )
    module.load_state_dict(weights)


def initialize(module: nn.Module, weights: dict[str, torch.Tensor], *, source: str) -> None:
    """Starts a model from the weights of another one, where names and shapes agree; logs what does not.

    UserError where less than half of the model's values are found: that is a mistake, not a start.
    """
    own = module.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    new = [name for name in own if name not in fitting]
    unused = [name for name in weights if name not in fitting]
    found = sum(value.numel() for value in fitting.values()) / sum(value.numel() for value in own.values())
    if found < 0.5:
        raise UserError(
            f"init={source} has only {found:.0%} of this model's weights (new: {shortened(new)}; not used: "
            f"{shortened(unused)}). Give a run of the same encoder and decoder sizes."
        )
    module.load_state_dict(fitting, strict=False)
    logger.info("started from %s: %.1f %% of the weights", source, 100 * found)
    for what, names in (("start anew", new), ("of the file are not used", unused)):
        if names:
            logger.warning("%d weights %s: %s", len(names), what, shortened(names))


def shortened(names: list[str], *, shown: int = 6, separator: str = ", ") -> str:
    """The first names of a list, and how many more there are."""
    more = [f"and {len(names) - shown} more"] if len(names) > shown else []
    return separator.join(names[:shown] + more)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], *, source: str) -> None:
    """Loads what the optimizer has accumulated; its settings stay those of the config.

    UserError where the parameters are grouped differently than in `state`.
    """
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise UserError(
            f"{source} groups the parameters differently ({error}). Settings such as optimizer.layer_decay "
            "can't change in a run that goes on; start a new one."
        ) from error
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
