"""Compares dense and sparse: time of encoder, forward pass and training step, and peak training memory.

    python scripts/benchmark_pruning.py                 # ViT-B, patch 8, 96^3, r = 0.9, deep decoder, fp32
    python scripts/benchmark_pruning.py --primus --ratio 0.75  # Primus-S and its decoder
    python scripts/benchmark_pruning.py --size 32 --dim 96 --depth 4 --heads 4 --stages 1 2 3  # a quick try

Dense is the same encoder without reducer, with three taps (UNETR) and plain scatter completion; sparse is STP with MTA.
Runs alternate (dense, STP, dense, STP, ...), so that other load on the machine affects both. Memory is measured
in fresh processes: the peak of the process over two training steps (on CUDA: allocated on the device).
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import OmegaConf

from sct.config.command import compose_config
from sct.data.outputs import numbered
from sct.losses.criterion import Criterion
from sct.losses.dice_ce import DiceCE
from sct.models.completion.mta import MTA
from sct.models.completion.scatter import Scatter
from sct.models.decoders.primus import Primus
from sct.models.decoders.unetr import UNETR
from sct.models.encoder import ViTEncoder
from sct.models.reducers.stp import STP
from sct.models.segmenter import Segmenter
from sct.profiling.timing import Inference, Stopwatch, Training, device_name
from sct.runtime.resident import peak_resident_mb
from sct.training.optim import adamw

NETWORKS = ("dense", "stp")
MEASURES = ("encoder", "forward", "training step")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="edge of the cubic image: 32, 48, 64, ...")
    parser.add_argument("--primus", action="store_true", help="blocks and decoder of Primus-S, not of ViT-B and UNETR")
    parser.add_argument("--dim", type=int, help="width, if not that of ViT-B or Primus-S")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--heads", type=int, help="attention heads, if not those of ViT-B or Primus-S")
    parser.add_argument("--stages", type=int, nargs="+", default=[3, 6, 9], help="STP prunes after these blocks")
    parser.add_argument("--ratio", type=float, default=0.9, help="share of the tokens dropped at each stage")
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--feature-size", type=int, default=16, help="decoder channels at full resolution")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--memory-of", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.dim = options.dim or (396 if options.primus else 768)
    options.heads = options.heads or (6 if options.primus else 12)
    return options


def block_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the encoder beside its sizes: those of the shipped config of Primus, or the plain ViT's defaults."""
    if not options.primus:
        return {}
    settings = OmegaConf.to_container(compose_config("train", overrides=["encoder=primus"]).encoder)
    assert isinstance(settings, dict)
    ours = ("_target_", "patch_size", "dim", "depth", "num_heads", "taps", "reducer")
    return {str(name): value for name, value in settings.items() if name not in ours}


def build(network: str, options: argparse.Namespace) -> Segmenter:
    torch.manual_seed(0)
    dense = network == "dense"
    encoder = ViTEncoder(
        image_size=(options.size,) * 3,
        in_channels=1,
        patch_size=8,
        dim=options.dim,
        depth=options.depth,
        num_heads=options.heads,
        taps=3 if dense and not options.primus else 0,
        reducer=None if dense else partial(STP, blocks=options.stages, ratio=options.ratio),
        **block_settings(options),
    )
    unetr = partial(UNETR, layout="deep", feature_size=options.feature_size)
    segmenter = Segmenter(
        encoder=encoder,
        completion=Scatter if dense else MTA,
        decoder=Primus if options.primus else unetr,
        num_classes=options.classes,
    )
    return segmenter.to(options.device)


def training(segmenter: Segmenter, options: argparse.Namespace) -> Training:
    """A training step as in the paper: fp32, batch 1, DiceCE, AdamW."""
    shape = (options.size,) * 3
    return Training(
        segmenter=segmenter,
        image=torch.randn(1, 1, *shape, device=options.device),
        target=torch.randint(options.classes, (1, *shape), device=options.device),
        criterion=Criterion(outputs=numbered(options.classes), pixel=DiceCE()),
        optimizer=adamw(segmenter, lr=1e-4),
        scaler=torch.amp.GradScaler(torch.device(options.device).type, enabled=False),
    )


