"""The processes of a run: a single one, or several started by torchrun or Slurm."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sct.errors import UserError
from sct.runtime.slurm import process_variables

logger = logging.getLogger(__name__)

T = TypeVar("T")

# longest wait at a barrier: the other processes wait while one checks or caches a large data set
PATIENCE = timedelta(hours=2)
# longest wait for all processes to start: they start at about the same time
JOINING = timedelta(minutes=5)


@dataclass(frozen=True)
class Processes:
    """The rank of this process in the run, the number of processes, and the device of this process."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Returns the main process's value in every process."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def on_main(self, task: Callable[[], T]) -> T:
        """Runs `task` in the main process alone; returns its result everywhere. A UserError ends all processes."""
        result, failed, error = None, False, None
        if self.is_main:
            try:
                result = task()
            except UserError as caught:
                failed, error = True, caught
        result, failed = self.broadcast((result, failed))
        if error is not None:
            raise error
        if failed:
            raise SystemExit(1)  # the main process shows the reason
        return result

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes, in order of rank, in every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.largest(int(flag)))

    def largest(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        if self.world_size == 1:
            return number
        box = torch.tensor(number, device=self.device)
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return int(box.item())

    def wait(self) -> None:
        """Waits until all processes have come here."""
        if self.world_size > 1:
            dist.barrier()

    def share_buffers(self, network: nn.Module) -> None:
        """Copies the main process's buffers to all processes: running statistics differ, each saw its own batches."""
        if self.world_size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)

    def share(self, items: Sequence[Any]) -> list[Any]:
        """This process's part of a list."""
        return list(items[self.rank :: self.world_size])


def pick_device(name: str, *, local_rank: int = 0) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` as a device; UserError when this machine does not have it.

    With several processes on a machine, each takes the GPU with its local rank, or the only GPU visible to it.
    """
    num_gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{0 if num_gpus == 1 else local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name} (trainer.device in training) is unknown; use auto, cpu or cuda.") from error
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise UserError(
            f"device={name} (trainer.device in training): this machine has {num_gpus} CUDA devices. Use cpu, or start "
            "at most one process for each device."
        )
    return device


def join(device: str) -> Processes:
    """Joins the process group that torchrun or srun started, if any; UserError if other processes do not join."""
    os.environ.update(process_variables(os.environ))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        if (size := int(os.environ.get("SLURM_NTASKS", "1"))) > 1 and "WORLD_SIZE" not in os.environ:
            logger.warning("Slurm gave %d tasks, this command is one process: srun in front of it starts all", size)
        return Processes(rank=0, world_size=1, device=pick_device(device))
    chosen = pick_device(device, local_rank=int(os.environ["LOCAL_RANK"]))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        store, rank, _ = meet(world_size)
        check_devices(chosen, store=store, rank=rank, world_size=world_size)
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
    return Processes(rank=dist.get_rank(), world_size=world_size, device=chosen)


def meet(world_size: int) -> tuple[dist.Store, int, int]:
    """The store that all processes share, the rank of this process, and the number of processes.

    UserError if they do not all connect within `JOINING`.
    """
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=JOINING))
    except dist.DistError as error:
        raise UserError(
            f"This is process {os.environ['RANK']} of {world_size}, and not all of them connected to "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]}). Start all "
            "processes with torchrun or srun (MASTER_ADDR and MASTER_PORT in the environment set another address), "
            "or a single one with WORLD_SIZE=1 in front of the command."
        ) from error
    store.set_timeout(PATIENCE)
    return store, rank, size


def check_devices(device: torch.device, *, store: dist.Store, rank: int, world_size: int) -> None:
    """UserError in every process if two processes share a GPU."""
    if device.type != "cuda":
        return
    store.set(f"gpu_of_{rank}", str(torch.cuda.get_device_properties(device).uuid))
    gpus = [store.get(f"gpu_of_{other}") for other in range(world_size)]
    if len(set(gpus)) < world_size:
        raise UserError(
            f"{world_size} processes have {len(set(gpus))} GPUs. Start one process for each GPU, and with Slurm ask "
            "for as many GPUs as tasks; trainer.device=cpu needs none."
        )


def in_parallel(network: nn.Module) -> DistributedDataParallel:
    """Wraps a network so that gradients are averaged over the processes; gradients get their parameters' strides.

    Autograd may choose any stride for an axis of length 1 (the class token of a single image, kernels of 1^3). DDP
    warns of each gradient whose strides differ from those of its parameter, and copies the gradient.
    """
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_hook(partial(with_strides, strides=parameter.stride()))
    return DistributedDataParallel(network)


def with_strides(grad: Tensor, *, strides: Sequence[int]) -> Tensor:
    """The same values, stored with these strides."""
    if grad.stride() == tuple(strides):
        return grad
    return grad.new_empty_strided(grad.shape, strides).copy_(grad)


def leave() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        # the main process holds the store: no other process may still need the store when the main process ends
        dist.barrier()
        dist.destroy_process_group()
