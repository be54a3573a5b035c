"""What APFormer's pruning saves on real images, counted and measured, by the size of the lesion.

    python scripts/benchmark_adaptive.py RUN                      # test cases of the run's data set
    python scripts/benchmark_adaptive.py RUN --split val --groups 3 --repeats 7 --threads 1

The trained network runs with its pruning, with pruned rows only, and with neither, on the same weights and images,
one image at a time, the variants taking turns. alpha is the share of patches that ask nothing, lambda the share of
the entries of the others' attention rows that is pruned, mean over blocks. MACs of self-attention a block with n
patches that ask, width C and H D = I channels of all heads: (2 N + n) C I + 2 n N I + n I C. `counted` goes on as the
paper (equation 16) and takes lambda off the product with the values; no dense kernel saves that, so `real` does not.
Milliseconds are the median over rounds of the sum over blocks. Images, or the windows of larger ones and the slices
of volumes, are grouped by the share of their pixels that is foreground.
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
    """One image and what was measured on it: macs and ms of self-attention, summed over blocks, by variant.

    dependencies is nan where no patch asks.
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
    parser.add_argument("--root", help="data.root, where it is not that of the training")
    parser.add_argument("--groups", type=int, default=3, help="groups of equal size, by share of foreground")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def variants(encoder: ViTEncoder) -> dict[str, ViTEncoder]:
    """The encoder as it is, with pruned rows only, and with nothing pruned."""
    rows, off = copy.deepcopy(encoder), copy.deepcopy(encoder)
    for other in (rows, off):
        for block in other.blocks:
            block.attn.dependencies = None
    off.gate = None
    return {"off": off, "rows": rows, "on": encoder}


def attention_calls(encoder: ViTEncoder, image: Tensor) -> tuple[Calls, dict[str, Tensor]]:
    """What every block's attention is called with on an image (1, C, *S), and the encoder's own numbers."""
    calls: Calls = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda module, given: calls.append((module, given[0], given[1])))
        for block in encoder.blocks
    ]
    aux = encoder(image).aux
    for hook in hooks:
        hook.remove()
    return calls, aux


def attention_macs(attention: AdaptiveAttention, *, num_tokens: int, num_queries: float, pruned: float) -> float:
    """MACs of one block's self-attention; `pruned`: the share of its products with values that is left out."""
    width, inner = attention.proj.out_features, attention.inner
    projections = (2 * num_tokens + num_queries) * width * inner + num_queries * inner * width
    return projections + num_queries * num_tokens * inner * (2 - pruned)


def measure(image: Tensor, *, foreground: float, networks: dict[str, ViTEncoder], repeats: int) -> Image:
    """One image (1, C, *S) through all variants in turn."""
    calls = {name: attention_calls(encoder, image) for name, encoder in networks.items()}
    watch = Stopwatch(image.device)
    for number in range(repeats + 1):
        if number == 1:  # the first round only warms up
            watch = Stopwatch(image.device)
        for name, (own, _) in calls.items():
            watch.time(name, lambda own=own: [attention(x, layout) for attention, x, layout in own])
    own, aux = calls["on"]
    N = own[0][1].shape[1]
    alpha = aux["queries_pruned"].item() if "queries_pruned" in aux else 0.0
    shares = [value.item() for name, value in aux.items() if name.startswith("dependencies_pruned_")]
    num_queries = (1 - alpha) * N
    macs = {
        "off": sum(attention_macs(call[0], num_tokens=N, num_queries=N, pruned=0.0) for call in own),
        "real": sum(attention_macs(call[0], num_tokens=N, num_queries=num_queries, pruned=0.0) for call in own),
        "counted": sum(
            attention_macs(call[0], num_tokens=N, num_queries=num_queries, pruned=share)
            for call, share in zip(own, shares or [0.0] * len(own), strict=True)
        ),
    }
    times = {name: median(values) for name, values in watch.samples.items()}
    return Image(foreground, alpha, mean(shares) if shares else math.nan, macs, times)


@torch.inference_mode()
def measure_split(data: SegmentationData, encoder: ViTEncoder, *, options: argparse.Namespace) -> list[Image]:
    """All images of a split, by rising share of foreground."""
    networks = variants(encoder)
    found = []
    for case in data.cases(options.split):
        volume = data.load_case(case)
        assert volume.label is not None
        images = all_windows(volume.image, size=data.roi_size, overlap=0.0)
        labels = all_windows(volume.label.unsqueeze(0), size=data.roi_size, overlap=0.0)
        for image, label in zip(images, labels, strict=True):
            share = (label > 0).float().mean().item()
            window = image.unsqueeze(0).to(options.device)
            found.append(measure(window, foreground=share, networks=networks, repeats=options.repeats))
    return sorted(found, key=lambda image: image.foreground)


def table(images: Sequence[Image], *, groups: int) -> str:
    """Markdown: a line for each group of images, and one for all."""
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
