"""Predicts many small volumes with several processes that are killed at random, and shows that each is done once.

    python scripts/kill_predict.py --volumes 2000 --processes 1 3 5 --kills 10

Some number of processes predicts one folder, with or without shards of any n. At random times one of them gets SIGKILL,
and another one is started, with another shard. Two of the volumes are broken. At the end every other volume must have
its label map, which was made once and is the same for every number of processes, both broken ones must be listed, and
nothing else may be left. Needs fork, thus Linux or macOS.
"""

import argparse
import collections
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from sct import predict, train
from sct.errors import UserError
from sct.runs.prediction import FOLDER

# forked, a prediction starts at once: the packages are imported here
import sct.tasks.predict  # isort: skip
import sct.tasks.train  # isort: skip  # noqa: F401

FORK = multiprocessing.get_context("fork")
SHAPE = (16, 16, 16)
SETTINGS = (
    *("data=msd", "encoder=stp", "completion=mta", "decoder=unetr_thin", "encoder.dim=24", "encoder.depth=2"),
    *("encoder.num_heads=2", "pruning.blocks=[1]", "encoder.patch_size=8", "data.roi_size=[16,16,16]", "name=small"),
    *("data.batch_size=1", "data.crops_per_volume=1", "schedule.warmup_steps=0", "trainer.max_steps=1"),
    *("trainer.precision=fp32", "trainer.validate_every=1", "trainer.save_every=1", "trainer.tensorboard=false"),
)
BROKEN = ("truncated", "not_a_number")


def write_volume(path: Path, *, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = rng.normal(100, 10, SHAPE).astype(np.float32)
    voxels[4:10, 4:10, 4:10] += 80
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def write_inputs(folder: Path, *, number: int) -> None:
    """`number` volumes, two of them broken."""
    rng = np.random.default_rng(1)
    for i in range(number - len(BROKEN)):
        write_volume(folder / f"case_{i:05d}.nii.gz", rng=rng)
    write_volume(folder / f"{BROKEN[0]}.nii.gz", rng=rng)
    whole = (folder / f"{BROKEN[0]}.nii.gz").read_bytes()
    (folder / f"{BROKEN[0]}.nii.gz").write_bytes(whole[: len(whole) // 2])
    nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), np.eye(4)), folder / f"{BROKEN[1]}.nii.gz")


def train_run(folder: Path) -> Path:
    """A run of one step."""
    rng, root, entries = np.random.default_rng(0), folder / "data", []
    for i in range(5):
        write_volume(root / f"imagesTr/{i}.nii.gz", rng=rng)
        label = np.zeros(SHAPE, np.uint8)
        label[4:10, 4:10, 4:10] = 1
        (root / "labelsTr").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(label, np.eye(4)), root / f"labelsTr/{i}.nii.gz")
        entries.append({"image": f"imagesTr/{i}.nii.gz", "label": f"labelsTr/{i}.nii.gz"})
    about = {"labels": {"0": "background", "1": "box"}, "modality": {"0": "MRI"}, "training": entries}
    (root / "dataset.json").write_text(json.dumps(about))
    places = [f"data.root={root}", f"paths.cache={folder}/cache", f"run_dir={folder}/run"]
    status = run_forked(train.main, [*SETTINGS, *places], folder / "train.log")
    if status:
        raise UserError((folder / "train.log").read_text()[-3000:])
    return folder / "run"


