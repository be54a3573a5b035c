"""Compares the time of several networks for segmenting a volume, from NIfTI file to NIfTI file.

    python scripts/duel.py                                       # fast STP against its rivals, random weights
    python scripts/duel.py --contestants fast dense_unetr --rounds 7 --input CT.nii.gz
    python scripts/duel.py --contestants fast_3mm segresnet_3mm nnunet_3mm --classes 104 --shape 512 512 397
    python scripts/duel.py --runs fast=RUN dense=RUN --input CT.nii.gz --truth LABELS.nii.gz --margin 0.005
    python scripts/duel.py --runs fast=RUN --contestants dense_unetr nnunet --input CT.nii.gz    # the run is first
    python scripts/duel.py --runs a=RUN b=RUN --settings a="inferer=fast" --agreement 0.999 --input CT.nii.gz

Contestants take turns, with a fresh process for each contestant and round: other load on the machine affects all of
them, and no state remains from the round before. The time of a round starts after Python's imports and ends when the
label map is written: it includes loading the weights. The table also has the time of the process with imports, the peak
memory of the process, and the median ratio to the first contestant in the same round with a bootstrap interval.

Two optional checks: with --agreement, labels must agree with the labels of the first contestant (to compare two ways to
compute the same weights); with --truth, the mean Dice over the labels in the truth must be at least the last
contestant's minus --margin. A failed check ends with status 1. Random weights are sufficient for times if no method
prunes by the image's content.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import torch
from contestants import CONTESTANTS, USUAL, Contestant, check_packages, with_classes
from omegaconf import OmegaConf

from sct.config.check import build
from sct.config.command import compose_config, pairs
from sct.data.formats.base import Nifti
from sct.data.phantoms.phantom import draw_abdomen
from sct.errors import UserError
from sct.exporting.manifest import FILE, read_manifest
from sct.profiling.timing import device_name
from sct.runs import card
from sct.runs.build import build_segmenter
from sct.runtime import checkpoint
from sct.runtime.files import atomic
from sct.tasks.export import export

# measures one prediction in a process of its own
WORKER = Path(__file__).with_name("timed_predict.py")
# last lines of a log that are shown if its process failed
LAST_LINES = 15


@dataclass
class Record:
    """Measurements of a contestant, one number for each round."""

    ckpt: Path
    arguments: list[str]
    seconds: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    device_mb: list[float] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The record as plain values for JSON."""
        return {**asdict(self), "ckpt": str(self.ckpt)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME",
        help=f"untrained networks ({', '.join(CONTESTANTS)}); without --runs: {', '.join(USUAL)}",
    )  # fmt: skip
    parser.add_argument("--classes", type=int, help="classes of untrained networks, without background; BTCV's 13")
    parser.add_argument("--runs", nargs="+", default=[], metavar="NAME=RUN", help="trained runs, listed first")
    parser.add_argument("--settings", nargs="+", default=[], metavar="NAME='KEY=VALUE ...'", help="for sct.predict")
    parser.add_argument("--input", type=Path, help="a NIfTI volume; a phantom CT of 512 x 512 x 147 if not given")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 147), help="voxels of the phantom CT")
    parser.add_argument("--voxel-size", type=float, nargs=3, default=(0.791, 0.791, 3.0), help="mm, of the phantom CT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu", help="cpu or cuda; OpenVINO always uses the CPU")
    parser.add_argument("--agreement", type=float, help="share of voxels that must have the first contestant's label")
    parser.add_argument("--truth", type=Path, help="label file of the input")
    parser.add_argument(
        "--margin", type=float, default=0.005, help="largest allowed loss in Dice against the last contestant"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/duel"))
    return parser.parse_args(argv)


def untrained(contestant: Contestant, folder: Path, *, volume: Path) -> Path:
    """A run folder with random weights of seed 0, or its export."""
    cfg = compose_config("train", overrides=[*contestant.network, f"name={folder.name}"])
    torch.manual_seed(0)
    segmenter = build_segmenter(cfg, data=build(cfg.data, key="data"))
    config = OmegaConf.to_container(cfg, resolve=True)
    state = {"config": config, "model": segmenter.state_dict(), "step": 0, "best": {}}
    checkpoint.save(state, folder / checkpoint.FOLDER / "best.pt")
    if contestant.export is None:
        return folder
    exported = folder / contestant.export
    if not (exported / FILE).exists() or weights_of(exported) != card.weights_digest(segmenter.state_dict()):
        # agreement=0: labels from random weights mean nothing, and only the speed is measured
        where = (f"ckpt={folder}", f"output={exported}", f"input={volume}")
        export(compose_config("export", overrides=[*where, f"format={contestant.export}", "agreement=0"]))
    return exported


def phantom(folder: Path, *, shape: Sequence[int], voxel_size: Sequence[float]) -> Path:
    """The file of a phantom abdomen CT of this size; written if it does not exist."""
    path = folder / f"phantom_{'x'.join(map(str, shape))}_{'x'.join(map(str, voxel_size))}mm.nii.gz"
    if not path.exists():
        image, _ = draw_abdomen(shape=shape, voxel_size=voxel_size, rng=np.random.default_rng(0))
        with atomic(path) as temporary:
            nib.save(nib.Nifti1Image(np.rint(image).astype(np.int16), np.diag([*voxel_size, 1.0])), temporary)
    return path


def race(record: Record, *, log: Path, threads: int) -> None:
    """Runs one round of one contestant in a fresh process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    line = [sys.executable, str(WORKER), *record.arguments]
    start = time.perf_counter()
    with log.open("w") as file:
        status = subprocess.run(line, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    elapsed = time.perf_counter() - start
    if status:
        last = "\n".join(log.read_text().splitlines()[-LAST_LINES:])
        raise SystemExit(f"{log.stem} failed, see {log}, which ends with\n{last}")
    answer = json.loads(log.read_text().splitlines()[-1])
    record.seconds.append(answer["seconds"])
    record.process.append(elapsed)
    record.peak_mb.append(answer["peak_mb"])
    if "device_mb" in answer:
        record.device_mb.append(answer["device_mb"])


def warm_up(record: Record, *, log: Path, threads: int) -> None:
    """Runs a round without recording it: afterwards the files are in the system's cache."""
    race(replace(record, seconds=[], process=[], peak_mb=[], device_mb=[]), log=log, threads=threads)


def run_rounds(records: dict[str, Record], *, rounds: int, folder: Path, threads: int) -> None:
    """Runs all contestants in turn; first a warm-up of the first contestant, which does not count.

    After every round, rounds.json in `folder` has the results of all rounds so far, also if the script is stopped.
    """
    names = list(records)
    first = records[names[0]]
    warm_up(first, log=folder / f"{names[0]}.log", threads=threads)
    for number in range(rounds):
        # each round starts with another contestant
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            race(records[name], log=folder / f"{name}.log", threads=threads)
        times = ", ".join(f"{name} {record.seconds[-1]:.1f} s" for name, record in records.items())
        print(f"round {number + 1} of {rounds}: {times}", file=sys.stderr)
        so_far = {name: record.plain() for name, record in records.items()}
        (folder / "rounds.json").write_text(json.dumps(so_far, indent=2) + "\n")


def interval(ratios: Sequence[float], *, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the median, from 2000 resamples."""
    samples = rng.choice(np.asarray(ratios), size=(2000, len(ratios)))
    low, high = np.percentile(np.median(samples, axis=1), (2.5, 97.5))
    return float(low), float(high)


def mean_dice(labels: np.ndarray, truth: np.ndarray) -> float:
    """Mean Dice over the labels in the truth; a missed label counts 0."""
    scores = []
    for value in np.unique(truth[truth > 0]):
        predicted, target = labels == value, truth == value
        scores.append(2 * (predicted & target).sum() / (predicted.sum() + target.sum()))
    return float(np.mean(scores))


def judge(labels: dict[str, np.ndarray], *, truth: np.ndarray | None) -> dict[str, dict[str, float]]:
    """For each contestant, the share of voxels with the first contestant's label, and mean Dice if there is a truth."""
    first = next(iter(labels.values()))
    quality = {name: {"agreement": float((predicted == first).mean())} for name, predicted in labels.items()}
    if truth is not None:
        for name, predicted in labels.items():
            quality[name]["dice"] = mean_dice(predicted, truth)
    return quality


def missed_gates(quality: dict[str, dict[str, float]], *, agreement: float | None, margin: float) -> list[str]:
    """Contestants that agree too little with the first one, or have too little Dice compared with the last one."""
    names, faults = list(quality), []
    for name, scores in quality.items():
        if agreement is not None and scores["agreement"] < agreement:
            faults.append(
                f"{name} agrees with {names[0]} on {scores['agreement']:.4%} of the voxels, not {agreement:.2%}"
            )
        if "dice" in scores and scores["dice"] < (least := quality[names[-1]]["dice"] - margin):
            faults.append(f"{name} has Dice {scores['dice']:.4f}, less than {least:.4f}")
    return faults


def table(records: dict[str, Record], quality: dict[str, dict[str, float]]) -> str:
    first, rng = next(iter(records.values())), np.random.default_rng(0)
    columns = list(next(iter(quality.values())))
    head = ["contestant", "seconds", "whole process", "peak MB", "times the first", "95 %", *columns]
    lines = [head, ["---"] * len(head)]
    for name, record in records.items():
        ratios = [seconds / baseline for seconds, baseline in zip(record.seconds, first.seconds, strict=True)]
        low, high = interval(ratios, rng=rng)
        lines.append([
            name, f"{median(record.seconds):.1f}", f"{median(record.process):.1f}", f"{max(record.peak_mb):.0f}",
            f"{median(ratios):.2f}", f"{low:.2f} to {high:.2f}", *(f"{quality[name][key]:.4f}" for key in columns),
        ])  # fmt: skip
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def weights_of(ckpt: Path) -> str:
    """The digest of a run's or an export's weights."""
    if (ckpt / FILE).exists():
        return read_manifest(ckpt).weights
    return card.weights_digest(checkpoint.weights_of(checkpoint.load(checkpoint.find(str(ckpt), weights="best"))))


def enter(options: argparse.Namespace, *, volume: Path) -> dict[str, Record]:
    """The contestants by name, ready to run."""
    settings = {name: value.split() for name, value in pairs(options.settings, option="--settings").items()}
    ckpts = {name: Path(run) for name, run in pairs(options.runs, option="--runs").items()}
    predict_settings: dict[str, tuple[str, ...]] = dict.fromkeys(ckpts, ())
    untrained_names = options.contestants or ([] if ckpts else list(USUAL))
    check_packages(untrained_names)
    if both := ckpts.keys() & set(untrained_names):
        raise UserError(f"--runs and --contestants both have the name {min(both)}: give the run another name.")
    if unknown := settings.keys() - ckpts.keys() - set(untrained_names):
        raise UserError(f"--settings {min(unknown)}=...: no contestant has this name.")
    for name in untrained_names:
        contestant = CONTESTANTS[name] if options.classes is None else with_classes(CONTESTANTS[name], options.classes)
        ckpts[name] = untrained(contestant, options.output / name, volume=volume)
        predict_settings[name] = contestant.predict
    records = {}
    for name, ckpt in ckpts.items():
        where = [f"ckpt={ckpt}", f"input={volume}", f"output={options.output / name / 'labels'}"]
        where.append(f"device={options.device}")
        records[name] = Record(ckpt, [*where, *predict_settings[name], *settings.get(name, [])])
    return records


def duel(options: argparse.Namespace) -> None:
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    truth = read_labels(options.truth) if options.truth else None
    if truth is not None and not truth.any():
        raise UserError(f"--truth {options.truth}: this file has no label to score. Give another label file.")
    volume = options.input or phantom(folder, shape=options.shape, voxel_size=options.voxel_size)
    records = enter(options, volume=volume)
    run_rounds(records, rounds=options.rounds, folder=folder, threads=options.threads)
    stem = Nifti(3).stem(volume)
    labels = {name: read_labels(Nifti(3).label_path(folder / name / "labels" / stem, like=volume)) for name in records}
    quality = judge(labels, truth=truth)
    text = table(records, quality)
    trained = pairs(options.runs, option="--runs")
    if names := [name for name in records if name not in trained]:
        text += f"\nRandom weights: {', '.join(names)}. Their times say something, their labels nothing.\n"
    environment = {
        "volume": str(volume), "rounds": options.rounds, "threads": options.threads,
        "device": device_name(torch.device(options.device)), "versions": card.versions(),
    }  # fmt: skip
    contestants = {
        name: {**record.plain(), "weights": weights_of(record.ckpt), **quality[name]}
        for name, record in records.items()
    }
    record = {"environment": environment, "contestants": contestants}
    (folder / "duel.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "duel.md").write_text(text)
    print(text)
    if missed := missed_gates(quality, agreement=options.agreement, margin=options.margin):
        raise SystemExit("\n".join(missed))


def read_labels(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    try:
        duel(options)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
