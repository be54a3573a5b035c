"""Saving in the background: the state of the moment, in order, with every error told."""

import errno
import threading

import pytest
import torch
from torch import nn

from sct.runtime import blocks, checkpoint, resident, saver
from sct.runtime.saver import Saver


class Gate:
    """Keeps the thread from writing until it is opened."""

    def __init__(self, monkeypatch):
        self.opened, self.reached = threading.Event(), threading.Event()
        write = blocks.write_past_cache

        def wait_and_write(*arguments):
            self.reached.set()
            assert self.opened.wait(20)
            write(*arguments)

        monkeypatch.setattr(blocks, "write_past_cache", wait_and_write)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()  # a test that fails must not leave the thread waiting


def learner() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    network[2].extra = network[0].weight  # one tensor by two names
    return network, torch.optim.AdamW(network.parameters(), lr=0.1)


def learn(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    network(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()


def state_of(network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict:
    return {"step": step, "model": network.state_dict(), "optimizer": optimizer.state_dict(), "best": {"step": step}}


def names(run):
    return sorted(path.name for path in (run / checkpoint.FOLDER).iterdir())


def test_what_changes_after_the_call_does_not_change_the_file(tmp_path, gate):
    network, optimizer = learner()
    learn(network, optimizer)
    state = state_of(network, optimizer, 1)
    checkpoint.save(state, tmp_path / "foreground.pt")
    with Saver() as background:
        background.save(state, tmp_path / "background.pt")
        assert gate.reached.wait(20)
        learn(network, optimizer)
        state["best"]["step"] = 2
        assert not (tmp_path / "background.pt").exists()
        gate.opened.set()
    # to the last byte, its checksum too
    assert (tmp_path / "background.pt").read_bytes() == (tmp_path / "foreground.pt").read_bytes()
    assert not torch.equal(checkpoint.load(tmp_path / "background.pt")["model"]["0.weight"], network[0].weight)


def test_saves_are_whole_and_in_order(tmp_path, gate):
    best, run = tmp_path / checkpoint.FOLDER / "best.pt", tmp_path
    background = Saver()
    background.save({"step": 1}, best)
    others = threading.Thread(target=lambda: background.save_step({"step": 2}, run, step=2, previous=None))
    others.start()
    others.join(0.1)
    assert others.is_alive()  # it waits: the file before is not on the disk
    gate.opened.set()
    others.join()
    background.save_step({"step": 4}, run, step=4, previous=2)
    background.save_step({"step": 6}, run, step=6, previous=4)
    background.wait()
    assert names(run) == ["best.pt", "step_00000004.pt", "step_00000006.pt"]
    assert [checkpoint.load(path)["step"] for path in (best, *checkpoint.step_files(run))] == [1, 6, 4]


def test_a_smaller_state_is_not_followed_by_the_rest_of_a_larger_one(tmp_path):
    with Saver() as background:
        background.save({"model": torch.zeros(5000)}, tmp_path / "large.pt")
        background.save({"model": torch.ones(3)}, tmp_path / "small.pt")
    checkpoint.save({"model": torch.ones(3)}, tmp_path / "foreground" / "small.pt")
    assert (tmp_path / "small.pt").read_bytes() == (tmp_path / "foreground" / "small.pt").read_bytes()


@pytest.fixture
def full(tmp_path, monkeypatch):
    """A run with the checkpoint of step 2, whose disk is full."""
    checkpoint.save_step({"step": 2}, tmp_path, step=2)

    def fail(descriptor, parts):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blocks, "write_past_cache", fail)
    return tmp_path


@pytest.mark.parametrize("call", ["check", "wait", "save", "save_step", "exit"])
def test_the_error_of_the_thread_is_raised_by_the_next_call(full, call):
    background = Saver()
    background.save_step({"step": 4}, full, step=4, previous=2)
    background._written.exception()  # waits: `check` does not
    calls = {
        "check": background.check,
        "wait": background.wait,
        "save": lambda: background.save({"step": 5}, full / "best.pt"),
        "save_step": lambda: background.save_step({"step": 6}, full, step=6, previous=4),
        "exit": lambda: background.__exit__(None, None, None),
    }
    with pytest.raises(OSError) as caught:
        calls[call]()
    assert caught.value.errno == errno.ENOSPC
    assert names(full) == ["step_00000002.pt"]
    background.check()  # it is told once


def test_a_lost_checkpoint_is_logged_beside_another_error(full, caplog):
    def train():
        with Saver() as background:
            background.save_step({"step": 4}, full, step=4, previous=2)
            raise ValueError("another")

    with pytest.raises(ValueError, match="another"):
        train()
    assert "the last checkpoint is not written: [Errno 28] No space left on device" in caplog.text


def test_check_does_not_wait(tmp_path, gate):
    with Saver() as background:
        background.save({"step": 1}, tmp_path / "file.pt")
        background.check()
        assert not (tmp_path / "file.pt").exists()
        gate.opened.set()
    assert checkpoint.load(tmp_path / "file.pt")["step"] == 1


def test_where_memory_is_short_the_training_waits_and_this_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(saver, "available_bytes", lambda: 8_000_000)
    monkeypatch.setattr(checkpoint, "save_copy", None)
    state = {"step": 1, "model": {"weight": torch.zeros(1_000_001)}}  # half of it, and a little
    background = Saver()
    for step in (1, 2):
        background.save_step({**state, "step": step}, tmp_path, step=step, previous=step - 1)
        assert names(tmp_path)[-1] == f"step_{step:08d}.pt"
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "the training waits while a checkpoint is written: a copy of it needs 4 MB, and 8 MB are free",
    ]


def test_memory_that_is_taken_already_needs_no_other(tmp_path, monkeypatch):
    state = {"step": 1, "model": {"weight": torch.zeros(1_000_001)}}
    with Saver() as background:
        background.save(state, tmp_path / "file.pt")
        monkeypatch.setattr(saver, "available_bytes", lambda: 0)
        monkeypatch.setattr(checkpoint, "save", None)
        background.save(state, tmp_path / "file.pt")


@pytest.mark.parametrize(("limit", "free"), [("max", 900), ("1000", 460), ("5000", 900)])
def test_memory_is_that_of_the_machine_or_of_the_container(tmp_path, monkeypatch, limit, free):
    for name, text in {"max": limit, "current": "600", "stat": "anon 500\ninactive_file 60\n"}.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    monkeypatch.setattr(resident, "CONTAINER", tmp_path)
    monkeypatch.setattr(resident.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 900}))
    assert resident.available_bytes() == free
