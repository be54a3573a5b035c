"""Ends evaluations, exports and predictions by faults, starts them again, and compares what they write.

    python scripts/kill_commands.py --kills 100

Each start of sct.eval (alone, or as a shard that keeps its scores), of sct.export and of sct.predict on a folder ends
at a chosen moment (reading, computing, writing, recording) in a chosen way (signals, full disk, quota, read-only disk).
The same command starts again until it ends well. It must then have written what an undisturbed one writes, and left
nothing else; label maps that were there must not have been made again. Needs fork, thus Linux or macOS.
"""

import argparse
import collections
import os
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from faults.ends import DISKS, ENDS, SIGNALS, Moment, half_a_state
from faults.starts import Fault, faults_of_end, launch

from sct import eval as evaluation
from sct import export, predict, train
from sct.config.command import open_overrides
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.exporting.bundle import Bundle
from sct.inference import SlidingWindow
from sct.runtime.ledger import Claim

RUN = ("+experiment=demo", "+debug=smoke", "trainer.max_steps=2", "trainer.tensorboard=false", "data.num_test=4")
READING = Moment(SegmentationData, "load_case", 4, SIGNALS)
COMPUTING = Moment(SlidingWindow, "__call__", 4, SIGNALS)
WRITING = Moment(os, "replace", 9, (*SIGNALS, *DISKS))
RECORDING = Moment(Claim, "_record", 4, (*SIGNALS, *DISKS))


@dataclass(frozen=True)
class Command:
    """main: the command; config: its name; arguments: for a run and an output folder; compared: files of the output.

    kept: files that a later start must not make again.
    """

    main: object
    config: str
    arguments: tuple[str, ...]
    moments: dict[str, Moment]
    compared: tuple[str, ...]
    kept: str = ""


SCORES = ("cases.csv", "table.md", "predictions/*")
COMMANDS = {
    "eval": Command(
        evaluation.main,
        "eval",
        ("ckpt={run}", "output={output}", "figures=1"),
        {"reading": READING, "computing": COMPUTING, "writing": WRITING},
        SCORES,
    ),
    "eval of a shard": Command(
        evaluation.main,
        "eval",
        ("ckpt={run}", "output={output}", "figures=1", "shard=0/1"),
        {"reading": READING, "computing": COMPUTING, "writing": WRITING, "recording": RECORDING},
        SCORES,
        ".scored/records/*",
    ),
    "export": Command(
        export.main,
        "export",
        ("ckpt={run}", "output={output}/bundle", "format=bundle"),
        {
            "writing": Moment(torch, "save", 1, (*SIGNALS, *DISKS), half_a_state),
            "loading": Moment(Bundle, "load", 1, SIGNALS),
            "at the renames": Moment(os, "replace", 6, (*SIGNALS, *DISKS)),
            "at the last rename": Moment(Path, "rename", 1, (*SIGNALS, *DISKS)),
        },
        ("bundle/models/model.pt", "bundle/configs/*", "bundle/docs/*"),
    ),
    "predict": Command(
        predict.main,
        "predict",
        ("ckpt={run}", "input={images}", "output={output}"),
        {"reading": READING, "computing": COMPUTING, "writing": WRITING, "recording": RECORDING},
        ("*.nii.gz",),
        "*.nii.gz",
    ),
}


def start(command: Command, places: dict[str, Path], *, log: Path, fault: Fault | None = None) -> tuple[int, str]:
    """The exit status of a start, and what it said."""
    arguments = open_overrides([text.format(**places) for text in command.arguments], groups=("data", "inferer"))
    process = launch(command.main, command.config, arguments, log=log, fault=fault)
    process.join()
    return process.exitcode or 0, log.read_text()


def contents(output: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    """The files of an output that are compared."""
    found = [path for pattern in patterns for path in output.glob(pattern)]
    return {str(path.relative_to(output)): path.read_bytes() for path in found if not path.name.startswith(".")}


def times(output: Path, pattern: str) -> dict[str, int]:
    """When each file was written that a later start must not make again."""
    found = output.glob(pattern) if pattern else ()
    return {path.name: path.stat().st_mtime_ns for path in found if not path.name.startswith(".")}


def unfinished(output: Path) -> list[str]:
    """What only a start that is at work may have there."""
    names = [path.relative_to(output) for path in output.rglob("*") if path.is_file() and path.name[:2] == ".1"]
    return [str(name) for name in (*names, *output.rglob(".part-*"), *output.rglob("unfinished/*/*"))]


def attack(name: str, places: dict[str, Path], wanted: dict[str, bytes], *, rng: random.Random) -> list[Fault]:
    """One output, made through faults; the faults. UserError if anything is not as it must be."""
    command, output = COMMANDS[name], places["output"]
    log = output.parent / "log"
    done: list[Fault] = []
    made: dict[str, int] = {}
    at_once = False
    while True:
        moment = rng.choice(list(command.moments))
        kind = command.moments[moment]
        end = rng.choice(kind.ends)
        fault = Fault(moment, end, moment=kind, number=rng.randint(1, kind.most)) if len(done) < 4 else None
        status, said = start(command, places, log=log, fault=fault)
        if done and status == 1 and "is there already" in said:  # the end before came when all was done
            status, fault = 0, None
        faults = faults_of_end(fault, status=status, said=said) if fault is not None else [f"status {status}"] * status
        now = times(output, command.kept)
        # an evaluation as a shard records again what it could not read
        faults += [f"{file} was made again" for file, when in made.items() if now.get(file) != when]
        made = now
        at_once = at_once or status < 0
        if not at_once:
            faults += [f"left {left}" for left in unfinished(output)]
        if status == 0 and contents(output, command.compared) != wanted:
            faults.append("other content than undisturbed")
        if faults:
            raise UserError(f"{name}, {fault}: {'; '.join(faults)}\n{said[-2000:]}")
        if status == 0:
            return done
        assert fault is not None
        done.append(fault)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        places = {"run": folder / "run", "images": folder / "images"}
        settings = [*RUN, f"paths.data={folder}/data", f"paths.cache={folder}/cache", f"run_dir={folder}/run"]
        process = launch(train.main, "train", settings, log=folder / "train.log")
        process.join()
        if process.exitcode:
            raise UserError((folder / "train.log").read_text()[-3000:])
        places["images"].mkdir()
        for image in (folder / "data").rglob("img/*.nii.gz"):
            shutil.copy(image, places["images"])
        wanted = {}
        for name, command in COMMANDS.items():
            output = folder / f"undisturbed_{name}"
            output.mkdir()
            status, said = start(command, {**places, "output": output}, log=folder / "log")
            wanted[name] = contents(output, command.compared)
            if status != 0 or not wanted[name]:
                raise UserError(said[-3000:])
        while counts.total() < options.kills:
            for name in COMMANDS:
                output = folder / "outputs" / "disturbed"
                output.mkdir(parents=True)
                done = attack(name, {**places, "output": output}, wanted[name], rng=rng)
                counts.update((name, fault.name, fault.end) for fault in done)
                shutil.rmtree(output.parent)
                print(f"{name:<16} {len(done)} faults, then as undisturbed", flush=True)
    print("\n| command | moment | end | times |\n|---|---|---|---:|")
    for (name, moment, end), number in sorted(counts.items()):
        print(f"| {name} | {moment} | {end} | {number} |")
    print(f"\n{counts.total()} kills and faults, all as undisturbed in the end ({len(ENDS)} ways to end)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
