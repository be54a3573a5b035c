"""Which part of the cases a process takes."""

import pytest

from sct.errors import UserError
from sct.runtime.shards import Shard, local_rank, parse_shard, part_of, shard_of_process

NAMES = [f"case_{i}" for i in range(300)]
ARRAY = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_MAX": "30"}
TASKS = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}


def test_every_case_is_in_one_part_and_parts_are_about_equal():
    parts = [part_of(NAMES, names=NAMES, shard=parse_shard(f"{i}/4")) for i in range(4)]
    assert sorted(name for part in parts for name in part) == sorted(NAMES)
    assert all(50 < len(part) < 100 for part in parts)
    assert part_of(NAMES, names=NAMES, shard=None) == NAMES


def test_parts_are_the_same_for_ever():
    # machines of one job may have different versions of all else
    assert [i for i in range(3) if Shard(i, 3, "").holds("case_0")] == [1]
    assert [i for i in range(7) if Shard(i, 7, "").holds("müller/scan")] == [4]


@pytest.mark.parametrize("text", ["4/4", "1/0", "-1/4", "1", "a/b", "1/4/2"])
def test_what_is_no_part_is_told_with_those_there_are(text):
    with pytest.raises(UserError, match=r"counted from 0.*shard=0/4 to shard=3/4"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "20"}, (1, 3)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "7"}, None),
        ({**TASKS, "SLURM_PROCID": "1"}, (1, 2)),
        ({**TASKS, "SLURM_PROCID": "1", "WORLD_SIZE": "1"}, None),
        # every task of an array starts two processes
        ({**ARRAY, **TASKS, "SLURM_ARRAY_TASK_ID": "30", "SLURM_PROCID": "0"}, (4, 6)),
    ],
)
def test_the_part_of_one_of_several_processes(environment, expected):
    shard = shard_of_process(environment)
    assert (shard and (shard.index, shard.count)) == expected


def test_an_array_with_gaps_does_not_guess():
    gaps = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "8"}
    with pytest.raises(UserError, match=r"not evenly numbered.*--array=0-2"):
        shard_of_process({**gaps, "SLURM_ARRAY_TASK_ID": "3"})


def test_the_gpu_of_a_process_is_that_of_its_place_on_the_machine():
    assert local_rank({}) == 0
    assert local_rank({"LOCAL_RANK": "3"}) == 3
    assert local_rank({**TASKS, "SLURM_PROCID": "1"}) == 1
    assert local_rank({"SLURM_LOCALID": "1"}) == 0, "a shell of an interactive job is one process"
