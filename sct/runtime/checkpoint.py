"""Checkpoints that survive a crash: each is written to a temporary file, flushed and renamed; the previous one is kept.

A run's folder holds `checkpoints/step_*.pt` (the two newest, for resuming) and `best.pt` (for evaluation). A file ends
with a checksum of all its bytes, behind the zip archive that torch writes; torch does not read that far.
"""

import logging
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from sct.errors import UserError
from sct.runtime.blocks import Blocks
from sct.runtime.files import checksum, crc32, flush_folder, full_disk_told
from sct.runtime.migration import config_of_today
from sct.runtime.plain import plain_config

logger = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "checkpoints"
# the last bytes of a file: the CRC-32 of all before them
ENDING = re.compile(rb"sct-crc32 ([0-9a-f]{8})\n")
ENDING_SIZE = 19


def save(state: dict[str, Any], path: Path) -> None:
    """Writes `state` to `path`: at any moment the file is complete, with either the old or the new state."""
    with replacing(path) as file:
        written = Summed(file)
        write_state(state, written)
        file.write(ending(written.total))


def copy_to(copy: Blocks, state: dict[str, Any]) -> None:
    """Makes a file in memory of `state`; for `save_copy`."""
    copy.clear()
    write_state(state, copy)


def save_copy(copy: Blocks, path: Path) -> None:
    """As `save`, of the state in `copy`; it needs no state of torch or Python, so that another thread may do it."""
    copy.write(ending(copy.checksum()))
    with replacing(path) as file:
        copy.write_to(file)


def write_state(state: dict[str, Any], file: "Blocks | Summed") -> None:
    torch.save({"format": FORMAT, **state}, file)  # type: ignore[arg-type]


def ending(total: int) -> bytes:
    return f"sct-crc32 {total:08x}\n".encode()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Gives a file that takes the place of `path` once the block has ended and all of it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # always the same name: the unfinished file of a killed process is overwritten, so such files can't fill the disk
    temporary = path.parent / "unfinished.tmp"
    try:
        with full_disk_told(path.parent), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


class Summed:
    """What torch.save needs of a file, and the CRC-32 of all that it writes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.total = file, 0

    def write(self, data: bytes) -> int:
        self.total = crc32(data, self.total)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def save_step(state: dict[str, Any], run_dir: Path, *, step: int, previous: int | None = None) -> None:
    """Saves the state after `step` steps, then removes the checkpoints that `remove_earlier` does."""
    path = step_path(run_dir, step=step)
    save(state, path)
    remove_earlier(path, step=step, previous=previous)


def remove_earlier(path: Path, *, step: int, previous: int | None) -> None:
    """Removes all step checkpoints except `path`, which is that of `step`, and the previous one.

    previous: step of the last one that is known to be whole: one between it and `step`, or later, is a damaged one from
    which the run could not resume. Without it, the one before `step`.
    """
    last = step - 1 if previous is None else min(previous, step - 1)
    files = step_files(path.parent.parent)
    earlier = [other for other in files if other.name <= step_name(last)]
    for other in files:
        if other not in (path, *earlier[:1]):
            other.unlink()


def step_path(run_dir: Path, *, step: int) -> Path:
    """The file of the state after `step` steps."""
    return run_dir / FOLDER / step_name(step)


def step_name(step: int) -> str:
    return f"step_{step:08d}.pt"


def step_files(run_dir: Path) -> list[Path]:
    """The step checkpoints of a run, newest first."""
    return sorted((run_dir / FOLDER).glob("step_*.pt"), reverse=True)


def read(path: Path) -> Any:
    """Reads the content of a .pt file onto the CPU; UserError when it is damaged or can't be read."""
    try:
        if fault := fault_of(path):
            raise UserError(f"{path} is damaged ({fault}). Copy it again from where it is whole, or take another one.")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged archive without checksums can cause any
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} can't be read as a checkpoint ({reason}). Take another one.") from error