def training_memory_mb(network: str, options: argparse.Namespace) -> float:
    """Peak of this process in MiB; only the second step has optimizer states and activations together."""
    run = training(build(network, options), options)
    for _ in range(2):
        run.step()
    if torch.device(options.device).type == "cuda":
        return torch.cuda.max_memory_allocated(options.device) / 2**20
    # not ru_maxrss of the kernel: it includes memory of the parent process from before this program started
    return peak_resident_mb() or math.nan


def memory_in_fresh_process(network: str, arguments: Sequence[str]) -> float:
    command = [sys.executable, __file__, *arguments, "--memory-of", network]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def time_networks(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of all runs: measure -> network -> list; the networks alternate."""
    device = torch.device(options.device)
    steps = {network: training(build(network, options), options) for network in NETWORKS}
    watches = {network: Stopwatch(device) for network in NETWORKS}
    for number in range(options.warmup + options.repeats):
        if number == options.warmup:
            watches = {network: Stopwatch(device) for network in NETWORKS}
        for network, step in steps.items():
            watch = watches[network]
            forward = Inference(segmenter=step.segmenter, image=step.image)
            with torch.inference_mode():
                watch.time("encoder", lambda step=step: step.segmenter.eval().encoder(step.image))
            watch.time("forward", forward.step)
            watch.time("training step", step.step)
    return {name: {network: watches[network].samples[name] for network in NETWORKS} for name in MEASURES}


def compare(samples: dict[str, list[float]]) -> dict[str, object]:
    """Medians, their ratio dense / STP, and the range of the ratio over pairs of neighbouring runs."""
    pairs = [dense / sparse for dense, sparse in zip(samples["dense"], samples["stp"], strict=True)]
    medians = {network: median(values) for network, values in samples.items()}
    return {
        "median": medians,
        "min": {network: min(values) for network, values in samples.items()},
        "max": {network: max(values) for network, values in samples.items()},
        "ratio": medians["dense"] / medians["stp"],
        "ratio_min": min(pairs),
        "ratio_max": max(pairs),
    }


def table(results: dict[str, dict]) -> str:
    """One line for each measure: median (min - max) of both networks, and dense / STP with its range."""
    lines = [f"{'':<24}{'dense':>32}{'STP':>32}{'dense/STP':>11}{'min - max':>14}{'STP/dense':>11}"]
    for name, result in results.items():
        cells = [
            f"{result['median'][network]:.1f} ({result['min'][network]:.1f} - {result['max'][network]:.1f})"
            for network in NETWORKS
        ]
        spread = f"{result['ratio_min']:.2f} - {result['ratio_max']:.2f}"
        ratio = result["ratio"]
        lines.append(f"{name:<24}{cells[0]:>32}{cells[1]:>32}{ratio:>11.2f}{spread:>14}{1 / ratio:>11.2f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        print(training_memory_mb(options.memory_of, options))
        return
    memory = {}
    if not options.no_memory:
        # before this process grows: on Linux a new process inherits the peak memory of its parent
        memory = {network: [memory_in_fresh_process(network, arguments)] for network in NETWORKS}
    results = {f"{name} ms": compare(samples) for name, samples in time_networks(options).items()}
    if memory:
        results["peak training memory MB"] = compare(memory)
    setting = {
        **{name: value for name, value in vars(options).items() if name not in ("json", "memory_of")},
        "threads": torch.get_num_threads(),
        "device_name": device_name(torch.device(options.device)),
        "torch": torch.__version__,
    }
    print(", ".join(f"{name}={value}" for name, value in setting.items()), table(results), sep="\n\n")
    if options.json:
        options.json.write_text(json.dumps({"setting": setting, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
