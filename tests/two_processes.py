"""Trains in two processes that meet as those of torchrun do, but are forked: the packages are imported once.

    python tests/two_processes.py FOLDER '[["+experiment=demo", "run_dir=..."], ...]'

Trains once for every list of arguments, one after the other, and prints as JSON what `[status, stderr]` of both
processes were.
"""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
import torch._inductor  # every training imports it, and forked ones then need not

from sct import train

FORK = multiprocessing.get_context("fork")
PATIENCE_S = 60.0


def one_of_two(arguments: list[str], rank: int, port: int, errors: Path) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = ["sct.train", *arguments]
    train.main()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(arguments: list[str], folder: Path) -> list[tuple[int | None, str]]:
    """Status (None: it hung) and messages of both processes."""
    port, results = free_port(), []
    errors = [folder / f"stderr_{rank}" for rank in range(2)]
    pair = [FORK.Process(target=one_of_two, args=(arguments, rank, port, errors[rank])) for rank in range(2)]
    for process in pair:
        process.start()
    for process, file in zip(pair, errors, strict=True):
        process.join(PATIENCE_S)
        results.append((process.exitcode, file.read_text()))
        process.kill()
        process.join()
    return results


if __name__ == "__main__":
    # what the trainings log is of no interest here
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    found = [together(case, Path(sys.argv[1])) for case in json.loads(sys.argv[2])]
    os.write(answers, json.dumps(found).encode())
