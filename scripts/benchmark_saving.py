"""Measures what saving costs a training, and what the check of a checkpoint costs a start.

    python scripts/benchmark_saving.py
    python scripts/benchmark_saving.py --experiments btcv_stp_mta --folder outputs     # on the disk of the outputs
    OMP_NUM_THREADS=1 python scripts/benchmark_saving.py                               # a core is free for the saving

A state is that of a training after one step: weights, and AdamW's statistics of them. Medians of some rounds in turn,
in seconds:

* `torch.save`: alone, with a flush to the disk and a rename over the last one
* save: by the training itself, with the sum of what is written
* copy: in the background, until the training goes on; written: until the file is on the disk; CPU: what a processor
  does for both
* lost: a fixed amount of computing (matrix products on all threads of torch) with a save at its start, less the same
  without it: the copy, and what computing loses while the thread writes. The least of all rounds: other programs
  disturb this difference most
* `torch.load`: alone; load: with the check of the sum first

One save a minute costs the training the share in the last column, from the lost time in the background.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sct.config.check import build
from sct.config.command import compose_config
from sct.config.trust import SHIPPED_ALONE
from sct.runs.build import build_segmenter
from sct.runtime import checkpoint
from sct.runtime.files import flush_folder
from sct.runtime.saver import Saver

EXPERIMENTS = ("demo", "btcv_fast_stp", "btcv_stp_mta")


def state_of(experiment: str, folder: Path) -> dict[str, Any]:
    """The state of a training of an experiment; its gradients are noise."""
    cfg = compose_config("train", overrides=[f"+experiment={experiment}", f"data.root={folder}", "data.check=false"])
    network = build_segmenter(cfg, data=build(cfg.data, key="data"), trust=SHIPPED_ALONE)
    optimizer = build(cfg.optimizer, key="optimizer", trust=SHIPPED_ALONE)(network)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"step": 1, "model": network.state_dict(), "ema": None, "optimizer": optimizer.state_dict(), "config": {}}


def save_plainly(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    flush_folder(path.parent)


def timed(task: Callable[[], Any]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def load_anew(path: Path) -> None:
    """Loads as a new process does, which has not checked the file yet."""
    os.utime(path)
    checkpoint.load(path)


class Computing:
    """A fixed amount of computing, which takes at least some seconds on a machine without other work."""

    def __init__(self, seconds: float) -> None:
        self.matrix = torch.randn(512, 512)
        self.number = 1
        while (needed := timed(self)) < seconds:
            self.number = max(2 * self.number, int(1.2 * self.number * seconds / needed))

    def __call__(self) -> None:
        for _ in range(self.number):
            self.matrix @ self.matrix


def measure(state: dict[str, Any], folder: Path, *, rounds: int) -> dict[str, float]:
    """Medians of seconds."""
    plain, own = folder / "plain.pt", folder / "own.pt"
    seconds: dict[str, list[float]] = defaultdict(list)
    with Saver() as saver:
        tasks: dict[str, Callable[[], Any]] = {
            "torch.save": lambda: save_plainly(state, plain),
            "save": lambda: checkpoint.save(state, own),
            "torch.load": lambda: torch.load(plain, weights_only=True),
            "load": lambda: load_anew(own),
            "copy": lambda: saver.save(state, own),
            "wait": saver.wait,
        }
        for name in ("save", "copy", "wait"):  # the first time takes the memory
            tasks[name]()
        computing = Computing(2 * timed(tasks["save"]))
        for _ in range(rounds):
            for name, task in tasks.items():
                began = time.process_time()
                seconds[name].append(timed(task))
                seconds[f"{name}, CPU"].append(time.process_time() - began)
            seconds["alone"].append(timed(computing))
            for name in ("save", "copy"):
                seconds[f"{name} and computing"].append(timed(tasks[name]) + timed(computing))
            saver.wait()
    found = {name: median(values) for name, values in seconds.items()}
    found["size"] = own.stat().st_size / 1e6
    for column in ("", ", CPU"):
        found[f"written{column}"] = found[f"copy{column}"] + found[f"wait{column}"]
    for name in ("save", "copy"):
        found[f"{name}, lost"] = min(seconds[f"{name} and computing"]) - min(seconds["alone"])
    return found


COLUMNS = {
    "`torch.save`": "torch.save",
    "save": "save",
    "CPU": "save, CPU",
    "lost": "save, lost",
    "copy": "copy",
    "written": "written",
    "CPU in the background": "written, CPU",
    "lost in the background": "copy, lost",
    "`torch.load`": "torch.load",
    "load": "load",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: where temporary files are")
    options = parser.parse_args(arguments)
    print(f"threads: {torch.get_num_threads()}\n")
    print(f"| experiment | MB | {' | '.join(COLUMNS)} | one save a minute |")
    print("|---|" + "---:|" * (len(COLUMNS) + 2))
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        for experiment in options.experiments:
            found = measure(state_of(experiment, folder / experiment), folder, rounds=options.rounds)
            times = " | ".join(f"{found[name]:.3f}" for name in COLUMNS.values())
            print(f"| {experiment} | {found['size']:.1f} | {times} | {found['copy, lost'] / 60:.2%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
