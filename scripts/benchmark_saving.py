"""Measures what saving costs a training, and what the check of a checkpoint costs a start.

    python scripts/benchmark_saving.py
    python scripts/benchmark_saving.py --experiments btcv_stp_mta --folder outputs     # on the disk of the outputs

A state is that of a training after one step: weights, and AdamW's statistics of them. Medians of some rounds in turn:
`torch.save` alone, with a flush to the disk and a rename over the last one; the project's save, which sums up what it
writes; `torch.load` alone; the project's load, which checks the sum first. One save a minute costs the training the
share in the last column.
"""

import argparse
import os
import sys
import tempfile
import time
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


def measure(state: dict[str, Any], folder: Path, *, rounds: int) -> dict[str, float]:
    """Medians of seconds."""
    plain, own = folder / "plain.pt", folder / "own.pt"
    tasks: dict[str, Callable[[], Any]] = {
        "torch.save": lambda: save_plainly(state, plain),
        "save": lambda: checkpoint.save(state, own),
        "torch.load": lambda: torch.load(plain, weights_only=True),
        "load": lambda: load_anew(own),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            seconds[name].append(timed(task))
    return {"size": own.stat().st_size / 1e6, **{name: median(values) for name, values in seconds.items()}}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: where temporary files are")
    options = parser.parse_args(arguments)
    print("| experiment | MB | torch.save s | save s | torch.load s | load s | one save a minute |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        for experiment in options.experiments:
            found = measure(state_of(experiment, folder / experiment), folder, rounds=options.rounds)
            times = " | ".join(f"{found[name]:.3f}" for name in ("torch.save", "save", "torch.load", "load"))
            print(f"| {experiment} | {found['size']:.1f} | {times} | {found['save'] / 60:.2%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
