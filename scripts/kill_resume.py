"""Ends a training by faults many times, resumes it each time, and compares it bit for bit with an undisturbed one.

    python scripts/kill_resume.py --kills 20
    python scripts/kill_resume.py --kills 1000 --folder outputs/kills     # goes on where it was stopped

Every start of a training ends at a chosen moment (opening, filling the cache, first step, step, save, validation, log
row, last mark) in a chosen way (SIGKILL, SIGTERM, SIGINT, twice, full disk, quota, read-only disk, dead worker), or by
the clock. Between some starts a file is damaged: checkpoint, cached volume, config, card, record of the check. Some
trainings are started a second time while they run. A training that finishes before its fault is compared, and a new
one starts, until the number of kills is reached. The script needs fork (Linux or macOS).
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._inductor  # imported once here instead of in every forked training
from faults.damages import damage
from faults.ends import DISKS, SIGNALS, TERMINATED, Moment, half_a_checkpoint, half_a_file
from faults.starts import BY_THE_CLOCK, Fault, faults_of_end, launch

from sct import train
from sct.errors import UserError
from sct.inference import SlidingWindow
from sct.runtime import blocks, checkpoint
from sct.runtime.rows import read_rows
from sct.training import loggers, trainer
from sct.training.trainer import Trainer

SETTINGS = (
    "+experiment=demo",
    "+debug=smoke",
    "encoder.drop_path=0.1",
    "trainer.save_every=3",
    "trainer.validate_every=4",
    "trainer.accumulate=2",
    "trainer.clip_norm=1.0",
    "trainer.ema_decay=0.9",
    "trainer.tensorboard=false",
    "data.cache=disk",
    "name=run",
)
MOMENTS = {
    "opening the folder": Moment(Path, "write_text", 4, (*SIGNALS, *DISKS)),
    "filling the cache": Moment(np, "save", 9, (*SIGNALS, *DISKS), half_a_file),
    "first step": Moment(Trainer, "train_step", 1, (*SIGNALS, "dead worker", "dead worker")),
    "in a step": Moment(torch.optim.AdamW, "step", 12, SIGNALS),
    "in a save, copying the state": Moment(torch, "save", 6, SIGNALS),
    "in a save, half written": Moment(blocks, "write_past_cache", 6, (*SIGNALS, *DISKS), half_a_checkpoint),
    "in a save, at the rename": Moment(os, "replace", 6, (*SIGNALS, *DISKS)),
    "in a save, removing the oldest": Moment(Path, "unlink", 12, SIGNALS),
    "in validation": Moment(SlidingWindow, "__call__", 4, SIGNALS),
    "in a log row": Moment(loggers, "append_line", 12, (*SIGNALS, *DISKS)),
    "at the last mark": Moment(trainer, "write_text", 1, (*SIGNALS, *DISKS)),
}
TWICE = "started twice"
WITH_WORKERS = "_workers"  # end of the names of runs whose data another process loads
OTHERS = {BY_THE_CLOCK: ("SIGKILL", "SIGTERM"), TWICE: ("refused",)}


def launched(folder: Path, *, steps: int, fault: Fault | None = None, log: Path) -> ForkProcess:
    """Starts or resumes the training in `folder`."""
    workers = ["data.num_workers=1"] * folder.name.endswith(WITH_WORKERS)
    places = [f"paths.data={folder.parent}/data", f"paths.cache={folder}_cache", f"run_dir={folder}"]
    arguments = [*SETTINGS, f"trainer.max_steps={steps}", *places, "resume=auto", *workers]
    return launch(train.main, "train", arguments, log=log, fault=fault)


def start(folder: Path, *, steps: int, fault: Fault | None = None) -> tuple[int, str]:
    """Starts or resumes the training in `folder`; returns its exit status and what it said."""
    log = folder.parent / f"{folder.name}.log"
    process = launched(folder, steps=steps, fault=fault, log=log)
    process.join(fault.delay if fault is not None else None)
    if process.is_alive():
        assert fault is not None
        assert process.pid is not None
        if fault.name == TWICE:
            start_second(folder, steps=steps)
        else:
            os.kill(process.pid, getattr(signal, fault.end))
    process.join()
    return process.exitcode or 0, log.read_text()


def start_second(folder: Path, *, steps: int) -> None:
    """UserError if a second training works in the folder of one that runs; it may do so where that one has ended."""
    log = folder.parent / "second.log"
    process = launched(folder, steps=steps, log=log)
    process.join()
    told = log.read_text()
    if process.exitcode not in (0, 1) or (process.exitcode == 1 and "Another process" not in told):
        raise UserError(f"a second training ended with status {process.exitcode}:\n{told[-2000:]}")


def choose(rng: random.Random, *, seconds: float, workers: bool) -> Fault:
    """A fault: every moment is as likely as any other, and there every way to end."""
    name = rng.choice([*MOMENTS, *OTHERS])
    if name in OTHERS:
        return Fault(name, rng.choice(OTHERS[name]), delay=rng.uniform(0.1 * seconds, seconds))
    moment = MOMENTS[name]
    ends = [end for end in moment.ends if workers or end != "dead worker"]
    # early calls more often: a run that goes on needs few
    return Fault(name, rng.choice(ends), moment=moment, number=1 + int(moment.most * rng.random() ** 2))


def faults_of_start(fault: Fault, *, status: int, said: str, words: str) -> list[str]:
    """What is wrong in how a start has ended; `words` of a damage that it must tell."""
    if fault.end == "refused":  # the second one may have been the one that went on
        faults = [] if status == 1 and "another process" in said.lower() else [f"status {status}"]
    else:
        faults = faults_of_end(fault, status=status, said=said)
    if fault.name == "filling the cache" and status == 1 and "A loading process has ended by itself" in said:
        faults = []  # it was the loading process that met the fault
    # a start that ends before it reads a file can't tell its damage
    told_late = status != 0 and "run folder" not in said
    return faults + [f"does not say {words!r}"] * (bool(words) and not told_late and words not in said)


def loadable(folder: Path) -> dict[str, int]:
    """The steps of all checkpoints that can be read, by name."""
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
    """The rows of metrics.jsonl without times and memory."""
    values = read_rows(folder / "metrics.jsonl").values
    return [{name: row[name] for name in row if not name.startswith(("time/", "memory/"))} for row in values]


def leftovers(folder: Path) -> set[str]:
    """Names of half-written files."""
    return {path.name for path in folder.rglob("*") if path.name == "unfinished.tmp" or path.name.startswith(".1")}


def mark_of(folder: Path) -> str:
    """What the mark of a training that a signal ended says; "" where there is none."""
    mark = folder / "unfinished"
    return mark.read_text() if mark.exists() else ""


def faults_after(
    folder: Path, before: dict[str, int], reference: Path, *, status: int, left: set[str], old_mark: str
) -> list[str]:
    """Losses of a run through a fault.

    before, old_mark: its readable checkpoints and its mark before this start; left: what this start left half-written
    """
    after = loadable(folder)
    faults = []
    if last_step(after) < last_step(before):
        faults.append(f"step {last_step(before)} lost")
    if "best.pt" in before and after.get("best.pt", -1) < before["best.pt"]:
        faults.append("best.pt lost")
    safe = last_step(after)
    # the validation of the last step may be still to come
    kept, wanted = ([row for row in rows(run) if row["step"] <= safe] for run in (folder, reference))
    if kept != wanted and kept != [row for row in wanted if row["step"] < safe or "train/loss" in row]:
        faults.append(f"rows up to step {safe} differ")
    if left and status > 0:  # a process that ends at once can remove nothing
        faults.append(f"left {', '.join(left)}")
    # one that ends at once may not have come to remove the mark of the start before, whose checkpoint may be damaged
    mark = mark_of(folder)
    if status == TERMINATED and mark not in ("", old_mark) and mark.split()[1].strip(",") != str(safe):
        faults.append(f"the mark says {mark!r}, saved is step {safe}")
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


def attack(folder: Path, *, kills: int, steps: int, seed: int) -> int:
    """Ends and resumes trainings in `folder`, prints a line for each start, and returns the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    reference, book = folder / "undisturbed", folder / f"kills_{seed}.jsonl"
    began = time.perf_counter()
    for name in ("undisturbed", f"timed_{seed}"):
        began = time.perf_counter()
        if start(folder / name, steps=steps)[0] != 0:
            raise UserError((folder / f"{name}.log").read_text())
    seconds = time.perf_counter() - began
    before = [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []
    rng = random.Random(f"{seed} {len(before)}")
    print(f"undisturbed: {last_step(loadable(reference))} steps, {len(rows(reference))} rows, {seconds:.1f} s\n")
    print(f"{'run':>3} {'fault':>5}  {'moment':<31} {'end':<17} {'damage':<22} {'saved':>5} {'after':>5}  result")
    done, run = len(before), 0
    while done < kills or run == 0:
        run += 1
        workers = rng.random() < 0.2
        disturbed = folder / (f"run_{seed}_{len(before)}_{run}" + WITH_WORKERS * workers)
        status = -1
        while status != 0:
            hit, words = damage(disturbed, rng) if rng.random() < 0.3 else ("", "")
            saved, left, mark = loadable(disturbed), leftovers(disturbed), mark_of(disturbed)
            fault = choose(rng, seconds=seconds, workers=workers) if done < kills else None
            status, said = start(disturbed, steps=steps, fault=fault)
            after = loadable(disturbed)
            if status != 0:
                done += 1
                assert fault is not None
                faults = faults_of_start(fault, status=status, said=said, words=words)
                left = leftovers(disturbed) - left
                faults += faults_after(disturbed, saved, reference, status=status, left=left, old_mark=mark)
            else:
                faults = faults_at_end(disturbed, reference)
            row = {"moment": fault.name, "end": fault.end} if fault is not None and status else {}
            row |= {"damage": hit, "status": status, "faults": faults}
            with book.open("a") as file:
                file.write(json.dumps(row) + "\n" if status else "")
            name, end = (row["moment"], row["end"]) if "moment" in row else ("finished, compared", "")
            steps_text = f"{last_step(saved):>5} {last_step(after):>5}"
            result = "; ".join(faults) or "ok"
            print(
                f"{run:>3} {done if status else '':>5}  {name:<31} {end:<17} {hit:<22} {steps_text}  {result}",
                flush=True,
            )
            if faults:
                print(said[-1500:])
                return 1
        shutil.rmtree(disturbed)
        shutil.rmtree(f"{disturbed}_cache", ignore_errors=True)
    entries = [json.loads(line) for line in book.read_text().splitlines()]
    wrong = sum(bool(entry["faults"]) for entry in entries)
    print(summary(entries))
    print(f"\n{done} kills and faults, {run} runs finished, {wrong} with losses or differences")
    return int(wrong > 0)


def summary(entries: list[dict[str, Any]]) -> str:
    """How often each fault was brought about, as a table."""
    counts = collections.Counter((entry["moment"], entry["end"]) for entry in entries)
    damages = collections.Counter(entry["damage"] for entry in entries if entry["damage"])
    lines = ["| moment | end | times |", "|---|---|---:|"]
    lines += [f"| {moment} | {end} | {number} |" for (moment, end), number in sorted(counts.items())]
    lines += ["", "| damage before a start | times |", "|---|---:|"]
    return "\n" + "\n".join([*lines, *(f"| {name} | {number} |" for name, number in sorted(damages.items()))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12, help="steps of every run")
    parser.add_argument("--seed", type=int, default=0, help="seed for the faults")
    parser.add_argument("--folder", type=Path, help="working folder; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return attack(options.folder or Path(temporary), kills=options.kills, steps=options.steps, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
