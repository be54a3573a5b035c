"""Savings of APFormer's pruning on real images, counted and measured, grouped by the size of the lesion.

    python scripts/benchmark_adaptive.py RUN                      # test cases of the run's data set
    python scripts/benchmark_adaptive.py RUN --split val --groups 3 --repeats 7 --threads 1

The trained network runs in three variants: with its pruning, with pruned rows only, and without pruning. Weights and
images are the same; images run one at a time, and the variants take turns. alpha is the share of patches that are
pruned as queries. lambda is the pruned share of the entries in the other queries' attention rows, mean over blocks.

MACs of self-attention in a block with n queries, width C and H D = I channels of all heads:
(2 N + n) C I + 2 n N I + n I C. `counted` also subtracts the share lambda of the product with the values, as the paper
does (equation 16). No dense kernel saves this product, so `real` does not subtract it.

Milliseconds are the median over rounds of the sum over blocks. Images (or the windows of larger images and the slices
of volumes) are grouped by the share of foreground pixels.
"""

import argparse
import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median

import torch
from torch import Tensor

from sct.data.module import SegmentationData
from sct.models.adaptive.attention import AdaptiveAttention
from sct.models.blocks.layers import Layout
from sct.models.encoder import ViTEncoder
from sct.profiling.timing import Stopwatch, device_name
from sct.profiling.windows import all_windows
from sct.runs.run import open_run

Calls = list[tuple[AdaptiveAttention, Tensor, Layout]]


@dataclass(frozen=True)
class Image:
    """Measurements of one image: macs and ms of self-attention, summed over blocks, by variant.

    dependencies is nan if no patch is a query.
    """

    foreground: float
    alpha: float
    dependencies: float
    macs: dict[str, float]
    ms: dict[str, float]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder or checkpoint of a network with encoder.attention")
    parser.add_argument("--split", default="test")
    parser.add_argument("--root", help="data.root, if it differs from the training")
    parser.add_argument("--groups", type=int, default=3, help="groups of equal size, by share of foreground")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def variants(encoder: ViTEncoder) -> dict[str, ViTEncoder]:
    """The encoder with its pruning ("on"), with pruned rows only ("rows"), and without pruning ("off")."""
    rows, off = copy.deepcopy(encoder), copy.deepcopy(encoder)
    for other in (rows, off):
        for block in other.blocks:
            block.attn.dependencies = None
    off.gate = None
    return {"off": off, "rows": rows, "on": encoder}


def attention_calls(encoder: ViTEncoder, image: Tensor) -> tuple[Calls, dict[str, Tensor]]:
    """The inputs of each block's attention for an image (1, C, *S), and the encoder's statistics (`aux`)."""
    calls: Calls = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs[0], inputs[1])))
        for block in encoder.blocks
    ]
    aux = encoder(image).aux
    for hook in hooks:
        hook.remove()
    return calls, aux


def attention_macs(attention: AdaptiveAttention, *, num_tokens: int, num_queries: float, pruned: float) -> float:
    """MACs of one block's self-attention; `pruned`: omitted share of its products with the values."""
    width, inner = attention.proj.out_features, attention.inner
    projections = (2 * num_tokens + num_queries) * width * inner + num_queries * inner * width
    return projections + num_queries * num_tokens * inner * (2 - pruned)


def measure(image: Tensor, *, foreground: float, networks: dict[str, ViTEncoder], repeats: int) -> Image:
    """Measures one image (1, C, *S) in all variants, in turn."""
    calls = {name: attention_calls(encoder, image) for name, encoder in networks.items()}
    watch = Stopwatch(image.device)
    for number in range(repeats + 1):
        if number == 1:  # the first round only warms up
            watch = Stopwatch(image.device)
        for name, (block_calls, _) in calls.items():
            watch.time(name, lambda inputs=block_calls: [attention(x, layout) for attention, x, layout in inputs])
    block_calls, aux = calls["on"]
    N = block_calls[0][1].shape[1]
    alpha = aux["queries_pruned"].item() if "queries_pruned" in aux else 0.0
    shares = [value.item() for name, value in aux.items() if name.startswith("dependencies_pruned_")]
    num_queries = (1 - alpha) * N
    macs = {
        "off": sum(attention_macs(call[0], num_tokens=N, num_queries=N, pruned=0.0) for call in block_calls),
        "real": sum(attention_macs(call[0], num_tokens=N, num_queries=num_queries, pruned=0.0) for call in block_calls),
        "counted": sum(
            attention_macs(call[0], num_tokens=N, num_queries=num_queries, pruned=share)
            for call, share in zip(block_calls, shares or [0.0] * len(block_calls), strict=True)
        ),
    }
    times = {name: median(values) for name, values in watch.samples.items()}
    return Image(foreground, alpha, mean(shares) if shares else math.nan, macs, times)


@torch.inference_mode()
def measure_split(data: SegmentationData, encoder: ViTEncoder, *, options: argparse.Namespace) -> list[Image]:
    """Measures all images of a split; returns them in order of increasing share of foreground."""
    networks = variants(encoder)
    measured = []
    for case in data.cases(options.split):
        volume = data.load_case(case)
        assert volume.label is not None
        images = all_windows(volume.image, size=data.roi_size, overlap=0.0)
        labels = all_windows(volume.label.unsqueeze(0), size=data.roi_size, overlap=0.0)
        for image, label in zip(images, labels, strict=True):
            share = (label > 0).float().mean().item()
            window = image.unsqueeze(0).to(options.device)
            measured.append(measure(window, foreground=share, networks=networks, repeats=options.repeats))
    return sorted(measured, key=lambda image: image.foreground)


def table(images: Sequence[Image], *, groups: int) -> str:
    """A markdown table: one line for each group of images, and one for all images."""
    size = -(-len(images) // groups)
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    head = ("foreground", "images", "alpha", "lambda", "SA GMACs off / real / counted", "SA ms off / rows / on", "rows")
    lines = [head, tuple("---" for _ in head)]
    for part in [*parts, images]:
        macs = [mean(image.macs[name] for image in part) / 1e9 for name in ("off", "real", "counted")]
        ms = [mean(image.ms[name] for image in part) for name in ("off", "rows", "on")]
        lines.append((
            f"{part[0].foreground:.0%} to {part[-1].foreground:.0%}", str(len(part)),
            f"{mean(image.alpha for image in part):.1%}", f"{known_mean(image.dependencies for image in part):.1%}",
            " / ".join(f"{value:.3f}" for value in macs), " / ".join(f"{value:.2f}" for value in ms),
            f"{ms[0] / ms[1]:.2f}x",
        ))  # fmt: skip
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def known_mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return mean(known) if known else math.nan


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    changes = {"data": {"root": options.root}} if options.root else {}
    device = torch.device(options.device)
    run = open_run(options.run, device=options.device, precision="fp32", changes=changes)
    data, segmenter = run.data, run.network
    data.prepare()
    encoder = segmenter.encoder
    if not all(isinstance(block.attn, AdaptiveAttention) for block in encoder.blocks):
        raise SystemExit(f"{options.run} has plain attention; give a run with encoder.attention, such as apformer.")
    images = measure_split(data, encoder, options=options)
    print(f"{options.run}, {options.split}, {device_name(device)}, {torch.get_num_threads()} threads\n")
    print(table(images, groups=options.groups))


if __name__ == "__main__":
    main()
