"""Kills a training with SIGKILL many times, resumes it each time, and compares it bit for bit with an undisturbed one.

    python scripts/kill_resume.py --kills 20

Some kills come at a random time, the others at a chosen moment: in a step, in a save (half written, before and after
the rename, while the oldest is removed), in validation, in a log row. A training that finishes before its kill is
compared, and a new one starts, until the number of kills is reached. The script needs fork (Linux or macOS).
"""

import argparse
import io
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._inductor  # imported once here instead of in every forked training

from sct import train
from sct.errors import UserError
from sct.inference import SlidingWindow
from sct.runtime import checkpoint
from sct.training.loggers import RunLogger

SETTINGS = (
    "+experiment=demo",
    "+debug=smoke",
    "encoder.drop_path=0.1",
    "trainer.save_every=3",
    "trainer.validate_every=4",
    "trainer.accumulate=2",
    "trainer.clip_norm=1.0",
    "trainer.ema_decay=0.9",
)
# a forked training starts at once: this process has already imported the packages
FORK = multiprocessing.get_context("fork")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: Any, name: str, *, number: int, do: Callable[..., None]) -> None:
    """Replaces a function by one that calls `do(original, *arguments)` at its `number`-th call and then dies."""
    original, calls = getattr(owner, name), itertools.count(1)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            do(original, *args, **kwargs)
            die()
        return original(*args, **kwargs)

    setattr(owner, name, replacement)


def nothing(original: Callable, *args: Any, **kwargs: Any) -> None:
    """Dies before the call."""


def call(original: Callable, *args: Any, **kwargs: Any) -> None:
    """Dies after the call."""
    original(*args, **kwargs)


