"""Every pruning method in one table: trained, scored on unseen cases, counted, and timed side by side.

    python scripts/compare_methods.py +experiment=hippocampus_stp_mta data.root=PATH/Task04_Hippocampus
    python scripts/compare_methods.py +experiment=lookalike_stp_mta --decoders unetr_thin fcn --jobs 2
    python scripts/compare_methods.py +experiment=isic_apformer --table apformer --seeds 0 1 2   # its table IV

What is done already is not done again: call it once more after an interruption, or with more methods or seeds.
Everything but the method is that of the experiment and its overrides. Dice, HD95 and the share of patches with
foreground that the last stage keeps are of the test cases, MACs and tokens of real validation windows. Throughput
is relative to the first row, the networks taking turns in one process. Results: <output>/table.md and table.json.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from sct.config.check import build
from sct.config.command import key_of
from sct.profiling.segmenter import training_run
from sct.profiling.timing import Inference, Stopwatch
from sct.profiling.windows import sample_windows
from sct.reports.collect import last_kept
from sct.runs.folder import NOT_IDENTITY
from sct.runs.run import open_run

# what makes a method of the experiment: everything else stays
METHODS: dict[str, list[str]] = {
    "dense": ["encoder=dense", "completion=scatter"],
    "stp": ["encoder=stp"],
    "evit": ["encoder=evit"],
    "dynamicvit": ["encoder=dynamicvit"],
    "asvit": ["encoder=asvit"],
    "dtop": ["encoder=dtop", "encoder.reducer.head=fcn"],
    "random": ["encoder=random"],
    "minscore": ["encoder=minscore"],
    "identity": ["encoder=identity", "completion=scatter"],
}
WITHOUT_SSA = ["encoder.attention.ssa=null"]
WITHOUT_GRPE = ["encoder.attention.positions=null", "encoder.position_init=normal"]
WITHOUT_PRUNING = ["encoder.gate=null", "encoder.attention.dependencies=null"]
# the parts of APFormer, as in its table IV: ssa is the baseline with SSA, and so on
PARTS: dict[str, list[str]] = {
    "baseline": [*WITHOUT_SSA, *WITHOUT_GRPE, *WITHOUT_PRUNING],
    "ssa": [*WITHOUT_GRPE, *WITHOUT_PRUNING],
    "grpe": [*WITHOUT_SSA, *WITHOUT_PRUNING],
    "pruning": [*WITHOUT_SSA, *WITHOUT_GRPE],
    "apformer-": WITHOUT_PRUNING,
    "apformer": [],
    "identity": ["encoder.transformer=false", *WITHOUT_SSA, *WITHOUT_GRPE, *WITHOUT_PRUNING],
}
TABLES = {"methods": METHODS, "apformer": PARTS}
DECODERS = {"methods": ["unetr_thin", "fcn"], "apformer": ["unet"]}
SCORES = {"methods": ("dice", "hd95"), "apformer": ("dice", "iou", "accuracy", "sensitivity", "specificity")}
# decoders that keep the predictions of tokens that left early
CANVAS = ("fcn", "atm")
# what becomes of tokens in training; every other method drops them for real
IN_TRAINING = {
    **dict.fromkeys(("dense", "identity", "baseline", "ssa", "grpe", "apformer-"), "-"),
    **dict.fromkeys(("dynamicvit", "asvit"), "masks"),
    **dict.fromkeys(("pruning", "apformer"), "drops rows"),
}


@dataclass(frozen=True)
class Cell:
    """One network of the table."""

    decoder: str
    method: str
    changes: tuple[str, ...]
    seed: int
    folder: Path

    @property
    def overrides(self) -> list[str]:
        canvas = ["completion=scatter"] if self.method == "dtop" and self.decoder in CANVAS else []
        name = f"name={self.decoder}_{self.method}"
        return [f"decoder={self.decoder}", *self.changes, *canvas, f"seed={self.seed}", name]


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--table", choices=TABLES, default="methods", help="the rows: pruning methods, or APFormer's parts"
    )
    parser.add_argument("--decoders", nargs="+", help="unetr_thin and fcn, for APFormer's parts unet, if not given")
    parser.add_argument("--methods", nargs="+", help="some rows only; the first is what speed is relative to")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/compare_methods"))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, each on its share of the cores")
    parser.add_argument("--windows", type=int, default=16, help="validation windows that MACs are averaged over")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds")
    parser.add_argument("--device", default="cpu", help="of the timing; trainings take trainer.device")
    parser.add_argument("overrides", nargs="*", help="the experiment and any other setting, as for sct.train")
    options = parser.parse_intermixed_args(argv)
    options.decoders = options.decoders or DECODERS[options.table]
    options.methods = options.methods or list(TABLES[options.table])
    if unknown := set(options.methods) - set(TABLES[options.table]):
        parser.error(f"unknown rows {sorted(unknown)}; --table {options.table} has {', '.join(TABLES[options.table])}")
    return options, options.overrides


def run(command: str, *arguments: str, log: Path, threads: int) -> None:
    """`python -m sct.<command>`; its output goes to `log`, an error stops the script with that file's name."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        line = [sys.executable, "-m", f"sct.{command}", *arguments]
        status = subprocess.run(line, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if status:
        raise SystemExit(f"sct.{command} failed, see the end of {log}")


def fill(cell: Cell, *, overrides: list[str], options: argparse.Namespace, threads: int) -> None:
    """Trains, scores and profiles one network, as far as that is not done."""
    log = cell.folder.with_suffix(".log")
    check_same(cell, overrides=overrides)
    if not (cell.folder / "finished").exists():
        arguments = [*overrides, *cell.overrides, f"run_dir={cell.folder}", "resume=auto"]
        run("train", *arguments, log=log, threads=threads)
    if not (cell.folder / "eval/test/summary.json").exists():
        run("eval", f"ckpt={cell.folder}", "split=test", "save_predictions=false", log=log, threads=threads)
    if not (cell.folder / "profile.json").exists():
        settings = (f"ckpt={cell.folder}", f"profile.windows={options.windows}", "profile.latency=false")
        run("profile", *settings, log=log, threads=threads)


def check_same(cell: Cell, *, overrides: list[str]) -> None:
    """Ends the script where the cell's folder holds a run that was asked for otherwise."""
    record = cell.folder / "overrides.json"
    asked = {item.lstrip("+") for item in [*overrides, *cell.overrides] if key_of(item) not in NOT_IDENTITY}
    if record.exists() and (held := {item.lstrip("+") for item in json.loads(record.read_text())}) != asked:
        listed = ", ".join(sorted(held ^ asked))
        raise SystemExit(f"{cell.folder} holds another run, they differ in: {listed}. Give another --output.")


def time_cells(cells: Sequence[Cell], *, options: argparse.Namespace) -> dict[Cell, dict[str, float]]:
    """Median milliseconds of a forward pass and a training step of every network, taking turns."""
    device = torch.device(options.device)
    runs, watches = {}, {cell: Stopwatch(device) for cell in cells}
    for cell in cells:
        run = open_run(str(cell.folder), device=options.device, precision="fp32")
        cfg, data, segmenter = run.config, run.data, run.network
        data.prepare()
        image = sample_windows(data, count=max(4, cfg.data.batch_size)).to(device)
        criterion = build(cfg.loss, key="loss", outputs=data.outputs)
        # steps on random labels change what a network prunes: not of the one whose inference is timed
        trained = copy.deepcopy(segmenter)
        optimizer = build(cfg.optimizer, key="optimizer")(trained)
        train = training_run(trained, image=image, criterion=criterion, optimizer=optimizer)
        runs[cell] = (Inference(segmenter=segmenter, image=image), train)
    for number in range(options.repeats + 1):
        if number == 1:  # the first round only warms up
            watches = {cell: Stopwatch(device) for cell in cells}
        for cell, (inference, train) in runs.items():
            watches[cell].time("inference", inference.step)
            watches[cell].time("training", train.step)
    return {cell: {name: median(values) for name, values in watch.samples.items()} for cell, watch in watches.items()}


def table(cells: Sequence[Cell], times: dict[Cell, dict[str, float]]) -> list[dict[str, Any]]:
    """A row a decoder and method, over its seeds; `scores` and `scores_std` by name."""
    rows = []
    for decoder, method in dict.fromkeys((cell.decoder, cell.method) for cell in cells):
        own = [cell for cell in cells if (cell.decoder, cell.method) == (decoder, method)]
        first = [cell for cell in cells if (cell.decoder, cell.method) == (decoder, cells[0].method)]
        summaries = [json.loads((cell.folder / "eval/test/summary.json").read_text()) for cell in own]
        profiles = [json.loads((cell.folder / "profile.json").read_text()) for cell in own]
        scores = {
            name: [summary[name]["mean"] for summary in summaries]
            for name in summaries[0]
            if isinstance(summaries[0][name], dict) and "mean" in summaries[0][name]
        }
        kept = [last_kept(summary["meta"]) for summary in summaries]
        row: dict[str, Any] = {
            "decoder": decoder,
            "method": method,
            "training": IN_TRAINING.get(method, "drops"),
            "seeds": len(own),
            "scores": {name: mean(values) for name, values in scores.items()},
            "scores_std": {name: stdev(values) for name, values in scores.items() if len(values) > 1},
            "missed": sum(summary["n_missed"] for summary in summaries),
            "foreground_kept": mean(of[0] for of in kept) if kept[0] else None,
            "tokens_kept": mean(of[1] for of in kept) if kept[0] else None,
            "macs_g": mean(profile["macs"]["total"] for profile in profiles) / 1e9,
            "encoder_macs_g": mean(profile["macs"]["encoder"] for profile in profiles) / 1e9,
        }
        for name in ("inference", "training"):
            ours = mean(times[cell][name] for cell in own)
            row[f"{name}_ms"] = ours
            row[f"{name}_speed"] = mean(times[cell][name] for cell in first) / ours
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]], *, scores: Sequence[str]) -> str:
    """The rows as a table with the columns `scores`; hd95 is in whatever unit it was measured in."""
    known = rows[0]["scores"]
    names = [name for want in scores for name in known if name == want or name.startswith(f"{want}_")]
    head = (
        "decoder", "method", "training", *names, "missed", "fg kept", "kept",
        "MACs G", "encoder G", "inference x", "training x",
    )  # fmt: skip
    lines = [head, tuple("---" for _ in head)]
    for row in rows:
        lines.append((
            row["decoder"], row["method"], row["training"], *(score(row, name) for name in names), str(row["missed"]),
            percent(row["foreground_kept"]), percent(row["tokens_kept"]), f"{row['macs_g']:.3f}",
            f"{row['encoder_macs_g']:.3f}", f"{row['inference_speed']:.2f}", f"{row['training_speed']:.2f}",
        ))  # fmt: skip
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def score(row: dict[str, Any], name: str) -> str:
    digits = 2 if name.startswith("hd95") else 4
    spread = f" ± {row['scores_std'][name]:.{digits}f}" if name in row["scores_std"] else ""
    return f"{row['scores'][name]:.{digits}f}{spread}"


def percent(value: object) -> str:
    return "-" if value is None else f"{value:.0%}"


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = parse(argv)
    changes = TABLES[options.table]
    cells = [
        Cell(
            decoder, method, tuple(changes[method]), seed, (options.output / f"{decoder}_{method}_seed{seed}").resolve()
        )
        for decoder in options.decoders
        for method in options.methods
        for seed in options.seeds
    ]
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda cell: fill(cell, overrides=overrides, options=options, threads=threads), cells))
    rows = table(cells, time_cells(cells, options=options))
    (options.output / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    text = markdown(rows, scores=SCORES[options.table])
    (options.output / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
