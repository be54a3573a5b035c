"""Trains in two processes that are started as Slurm's srun starts two tasks; the packages are imported once in each.

    python tests/two_processes.py '[["+experiment=demo", "run_dir=..."], ...]' ANSWER.json

is one of them: it trains once for every list of arguments, one after the other, and leaves in the file what
`[status, stderr]` of each was.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from commands import run_command
from torch import distributed as dist

from sct import train

PATIENCE_S = 550.0

Endings = dict[str, list[tuple[int, str]]]


def together(cases: dict[str, list[str]], folder: Path) -> Endings:
    """Status and messages of both processes, by case."""
    slurm = {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    answers = [folder / f"answer_{rank}.json" for rank in range(2)]
    pair = [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps(list(cases.values())), str(answers[rank])],
            env={**os.environ, **slurm, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(PATIENCE_S) for process in pair] == [0, 0]
    finally:
        for process in pair:
            process.kill()
            process.wait()
    endings = zip(*(json.loads(answer.read_text()) for answer in answers), strict=True)
    return {name: [tuple(ending) for ending in both] for name, both in zip(cases, endings, strict=True)}


def train_all(cases: list[list[str]]) -> list[tuple[int, str]]:
    """Every case as a step of its own of the same job."""
    endings, environment = [], dict(os.environ)
    for number, arguments in enumerate(cases):
        os.environ["SLURM_STEP_ID"] = str(number)
        outcome = run_command(train.main, *arguments)
        endings.append((outcome.status, outcome.err))
        # after a mistake it is still there: the process would have ended
        if dist.is_initialized():
            dist.destroy_process_group()
        os.environ.clear()
        os.environ.update(environment)
    return endings


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[2]).write_text(json.dumps(train_all(json.loads(sys.argv[1]))))
