"""How processes meet: who does not come is told, and nobody shares a GPU."""

import os
from datetime import timedelta
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import distributed as dist

from sct.errors import UserError
from sct.runtime import distributed
from sct.runtime.distributed import Processes, check_devices, join, pick_device, with_strides

TASKS = {"SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture
def environment():
    """The environment, which joining adds to, put back; without what this very process was started with."""
    ours = ("SLURM_", "ENVIRONMENT", "WORLD_SIZE", "RANK", "LOCAL_", "MASTER_")
    with mock.patch.dict(os.environ, {k: v for k, v in os.environ.items() if not k.startswith(ours)}, clear=True):
        yield os.environ


@pytest.mark.parametrize("rank", ["0", "1"])
def test_tasks_whose_others_do_not_come_end(environment, monkeypatch, rank):
    monkeypatch.setattr(distributed, "JOINING", timedelta(seconds=1))
    environment.update(TASKS, SLURM_PROCID=rank)
    with pytest.raises(UserError, match=rf"process {rank} of 2.*localhost:\d+.*srun.*WORLD_SIZE=1"):
        join("cpu")
    assert not dist.is_initialized()


def test_the_remedy_is_one_process(environment):
    environment.update(TASKS, SLURM_PROCID="0", WORLD_SIZE="1")
    assert join("cpu") == ALONE


def test_a_script_of_sbatch_trains_alone_and_says_so(environment, caplog):
    environment.update(TASKS, SLURM_PROCID="0", ENVIRONMENT="BATCH")
    assert join("cpu") == ALONE
    assert "Slurm gave 2 tasks, this command is one process" in caplog.text


def test_no_two_processes_on_one_gpu(monkeypatch):
    store, gpu = dist.HashStore(), torch.device("cuda:0")
    store.set("gpu_of_1", "GPU-a")
    for uuid, refused in (("GPU-b", False), ("GPU-a", True)):
        found = SimpleNamespace(uuid=uuid)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, found=found: found)
        if refused:
            with pytest.raises(UserError, match="2 processes have 1 GPUs"):
                check_devices(gpu, store=store, rank=0, world_size=2)
        else:
            check_devices(gpu, store=store, rank=0, world_size=2)
    check_devices(torch.device("cpu"), store=store, rank=0, world_size=2)


@pytest.mark.parametrize(("visible", "index"), [(4, 3), (1, 0)])
def test_every_process_has_the_gpu_of_its_number_or_the_one_it_sees(monkeypatch, visible, index):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto", local_rank=3) == torch.device("cuda", index)


@pytest.mark.parametrize("size", [(16, 1, 2, 2, 2), (8, 2, 1, 1, 1), (4, 3, 3, 3, 3)])
def test_gradients_have_the_strides_of_their_parameters(size):
    grad = torch.randn(size)
    last = grad.to(memory_format=torch.channels_last_3d)
    for strides in (last.stride(), grad.stride()):
        for given in (grad, last):
            laid = with_strides(given, strides=strides)
            assert laid.stride() == strides
            assert torch.equal(laid, grad)


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="at most one process for each device"):
        pick_device("cuda", local_rank=2)
