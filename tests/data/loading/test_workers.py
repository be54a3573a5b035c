"""How many processes load, what they need of shared memory, and what happens where there is none."""

import ctypes
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.queues import Queue

import pytest
import torch

from sct.data.cases import Batch
from sct.data.loading import workers
from sct.data.loading.loader import _begin, hand_over
from sct.data.loading.workers import Loading, choose_workers, plan_loading, watched_workers
from sct.errors import UserError

WINDOW = 96**3
GPU = {"device_type": "cuda", "local_world_size": 1, "voxels_per_step": 8 * WINDOW, "cache": "memory", "forks": True}


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (8, {"processors": 64}),
        (3, {"processors": 4}),
        (0, {"processors": 1}),
        (7, {"processors": 32, "local_world_size": 4}),
        (0, {"processors": 4, "local_world_size": 8}),
        (0, {"processors": 64, "voxels_per_step": 2 * 16**3}),
        (8, {"processors": 64, "voxels_per_step": 2 * 16**3, "cache": "none"}),
        (0, {"processors": 64, "forks": False}),
        (8, {"processors": 64, "forks": False, "cache": "disk"}),
        # a processor trains with all that it has
        (0, {"processors": 64, "device_type": "cpu"}),
        (0, {"processors": 64, "device_type": "cpu", "cache": "disk"}),
        (1, {"processors": 64, "device_type": "cpu", "cache": "none"}),
        (0, {"processors": 2, "device_type": "cpu", "cache": "none"}),
    ],
)
def test_auto_is_what_suits_the_device(number: int, changes: dict) -> None:
    assert choose_workers(**{**GPU, **changes})[0] == number


def test_batches_go_another_way_where_they_do_not_fit() -> None:
    batch = 8 * WINDOW * 12  # 85 MB

    def plan(num_workers: int, *, free: int | None, local_world_size: int = 1) -> Loading:
        return plan_loading(num_workers, batch_bytes=batch, local_world_size=local_world_size, free=free)

    # two batches ahead for each worker, one in use and one on its way
    assert plan(2, free=640_000_000) == Loading(2)
    assert plan(2, free=None) == Loading(2), "no such limit"
    docker = plan(2, free=64 * 2**20)
    assert (docker.num_workers, docker.shared) == (2, False)
    assert docker.problem is not None
    for word in ("67 MB free", "510 MB", "--shm-size=1g", "data.num_workers=0"):
        assert word in docker.problem
    assert not plan(2, free=640_000_000, local_world_size=2).shared, "all processes of a machine take theirs"
    assert not plan(4, free=640_000_000).shared
    full = plan(2, free=0)
    assert full.num_workers == 0
    assert "loads its data itself" in (full.problem or "")
    assert plan(0, free=0) == Loading(0)


def test_batches_through_pipes_are_the_same(make_btcv: Callable, monkeypatch, caplog) -> None:
    def loaded(num_workers: int) -> list[Batch]:
        return list(make_btcv(num_workers=num_workers, batch_size=1).train_loader(seed=3, start_step=0, num_steps=4))

    want = loaded(0)
    monkeypatch.setattr(workers, "_LEAST_SHARED", 0)
    monkeypatch.setattr(workers, "free_shared_memory", lambda: 1000)
    found = loaded(1)
    assert "batches come through pipes" in caplog.text
    for one, other in zip(found, want, strict=True):
        assert one["case"] == other["case"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])
    assert not found[0]["image"].is_shared()


