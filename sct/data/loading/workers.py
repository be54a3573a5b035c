"""How many processes load the batches of a training, and which way the batches come from them."""

import logging
import math
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from sct.errors import UserError

logger = logging.getLogger(__name__)

# batches that every worker has ready
PREFETCH = 2
# a GPU is not kept waiting by so few voxels a step
TINY_STEP = 50_000
MOST_WORKERS = 8
SHARED_MEMORY = Path("/dev/shm")
# share of the free shared memory that batches may take; and what workers need even where none goes through it
_USABLE = 0.8
_LEAST_SHARED = 2**20


@dataclass(frozen=True)
class Loading:
    """How batches are loaded: by so many processes (0: by the training's own), handed over in shared memory or not.

    problem: what the user should know and do where that is not what was asked for.
    """

    num_workers: int
    shared: bool = True
    problem: str | None = None


def decide_loading(
    wanted: int | Literal["auto"],
    *,
    num_crops: int,
    micro_batches: int,
    num_channels: int,
    roi_size: Sequence[int],
    cache: str,
    device: torch.device,
    tell: bool,
) -> Loading:
    """How a training on `device` loads its batches on this machine: `wanted` is `data.num_workers`.

    num_crops: of a batch; micro_batches: of a step; cache: `data.cache`; tell: log what was decided.
    """
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    voxels = num_crops * math.prod(roi_size)
    if wanted == "auto":
        wanted, reason = choose_workers(
            device_type=device.type,
            processors=available_processors(),
            local_world_size=local_world_size,
            voxels_per_step=micro_batches * voxels,
            cache=cache,
            forks=multiprocessing.get_start_method() == "fork",
        )
        if tell:
            logger.info("data.num_workers=auto: %d, %s", wanted, reason)
    loading = plan_loading(
        wanted,
        # images in float32, labels in int64
        batch_bytes=voxels * (4 * num_channels + 8),
        local_world_size=local_world_size,
        free=free_shared_memory(),
    )
    if loading.problem is not None and tell:
        logger.warning(loading.problem)
    return loading


def choose_workers(
    *,
    device_type: str,
    processors: int,
    local_world_size: int,
    voxels_per_step: int,
    cache: str,
    forks: bool,
) -> tuple[int, str]:
    """The number of loading processes that `data.num_workers=auto` stands for, and why.

    processors: those that this machine's processes may use, of which `local_world_size` train; voxels_per_step: of
    the crops of one optimizer step in one process; cache: `data.cache`; forks: whether new processes share what is in
    memory.
    """
    own = processors // local_world_size
    if device_type == "cpu":
        # the training itself takes all processors
        if cache != "none" or own < 4:
            return 0, "the training takes all processors"
        return 1, "files are read anew for every crop"
    if cache == "memory" and not forks:
        return 0, "every process would hold a copy of the cache in memory"
    if cache != "none" and voxels_per_step < TINY_STEP:
        return 0, "crops are tiny"
    return max(0, min(MOST_WORKERS, own - 1)), f"{processors} processors for {local_world_size} training process(es)"


def plan_loading(num_workers: int, *, batch_bytes: int, local_world_size: int, free: int | None) -> Loading:
    """Loading by `num_workers` as far as the shared memory that is free (bytes) has room for their batches.

    free: None where the system has no such limit. The processes of this machine all take theirs from it.
    """
    if num_workers == 0 or free is None:
        return Loading(num_workers)
    need = batch_bytes * (num_workers * PREFETCH + 2) * local_world_size
    if need <= _USABLE * free:
        return Loading(num_workers)
    found = (
        f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free, and {num_workers} loading process(es) need {need / 1e6:.0f} MB"
    )
    remedy = (
        f"Make room there (docker run --shm-size={-(-need // (_USABLE * 1e9)):.0f}g), or set data.num_workers=0 to get "
        "no warning."
    )
    if free < _LEAST_SHARED:
        return Loading(0, problem=f"{found}: the training loads its data itself. {remedy}")
    return Loading(num_workers, shared=False, problem=f"{found}: batches come through pipes, which is slower. {remedy}")


def available_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_shared_memory() -> int | None:
    """Bytes that are free where Linux keeps what processes share; None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    return shutil.disk_usage(SHARED_MEMORY).free if os.access(SHARED_MEMORY, os.W_OK) else 0


@contextmanager
def watched_workers() -> Iterator[None]:
    """UserError where a loading process dies, or meets a user's mistake; torch's own errors tell neither what to do.

    OSError with the system's number where a loading process can't read or write: torch's copy has none.
    """
    try:
        yield
    except UserError as error:
        # from another process it comes with a traceback, whose last line is what it says
        raise UserError(str(error).rpartition("sct.errors.UserError: ")[2].strip()) from error
    except OSError as error:
        told = re.findall(r"^\w*Error: \[Errno (\d+)\] (.*)", str(error), flags=re.MULTILINE)
        if error.errno is not None or not told:
            raise
        number, text = told[-1]
        raise OSError(int(number), text) from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"A loading process has ended by itself ({str(error).splitlines()[0]}). Mostly the system ends one when "
            "memory runs out: set data.num_workers=0, or lower, or data.cache=disk, or give the job more memory. "
            "The run goes on where it was last saved with resume=auto."
        ) from error