def command(main, arguments: list[str], log: Path) -> None:
    """A command in a process of its own; its messages go to `log`."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)  # faster on tensors as small as these
    sys.argv = ["sct", *arguments]
    main()


def started(main, arguments: list[str], log: Path) -> ForkProcess:
    process = FORK.Process(target=command, args=(main, arguments, log))
    process.start()
    return process


def run_forked(main, arguments: list[str], log: Path) -> int:
    process = started(main, arguments, log)
    process.join()
    return process.exitcode or 0


def times(output: Path) -> dict[str, int]:
    """When each label map was written."""
    return {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz") if not path.name.startswith(".")}


def attack(
    folder: Path, run: Path, inputs: Path, *, processes: int, kills: int, longest: float, rng: random.Random
) -> tuple[Path, list[str], int]:
    """Predicts with some processes and kills them; the output, what is wrong, and how many kills hit one at work."""
    output, logs = folder / f"out_{processes}", folder / f"logs_{processes}"
    logs.mkdir()
    arguments = [f"ckpt={run}", f"input={inputs}", f"output={output}", "device=cpu"]

    def start(number: int) -> ForkProcess:
        parts = rng.choice([1, 1, 2, 3, 5, 7])
        shard = [f"shard={rng.randrange(parts)}/{parts}"] * (parts > 1)
        return started(predict.main, arguments + shard, logs / f"{number:03d}.log")

    running, hits, faults = [start(i) for i in range(processes)], 0, []
    seen: dict[str, int] = {}
    for kill in range(kills):
        time.sleep(rng.uniform(0.0, longest))
        victim = running.pop(rng.randrange(processes))
        hits += victim.is_alive()
        victim.kill()
        victim.join()
        found = times(output)
        faults += [f"{name} was made again" for name, when in seen.items() if found.get(name) != when]
        seen = found
        running.append(start(processes + kill))
    for process in running:
        process.join()
    last = logs / "last.log"
    status = run_forked(predict.main, arguments, last)
    found = times(output)
    faults += [f"{name} was made again" for name, when in seen.items() if found.get(name) != when]
    faults += faults_at_end(output, inputs=inputs, logs=logs, last=last.read_text(), status=status)
    return output, faults, hits


def faults_at_end(output: Path, *, inputs: Path, logs: Path, last: str, status: int) -> list[str]:
    """What is not as it must be once all have ended."""
    wanted = {path.name for path in inputs.iterdir()} - {f"{name}.nii.gz" for name in BROKEN}
    found = set(times(output))
    faults = [f"{name} is missing" for name in sorted(wanted - found)]
    faults += [f"{name} is too many" for name in sorted(found - wanted)]
    told = collections.Counter(
        name for log in logs.iterdir() for name in re.findall(r" -> \S*/(\S+\.nii\.gz) ", log.read_text())
    )
    faults += [f"{name} was predicted {number} times" for name, number in told.items() if number > 1]
    message = last.partition("Error: ")[2]
    faults += [f"{name} is not listed" for name in BROKEN if f"{name}: " not in message]
    faults += [] if status == 1 else [f"status {status}"]
    faults += [] if f"2 of {len(wanted) + 2} cases failed" in message else ["the message counts otherwise"]
    left = [path for path in output.rglob("*") if path.is_file() and path.name not in wanted]
    left = [path for path in left if path.parent != output / FOLDER / "records"]
    faults += [f"{path} is left" for path in left]
    for path in output.glob("*.nii.gz"):
        nib.load(path).get_fdata()
    return faults


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=2000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--kills", type=int, default=10, help="for every number of processes")
    parser.add_argument("--longest", type=float, default=10.0, help="seconds between two kills at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng, outputs, wrong = random.Random(options.seed), [], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run, inputs = train_run(folder), folder / "in"
        write_inputs(inputs, number=options.volumes)
        print(f"{'processes':>9} {'kills':>5} {'at work':>7} {'label maps':>10} {'seconds':>8}  result", flush=True)
        for number in options.processes:
            began = time.perf_counter()
            output, faults, hits = attack(
                folder, run, inputs, processes=number, kills=options.kills, longest=options.longest, rng=rng
            )
            outputs.append(output)
            result = "; ".join(faults[:5]) or "each once, both broken ones listed"
            seconds = time.perf_counter() - began
            print(
                f"{number:>9} {options.kills:>5} {hits:>7} {len(times(output)):>10} {seconds:>8.0f}  {result}",
                flush=True,
            )
            wrong += len(faults)
        for output in outputs[1:]:
            other = [name for name in times(output) if differs(output / name, outputs[0] / name)]
            wrong += len(other)
            print(f"{output.name}: {len(other)} label maps differ from those of {outputs[0].name}")
        shutil.rmtree(folder / "cache", ignore_errors=True)
    return int(wrong > 0)


def differs(one: Path, other: Path) -> bool:
    return not other.exists() or one.read_bytes() != other.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
