"""What a machine has for a training: its device, the memory of the device, and its processor's cores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from sct.data.loading.workers import available_processors
from sct.errors import UserError

GIB = 2**30
# where Linux says how much memory the processes of a container may take
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Machine:
    """What the rules need to know about a machine.

    device: cpu or cuda; memory: GiB that a network has, of the GPU where there is one; main_memory: GiB of the
    processor, which hold the data; cores: of the processor
    """

    device: Literal["cpu", "cuda"]
    memory: float
    main_memory: float
    cores: int

    def __str__(self) -> str:
        if self.device == "cuda":
            return f"a GPU of {self.memory:.0f} GiB"
        return f"a processor of {self.cores} core(s) and {self.memory:.0f} GiB"


def find_machine(*, device: Literal["auto", "cpu", "cuda"], memory: float | None, cores: int | None) -> Machine:
    """The machine at hand, or another one as far as it is given; memory in GiB."""
    cores = cores or available_processors()
    here = main_memory()
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if memory is None and not torch.cuda.is_available():
            raise UserError("device=cuda, but there is no GPU here: give the memory of the one to train on, memory=24.")
        on_gpu = torch.cuda.get_device_properties(0).total_memory / GIB if memory is None else memory
        return Machine("cuda", on_gpu, here, cores)
    here = here if memory is None else memory
    return Machine("cpu", here, here, cores)


def main_memory() -> float:
    """GiB that the processes here may take."""
    total = psutil.virtual_memory().total
    limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.is_file() else "max"
    return (min(total, int(limit)) if limit.isdecimal() else total) / GIB