def test_shared_memory_that_is_full_later_is_no_end(monkeypatch) -> None:
    crop = {"image": torch.rand(1, 4, 4), "label": torch.ones(4, 4, dtype=torch.int64), "case": "a"}
    assert hand_over([[crop]], shared=True)["image"].is_shared()

    def full(tensor: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    sent = hand_over([[crop]], shared=True)
    assert (sent["image"] == crop["image"][None].numpy()).all()


CLONE_NEWNS = 0x20000


def in_small_shared_memory(task: Callable[[], None], *, size: str, told: "Queue[bool]") -> None:
    """Runs a task in this process, which then sees a /dev/shm of its own; tells whether that could be had."""
    may = sys.platform == "linux" and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
    # first: what is mounted here may not be seen elsewhere
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"]):
        may = may and subprocess.run(["mount", *command], capture_output=True).returncode == 0
    told.put(may)
    if may:
        task()


@pytest.mark.parametrize("size", ["2m", "4k"])
def test_a_small_shared_memory_does_not_hang(make_btcv: Callable, size: str) -> None:
    # 4.7 MB for two workers, of which each batch is 0.8
    data = make_btcv(num_workers=2, roi_size=[16, 16, 8], crops_per_volume=16)

    def load() -> None:
        assert len(list(data.train_loader(seed=3, start_step=0, num_steps=8))) == 8

    context = multiprocessing.get_context("fork")
    told = context.Queue()
    process = context.Process(target=in_small_shared_memory, args=(load,), kwargs={"size": size, "told": told})
    process.start()
    if not told.get(timeout=60):
        process.join()
        pytest.skip("needs the right to mount (root on Linux)")
    process.join(timeout=60)
    process.kill()
    process.join()
    assert process.exitcode == 0, "hangs" if process.exitcode == -signal.SIGKILL else "fails"


@pytest.mark.parametrize("damage", ["killed", "missing file"])
def test_what_ends_a_worker_is_a_message(make_btcv: Callable, damage: str) -> None:
    data = make_btcv(num_workers=1, cache="none")
    loader = iter(data.train_loader(seed=3, start_step=0, num_steps=50))
    parent = os.getpid()

    def break_it(case: object, *, own=data._volumes.get) -> object:
        if os.getpid() != parent and damage == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("x.nii.gz: cannot be read.")

    data._volumes.get = break_it
    words = (
        "A loading process has ended.*data.num_workers=0.*resume=auto" if damage == "killed" else "^x.nii.gz: cannot"
    )
    with pytest.raises(UserError, match=words) as caught, watched_workers():
        list(loader)
    assert "Traceback" not in str(caught.value)


def test_what_a_worker_can_not_write_is_told_as_by_the_training():
    # as torch passes on the error of a worker: without its number
    text = "Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
    with pytest.raises(OSError) as caught, watched_workers():
        raise OSError(f"{text}OSError: [Errno 28] No space left on device: '/cache'\n")
    assert caught.value.errno == errno.ENOSPC
    assert "No space left on device: '/cache'" in str(caught.value)
    with pytest.raises(OSError, match=r"^1000 requested$") as caught, watched_workers():
        raise OSError("1000 requested")
    assert caught.value.errno is None


def wait_for_ever(started: Queue) -> None:
    _begin(0)
    started.put(True)
    signal.pause()
    signal.pause()


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system has no alarms")
def test_signals_to_all_processes_leave_the_workers_to_the_training():
    context = multiprocessing.get_context("fork")
    started = context.Queue()
    process = context.Process(target=wait_for_ever, args=(started,))
    process.start()
    started.get()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    process.join(0.3)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGALRM)  # as half a minute later
    process.join(10)
    assert process.exitcode == -signal.SIGALRM


def serve_a_training(error: type[Exception]) -> None:
    _begin(0)
    try:
        raise error("while it asked for a tensor")
    except error:  # as the thread does that hands tensors over
        sys.excepthook(*sys.exc_info())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system can't fork")
@pytest.mark.parametrize(("error", "told"), [(ConnectionResetError, False), (EOFError, False), (ValueError, True)])
def test_a_worker_says_nothing_of_a_training_that_was_killed(error, told, capfd):
    process = multiprocessing.get_context("fork").Process(target=serve_a_training, args=(error,))
    process.start()
    process.join()
    assert ("while it asked for a tensor" in capfd.readouterr().err) == told