def fault_of(path: Path) -> str | None:
    """How a .pt file shows that it is damaged; None if it does not. It is read again only once it has changed."""
    stat = path.stat()
    return _fault_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _fault_of(path: Path, size: int, changed: int) -> str | None:
    with path.open("rb") as file:
        file.seek(max(0, size - ENDING_SIZE))
        ending = ENDING.fullmatch(file.read())
    if ending is not None:
        return None if checksum(path, end=size - ENDING_SIZE) == int(ending[1], 16) else "its checksum differs"
    # of an earlier version, or of another program
    if not zipfile.is_zipfile(path):
        return None  # torch says what it is
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    return None if bad is None else f"the checksum of {bad} in it differs"


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; UserError when the file is not a checkpoint."""
    state = read(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of sct (format {FORMAT}).")
    if "config" in state:
        state["config"] = config_of_today(plain_config(state["config"], place=path))
    return state


def load_newest(run_dir: Path) -> dict[str, Any] | None:
    """The newest state of a run that can be read; None when the run has no checkpoint.

    UserError when the run has checkpoints but none can be read: starting anew would overwrite them.
    """
    files = step_files(run_dir)
    for path in files:
        try:
            state = load(path)
        except UserError as error:
            logger.warning("%s", error)
            continue
        if path != files[0]:
            logger.warning("going on from the checkpoint before, %s", path)
        return state
    if files:
        raise UserError(f"No checkpoint in {files[0].parent} can be read. Move them away to start this run anew.")
    return None


def find(ckpt: str, *, weights: str, key: str = "ckpt") -> Path:
    """The checkpoint file for `ckpt`, which is a file or a run folder; `key` is the setting's name in messages."""
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
    """The weights for evaluation: the moving average if the checkpoint has one, else the weights themselves."""
    return state.get("ema") or state["model"]


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], *, source: str) -> None:
    """Loads a full set of weights; UserError that names the weights that do not fit or are not finite."""
    current = module.state_dict()
    problems = [f"{name} is missing in the file" for name in current if name not in weights]
    problems += [f"{name} is not in this model" for name in weights if name not in current]
    problems += [
        f"{name} is {tuple(weights[name].shape)} in the file, {tuple(current[name].shape)} in this model"
        for name in current
        if name in weights and current[name].shape != weights[name].shape
    ]
    if problems:
        shown = shortened(problems, separator="\n  ")
        raise UserError(
            f"{source} holds weights of another model:\n  {shown}\nUse the config of that run, or start a new run."
        )
    check_finite(weights, current=current, source=source)
    module.load_state_dict(weights)


def check_finite(weights: dict[str, torch.Tensor], *, current: dict[str, torch.Tensor], source: str) -> None:
    """UserError that names the weights that are not finite although they are in `current`, a new model's."""
    bad = [name for name, value in weights.items() if not is_finite(value) and is_finite(current[name])]
    if bad:
        raise UserError(
            f"{source} holds weights that are NaN or infinite: {shortened(bad)}. A network with them computes "
            "nothing of use. Take another checkpoint of the run, such as the one before it."
        )


def is_finite(value: torch.Tensor) -> bool:
    # the sum, in one pass: infinite or NaN if one of the values is, or if it is too large itself
    return not value.is_floating_point() or bool(value.sum().isfinite()) or bool(value.isfinite().all())


def initialize(module: nn.Module, weights: dict[str, torch.Tensor], *, source: str) -> None:
    """Starts a model from the weights of another one, where names and shapes agree; logs the names that do not.

    UserError if less than half of the model's values are in `weights`, and less than half of these in the model: that
    is probably a mistake of the user. A pretrained encoder may be a small part of a network with a large decoder.
    """
    current = module.state_dict()
    fitting = {name: value for name, value in weights.items() if name in current and current[name].shape == value.shape}
    new = [name for name in current if name not in fitting]
    unused = [name for name in weights if name not in fitting]
    share, used = (num_values(fitting) / num_values(all_values) for all_values in (current, weights))
    if max(share, used) < 0.5:
        raise UserError(
            f"init={source} has only {share:.0%} of this model's weights, and {used:.0%} of its own fit (new: "
            f"{shortened(new)}; not used: {shortened(unused)}). Give a run of the same encoder and decoder sizes."
        )
    check_finite(fitting, current=current, source=f"init={source}")
    module.load_state_dict(fitting, strict=False)
    logger.info("started from %s: %.1f %% of the weights, %.1f %% of the file's", source, 100 * share, 100 * used)
    for state, names in (("start anew", new), ("of the file are not used", unused)):
        if names:
            logger.warning("%d weights %s: %s", len(names), state, shortened(names))


def num_values(weights: dict[str, torch.Tensor]) -> int:
    """How many numbers the weights have."""
    return sum(value.numel() for value in weights.values())


def shortened(names: list[str], *, shown: int = 6, separator: str = ", ") -> str:
    """The first names of a list, and how many more there are."""
    more = [f"and {len(names) - shown} more"] if len(names) > shown else []
    return separator.join(names[:shown] + more)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], *, source: str) -> None:
    """Loads the optimizer's accumulated statistics; the settings of the config stay in force.

    UserError if `state` groups the parameters differently.
    """
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise UserError(
            f"{source} groups the parameters differently ({error}). Settings such as optimizer.layer_decay "
            "can't change in a run that is resumed; start a new one."
        ) from error
    for group, group_settings in zip(optimizer.param_groups, settings, strict=True):
        group.update(group_settings)
