"""Slurm's variables as torchrun's: who is one of several, who is alone, and who is told what is missing."""

import os
import signal

import pytest

from sct.errors import UserError
from sct.runtime.requeue import queue_again, signals_of_jobs
from sct.runtime.signals import REQUEUE
from sct.runtime.slurm import (
    host_names,
    num_tasks,
    port,
    process_rank,
    process_variables,
    tasks_of_nodes,
)

# what a task of `srun` finds; the issue's own imitation has the first four
TASK = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "node[07-08],login"}
STEP = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "3,1",
    "SLURM_NODEID": "0",
}
BATCH = {**TASK, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "123456", "ENVIRONMENT": "BATCH"}
ALONE = {
    "no Slurm": {},
    "srun -n 1": {**TASK, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
    "the script of sbatch": BATCH,
    "the shell of salloc": {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node1"},
    "the shell of an interactive step": {**BATCH, **STEP, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},
    "one step of a larger job": {**TASK, **STEP, "SLURM_STEP_NUM_TASKS": "1"},
}


@pytest.mark.parametrize("environment", ALONE.values(), ids=ALONE)
def test_one_process_is_alone(environment):
    assert num_tasks(environment) == 1
    assert process_variables(environment) == {}
    assert process_rank(environment) == 0


def test_torchrun_comes_first():
    assert process_variables({**TASK, "WORLD_SIZE": "2"}) == {}


def test_a_task_of_srun_has_what_torchrun_gives():
    assert process_variables({**TASK, **STEP, "ENVIRONMENT": "BATCH"}) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "node07",
        "MASTER_PORT": str(port(STEP)),
    }


def test_little_is_enough():
    found = process_variables(TASK)
    assert process_rank(TASK) == 3
    assert process_rank({**TASK, **found, "SLURM_PROCID": "0"}) == 3
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_WORLD_SIZE"]) == ("3", "4", "2")
    assert found["MASTER_ADDR"] == "node07"
    assert (
        process_variables({**TASK, "MASTER_ADDR": "ib0", "MASTER_PORT": "7"}).items()
        >= {
            "MASTER_ADDR": "ib0",
            "MASTER_PORT": "7",
        }.items()
    )


def test_what_is_missing_is_named():
    for name in ("SLURM_LOCALID", "SLURM_JOB_NODELIST"):
        with pytest.raises(UserError, match=f"one of 4 tasks of Slurm, but {name} is not set.*WORLD_SIZE=1"):
            process_variables({key: value for key, value in TASK.items() if key != name})


def test_steps_and_jobs_meet_at_ports_of_their_own():
    ports = {port({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}) for job in range(50) for step in range(7)}
    assert len(ports) == 350
    assert all(1024 < number < 32768 for number in ports)
    assert 1024 < port({"SLURM_JOB_ID": "4000000000", "SLURM_STEP_ID": "4294967290"}) < 32768


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("localhost", ["localhost"]),
        ("node[001-003,007],gpu5", ["node001", "node002", "node003", "node007", "gpu5"]),
        ("a-1,b[9-11]", ["a-1", "b9", "b10", "b11"]),
        ("r[1-2]n[01,03]x", ["r1n01x", "r1n03x", "r2n01x", "r2n03x"]),
    ],
)
def test_node_lists(text, names):
    assert host_names(text) == names


def test_tasks_of_nodes():
    assert tasks_of_nodes("2(x3),1") == [2, 2, 2, 1]
    assert tasks_of_nodes("4") == [4]


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A command in the place of Slurm's; the file that lists its calls. It shows what is in the file `job`."""
    calls, script = tmp_path / "calls", tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" != show ] || cat {tmp_path}/job\n[ "$3" != 13 ]\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    (tmp_path / "job").write_text("JobId=7 JobState=RUNNING PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=None")
    return calls


@pytest.mark.skipif(REQUEUE is None, reason="this system has no SIGUSR1")
@pytest.mark.parametrize(
    ("environment", "received", "preempted", "calls"),
    [
        ({}, REQUEUE, False, []),
        ({"SLURM_JOB_ID": "7"}, REQUEUE, False, ["requeue 7"]),
        ({"SLURM_JOB_ID": "7"}, signal.SIGTERM, False, ["show job 7"]),
        ({"SLURM_JOB_ID": "7"}, signal.SIGTERM, True, ["show job 7", "requeue 7"]),
        (
            {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"},
            REQUEUE,
            False,
            ["requeue 7_2"],
        ),
    ],
)
def test_a_job_is_queued_again_if_it_is_preempted_or_asks_for_it(
    scontrol, tmp_path, environment, received, preempted, calls
):
    if preempted:
        (tmp_path / "job").write_text("JobId=7 JobState=RUNNING PreemptTime=2026-01-01T00:00:00")
    queue_again(environment, received=received)
    assert (scontrol.read_text().splitlines() if scontrol.exists() else []) == calls


def test_a_job_that_slurm_does_not_queue_again_is_told(scontrol, monkeypatch, caplog):
    queue_again({"SLURM_JOB_ID": "13"}, received=signal.SIGTERM)
    monkeypatch.setenv("PATH", "")
    queue_again({"SLURM_JOB_ID": "7"}, received=signal.SIGTERM)
    assert caplog.text.count("is not queued again") == 2


@pytest.mark.skipif(REQUEUE is None, reason="this system has no SIGUSR1")
def test_the_signal_for_it_is_listened_to_in_jobs_unless_submitit_does(monkeypatch):
    assert signals_of_jobs({}) == ()
    assert signals_of_jobs({"SLURM_JOB_ID": "7"}) == (REQUEUE,)
    monkeypatch.setattr(signal, "getsignal", lambda number: print)
    assert signals_of_jobs({"SLURM_JOB_ID": "7"}) == ()
