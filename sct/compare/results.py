"""The table of the comparison: results from the runs' folders, and times of all networks, measured in turn."""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from sct.compare.cells import Cell
from sct.compare.methods import IN_TRAINING
from sct.config.check import build
from sct.errors import UserError
from sct.profiling.segmenter import training_run
from sct.profiling.timing import Inference, Stopwatch
from sct.profiling.windows import sample_windows
from sct.reports.collect import Kept, last_kept
from sct.runs.run import open_run
from sct.runs.selection import read_value
from sct.runtime.plain import read_json

AGAIN = "Remove the file: the same command makes it again."


def time_cells(cells: Sequence[Cell], *, options: argparse.Namespace) -> dict[Cell, dict[str, float]]:
    """Median milliseconds of a forward pass and of a training step of every network; the networks take turns."""
    device = torch.device(options.device)
    runs, watches = {}, {cell: Stopwatch(device) for cell in cells}
    for cell in cells:
        run = open_run(str(cell.folder), device=options.device, precision="fp32")
        cfg, data, segmenter = run.config, run.data, run.network
        data.prepare()
        image = sample_windows(data, count=max(4, cfg.data.batch_size)).to(device)
        criterion = build(cfg.loss, key="loss", outputs=data.outputs)
        # training steps on random labels change which tokens a network prunes: they run on a copy
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


@dataclass(frozen=True)
class Result:
    """What the folder of one network says of it; scores: means over the test cases; selection: value of it."""

    scores: dict[str, float]
    missed: int
    kept: Kept | None
    selection: float | None
    macs: float
    encoder_macs: float


def read_result(folder: Path) -> Result:
    """The result of one network; UserError where a file of it is damaged or lacks a value."""
    scored, counted = folder / "eval/test/summary.json", folder / "profile.json"
    summary, profile = (read_json(path, remedy=AGAIN) for path in (scored, counted))
    try:
        return Result(
            scores={
                name: float(part["mean"]) for name, part in summary.items() if isinstance(part, dict) and "mean" in part
            },
            missed=int(summary["n_missed"]),
            kept=last_kept(summary["meta"]),
            selection=read_value(scored.parent),
            macs=float(profile["macs"]["total"]),
            encoder_macs=float(profile["macs"]["encoder"]),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{scored} or {counted} lacks a value ({type(error).__name__}: {error}). {AGAIN}") from error


def table(cells: Sequence[Cell], times: dict[Cell, dict[str, float]]) -> list[dict[str, Any]]:
    """One row for each decoder and method, with means over seeds; `scores` and `scores_std` by name."""
    rows = []
    for decoder, method in dict.fromkeys((cell.decoder, cell.method) for cell in cells):
        row_cells = [cell for cell in cells if (cell.decoder, cell.method) == (decoder, method)]
        first_cells = [cell for cell in cells if (cell.decoder, cell.method) == (decoder, cells[0].method)]
        results = [read_result(cell.folder) for cell in row_cells]
        scores = {name: [result.scores[name] for result in results] for name in results[0].scores}
        shares = [result.kept for result in results if result.kept is not None]
        values = [result.selection for result in results if result.selection is not None]
        row: dict[str, Any] = {
            "decoder": decoder,
            "method": method,
            "training": IN_TRAINING.get(method, "drops"),
            "seeds": len(row_cells),
            "scores": {name: mean(values) for name, values in scores.items()},
            "scores_std": {name: stdev(values) for name, values in scores.items() if len(values) > 1},
            "missed": sum(result.missed for result in results),
            "selection": mean(values) if values else None,
            "foreground_kept": mean(share.foreground for share in shares) if shares else None,
            "patches_kept": mean(share.patches for share in shares) if shares else None,
            "tokens_kept": mean(share.tokens for share in shares) if shares else None,
            "macs_g": mean(result.macs for result in results) / 1e9,
            "encoder_macs_g": mean(result.encoder_macs for result in results) / 1e9,
        }
        for name in ("inference", "training"):
            milliseconds = mean(times[cell][name] for cell in row_cells)
            row[f"{name}_ms"] = milliseconds
            row[f"{name}_speed"] = mean(times[cell][name] for cell in first_cells) / milliseconds
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]], *, scores: Sequence[str]) -> str:
    """The rows as a table with the columns `scores`; "hd95" stands for hd95 in the measured unit."""
    measured = rows[0]["scores"]
    names = [name for score in scores for name in measured if name == score or name.startswith(f"{score}_")]
    head = (
        "decoder", "method", "training", *names, "missed", "selection", "tokens kept", "foreground kept",
        "patches kept", "MACs G", "encoder G", "inference x", "training x",
    )  # fmt: skip
    lines = [head, tuple("---" for _ in head)]
    for row in rows:
        lines.append((
            row["decoder"], row["method"], row["training"], *(shown(row, name) for name in names), str(row["missed"]),
            "-" if row["selection"] is None else f"{row['selection']:+.4f}",
            percent(row["tokens_kept"]), percent(row["foreground_kept"]), percent(row["patches_kept"]),
            f"{row['macs_g']:.3f}", f"{row['encoder_macs_g']:.3f}",
            f"{row['inference_speed']:.2f}", f"{row['training_speed']:.2f}",
        ))  # fmt: skip
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def shown(row: dict[str, Any], name: str) -> str:
    """A score with its standard deviation over seeds, as text."""
    digits = 2 if name.startswith("hd95") else 4
    spread = f" ± {row['scores_std'][name]:.{digits}f}" if name in row["scores_std"] else ""
    return f"{row['scores'][name]:.{digits}f}{spread}"


def percent(value: object) -> str:
    return "-" if value is None else f"{value:.0%}"