def write_half(original: Callable, state: Any, file: Any) -> None:
    """Dies when half of a checkpoint is on the disk."""
    complete = io.BytesIO()
    original(state, complete)
    file.write(complete.getvalue()[: len(complete.getvalue()) // 2])
    file.flush()


def tear_row(original: Callable, log: RunLogger, values: dict[str, float], *, step: int) -> None:
    """Dies when half of a row is in metrics.jsonl."""
    with log.file.open("a") as file:
        file.write(json.dumps({"step": step, **values})[:-20])


@dataclass(frozen=True)
class Moment:
    """The moment at which a training dies: one of the first `most` calls of a function."""

    owner: Any
    function: str
    most: int
    do: Callable[..., None]


MOMENTS = {
    "in a step": Moment(torch.optim.AdamW, "step", 15, nothing),
    "in a save, half written": Moment(torch, "save", 6, write_half),
    "in a save, before the rename": Moment(os, "replace", 9, nothing),
    "in a save, after the rename": Moment(os, "replace", 9, call),
    "in a save, removing the oldest": Moment(Path, "unlink", 9, nothing),
    "in validation": Moment(SlidingWindow, "__call__", 4, nothing),
    "in a log row": Moment(RunLogger, "log", 15, tear_row),
}
BY_THE_CLOCK = "by the clock"


def training(arguments: list[str], log: Path, moment: Moment | None, number: int) -> None:
    """Runs one training in this process, with its messages in `log`."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if moment is not None:
        at_call(moment.owner, moment.function, number=number, do=moment.do)
    torch.set_num_threads(1)  # faster on tensors as small as these
    sys.argv = ["sct.train", *arguments]
    train.main()


def start(
    folder: Path, *, steps: int, moment: Moment | None = None, number: int = 0, delay: float | None = None
) -> bool:
    """Starts or resumes the training in `folder`; returns whether it was killed. UserError if it fails otherwise."""
    data = folder.parent / "data"
    places = [f"paths.data={data}", f"paths.cache={data}/cache", f"run_dir={folder}"]
    arguments = [*SETTINGS, f"trainer.max_steps={steps}", *places, "resume=auto"]
    log = folder.parent / f"{folder.name}.log"
    process = FORK.Process(target=training, args=(arguments, log, moment, number))
    process.start()
    process.join(delay)
    if process.is_alive():
        process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise UserError(f"a training ended with status {process.exitcode}:\n{log.read_text()[-3000:]}")
    return process.exitcode != 0


def loadable(folder: Path) -> dict[str, int]:
    """The steps of all readable checkpoints, by name."""
    steps = {}
    for path in sorted((folder / checkpoint.FOLDER).glob("*.pt")):
        try:
            steps[path.name] = checkpoint.load(path)["step"]
        except UserError:
            continue
    return steps


def last_step(steps: dict[str, int]) -> int:
    return max((step for name, step in steps.items() if name != "best.pt"), default=0)


def rows(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl without times and memory, and without an incomplete last row."""
    result = []
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        result.append({key: value for key, value in row.items() if not key.startswith(("time/", "memory/"))})
    return result


def faults_after_kill(folder: Path, before: dict[str, int], reference: Path) -> list[str]:
    """Losses of a run through a kill; `before`: its readable checkpoints before the kill."""
    after = loadable(folder)
    faults = []
    if last_step(after) < last_step(before):
        faults.append(f"step {last_step(before)} lost")
    if "best.pt" in before and after.get("best.pt", -1) < before["best.pt"]:
        faults.append("best.pt lost")
    safe = last_step(after)
    if [row for row in rows(folder) if row["step"] <= safe] != [row for row in rows(reference) if row["step"] <= safe]:
        faults.append(f"rows up to step {safe} differ")
    return faults


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def faults_at_end(folder: Path, reference: Path) -> list[str]:
    """Differences between a finished run and the undisturbed one."""
    faults = []
    for name in ("best.pt", checkpoint.step_files(reference)[0].name):
        if name not in loadable(folder):
            faults.append(f"no {name}")
            continue
        state, other = (checkpoint.load(run / checkpoint.FOLDER / name) for run in (folder, reference))
        faults += [
            f"{name}: {part} differs" for part in other if part != "config" and not same(state[part], other[part])
        ]
    if rows(folder) != rows(reference):
        faults.append("metrics.jsonl differs")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40, help="steps of every run")
    parser.add_argument("--seed", type=int, default=0, help="seed for the moments of the kills")
    parser.add_argument("--folder", type=Path, help="working folder; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return attack(options.folder or Path(temporary), kills=options.kills, steps=options.steps, seed=options.seed)


def attack(folder: Path, *, kills: int, steps: int, seed: int) -> int:
    """Kills and resumes trainings in `folder`, prints a line for each start, and returns the exit status."""
    rng = random.Random(seed)
    reference = folder / "undisturbed"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    start(reference, steps=steps)
    seconds = time.perf_counter() - began
    print(f"undisturbed: {last_step(loadable(reference))} steps, {len(rows(reference))} rows, {seconds:.1f} s\n")
    print(f"{'run':>3} {'kill':>4}  {'moment':<32} {'call':>4} {'saved':>5} {'after':>5}  result")
    # every moment is used once before any is repeated
    moments = itertools.cycle(rng.sample([*MOMENTS, *[BY_THE_CLOCK] * 3], k=len(MOMENTS) + 3))
    done, num_faults, run = 0, 0, 0
    while done < kills or run == 0:
        run += 1
        killed, disturbed = True, folder / f"run_{run}"
        while killed:
            before, name = loadable(disturbed), next(moments)
            moment = MOMENTS.get(name) if done < kills else None
            number = rng.randint(1, moment.most) if moment is not None else 0
            delay = rng.uniform(0.0, seconds) if name == BY_THE_CLOCK and done < kills else None
            killed = start(disturbed, steps=steps, moment=moment, number=number, delay=delay)
            done += killed
            after = loadable(disturbed)
            faults = faults_after_kill(disturbed, before, reference) if killed else faults_at_end(disturbed, reference)
            num_faults += len(faults)
            where = [f"{name:<32}", f"{number or '':>4}"] if killed else [f"{'finished, compared':<32}", f"{'':>4}"]
            saved = f"{last_step(before):>5} {last_step(after):>5}"
            print(f"{run:>3} {done if killed else '':>4}  {' '.join(where)} {saved}  {'; '.join(faults) or 'ok'}")
    print(f"\n{done} kills, {run} runs finished, {num_faults} faults")
    return int(num_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
