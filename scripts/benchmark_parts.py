"""Compares the time of windows in networks: in total, and for encoder, completion and decoder separately.

    python scripts/benchmark_parts.py --device cuda                     # 96^3 and 128^3, 1 and 4 windows at once
    python scripts/benchmark_parts.py --sizes 96 --batches 1 --precision fp32 --repeats 3
    python scripts/benchmark_parts.py --contestants a="+experiment=btcv_stp_mta" b="+experiment=btcv_dense_unetr"

Contestants are experiments with random weights: the fast one, the paper's STP, and networks to compare with. They take
turns, so that other load on the machine affects all of them. The table has medians, and the ratio of the total time to
the first contestant's in the same turn, with its range. Memory is the peak on the device during a pass, the network's
weights included; on a CPU it is the growth of the process during a pass. A network of MONAI counts as a decoder here.
For the time of a whole volume, from file to file, see scripts/duel.py.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from sct.config.check import build
from sct.config.command import compose_config, pairs
from sct.config.schema import PRECISIONS
from sct.errors import UserError
from sct.models.selfcheck import choose_precision
from sct.profiling.macs import PARTS
from sct.profiling.timing import Inference, Stopwatch, device_name, peak_memory_mb
from sct.runs import card
from sct.runs.build import build_segmenter
from sct.runtime.distributed import pick_device
from sct.runtime.memory import tune_allocator

CONTESTANTS = (
    "fast=+experiment=btcv_fast_stp",
    "stp_mta=+experiment=btcv_stp_mta",
    "dense_unetr=+experiment=btcv_dense_unetr",
    "monai_unetr=+experiment=btcv_dense_unetr model=monai_unetr",
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, metavar="NAME='OVERRIDE ...'")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128], help="edges of a window, voxels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="windows in one pass")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark_parts"))
    return parser.parse_args(argv)


def make(overrides: Sequence[str], *, size: int, batch: int, precision: str, device: torch.device) -> Inference:
    """A network with random weights of seed 0, and an input of noise, which is the same for all networks."""
    cfg = compose_config("train", overrides=[*overrides, f"data.roi_size={[size] * 3}"])
    data = build(cfg.data, key="data")
    torch.manual_seed(0)
    segmenter = build_segmenter(cfg, data=data).to(device)
    # drawn on the CPU, so that every device gets the same noise
    image = torch.randn(batch, data.num_channels, size, size, size, generator=torch.Generator().manual_seed(0))
    chosen = choose_precision(
        precision, network=segmenter, device=device, key="--precision", remedy="set --precision auto"
    )
    return Inference(segmenter=segmenter, image=image.to(device), dtype=chosen.dtype)


def memory_mb(run: Inference) -> float | None:
    """Peak MiB during a pass, without the weights of other networks on the same device."""
    device = run.image.device
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    peak = peak_memory_mb(run.step, device)
    if peak is None or device.type != "cuda":
        return peak
    needed = sum(tensor.nbytes for tensor in (run.image, *run.segmenter.parameters(), *run.segmenter.buffers()))
    return peak - (held - needed) / 2**20


def measure(runs: dict[str, Inference], *, warmup: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of every turn: contestant -> "total" and parts -> list."""
    device = next(iter(runs.values())).image.device
    watches = {name: Stopwatch(device) for name in runs}
    for turn in range(warmup + repeats):
        if turn == warmup:
            watches = {name: Stopwatch(device) for name in runs}
        for name, run in runs.items():
            watches[name].time("total", run.step)
            run.parts(watches[name])
    return {name: dict(watch.samples) for name, watch in watches.items()}


def table(found: dict[str, dict[str, dict]]) -> str:
    """One line for each contestant and setting."""
    parts = [f"{part} ms" for part in PARTS]
    columns = ["window", "batch", "contestant", "total ms", "windows/s", *parts, "memory MB"]
    lines = [[*columns, "times the first", "range"], ["---"] * (len(columns) + 2)]
    for setting, contestants in found.items():
        size, batch = setting.split(" x ")
        first = next(iter(contestants.values()))["ms"]["total"]
        for name, one in contestants.items():
            ratios = [total / baseline for total, baseline in zip(one["ms"]["total"], first, strict=True)]
            total, *parts = [f"{median(one['ms'][key]):.1f}" for key in ("total", *PARTS)]
            rate = f"{int(batch) * 1e3 / median(one['ms']['total']):.1f}"
            memory = "unknown" if one["memory_mb"] is None else f"{one['memory_mb']:.0f}"
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            lines.append([size, batch, name, total, rate, *parts, memory, f"{median(ratios):.2f}", spread])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def benchmark(options: argparse.Namespace) -> str:
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    contestants = {name: value.split() for name, value in pairs(options.contestants, option="--contestants").items()}
    found: dict[str, dict[str, dict]] = {}
    for size in options.sizes:
        settings = {"size": size, "batch": max(options.batches), "precision": options.precision, "device": device}
        networks = {name: make(overrides, **settings) for name, overrides in contestants.items()}
        for batch in options.batches:
            runs = {name: replace(run, image=run.image[:batch]) for name, run in networks.items()}
            memory = {name: memory_mb(run) for name, run in runs.items()}
            times = measure(runs, warmup=options.warmup, repeats=options.repeats)
            found[f"{size}^3 x {batch}"] = {name: {"ms": times[name], "memory_mb": memory[name]} for name in runs}
    options.output.mkdir(parents=True, exist_ok=True)
    record = {
        "environment": {"device": device_name(device), "threads": torch.get_num_threads(), "versions": card.versions()},
        "settings": {key: str(value) for key, value in vars(options).items()},
        "found": found,
    }
    text = table(found)
    (options.output / "parts.json").write_text(json.dumps(record, indent=2) + "\n")
    (options.output / "parts.md").write_text(text)
    return text


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    tune_allocator()  # as the commands do
    try:
        print(benchmark(options))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
