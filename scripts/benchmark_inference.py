"""Costs of whole-volume inference without the network: compares the reference and the fast inferer.

    python scripts/benchmark_inference.py --threads 1          # 270 x 270 x 220 voxels, 14 classes, windows of 96
    python scripts/benchmark_inference.py --shape 160 160 160 --source 320 320 100 --repeats 3

The network is trivial, and its time is subtracted: the rest is stitching, decisions and regridding to the source grid.
The runs take turns, so that other load on the machine affects all of them; medians are compared. Peak memory is
measured in a fresh process for each inferer, without the memory before the run (the volume, and the packages).

name        what is timed
whole       from the image to the label map on the source grid
stitching   from windows to logits, for one window
deciding    from logits to labels on the same grid
regridding  from the logits of the whole image to the label map on the source grid; `all voxels` interpolates the
            logits of every voxel with grid_sample, `borders` only in cells with different corners
"""

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sct.data.cases import Volume
from sct.data.outputs import numbered
from sct.inference import FastSlidingWindow, Inferer, Request, SlidingWindow, predict_volume, to_source_grid
from sct.inference.sliding import chunks_of
from sct.inference.tiling import window_starts
from sct.profiling.timing import Stopwatch, device_name, peak_memory_mb

SLICE_VOXELS = 500_000


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[270, 270, 220], help="voxels after preprocessing")
    parser.add_argument("--source", type=int, nargs=3, default=[512, 512, 150], help="voxels of the file")
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--half", action="store_true", help="the network gives bf16, as under autocast")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def smooth(shape: Sequence[int], *, every: int) -> Tensor:
    """A smooth random field (1, *shape): independent values every `every` voxels, interpolated between them."""
    coarse = torch.randn(1, 1, *(max(2, size // every) for size in shape))
    return functional.interpolate(coarse, size=tuple(shape), mode="trilinear")[0]


def make_volume(options: argparse.Namespace) -> Volume:
    """An image of class numbers in blobs, with noise; its file has another spacing and axes L, A, S."""
    torch.manual_seed(0)
    best = torch.full((1, *options.shape), 1.2)  # threshold above which a field replaces the background
    image = torch.zeros_like(best)
    for value in range(1, options.classes):
        field = smooth(options.shape, every=40)
        image.masked_fill_(field > best, value)
        best = torch.maximum(best, field)
    image += 0.3 * smooth(options.shape, every=4)
    relative = np.eye(4)
    for axis, (size, source) in enumerate(zip(options.shape, options.source, strict=True)):
        relative[axis, axis], relative[axis, 3] = size / source, (size / source - 1) / 2
    relative[0] = -relative[0] + [0, 0, 0, options.shape[0] - 1]
    return Volume(image, None, np.eye(4), tuple(options.source), relative)


class Trivial:
    """A network whose largest logit is the class number closest to a voxel's value; `seconds`: its total time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.classes = torch.arange(options.classes, device=options.device).reshape(-1, 1, 1, 1)
        self.dtype = torch.bfloat16 if options.half else torch.float32
        self.seconds = 0.0

    def __call__(self, windows: Tensor) -> Tensor:
        start = time.perf_counter()
        logits = (windows - self.classes).square_().neg_().to(self.dtype)
        if windows.is_cuda:
            torch.cuda.synchronize(windows.device)
        self.seconds += time.perf_counter() - start
        return logits


def make_inferers(options: argparse.Namespace) -> dict[str, Inferer]:
    shared = {"overlap": options.overlap, "batch_size": options.batch}
    return {
        "reference": SlidingWindow(**shared),
        "fast": FastSlidingWindow(**shared),
        "fast, float16": FastSlidingWindow(**shared, accumulate="float16"),
        "fast, bfloat16": FastSlidingWindow(**shared, accumulate="bfloat16"),
    }


def interpolate_all(logits: Tensor, volume: Volume) -> np.ndarray:
    """Labels on the source grid by interpolating the logits (Q, *S) of every source voxel."""
    relative = np.linalg.inv(volume.affine) @ volume.source_affine
    axes = [  # grid_sample's coordinates: -1 and 1 are the outer faces of the first and the last voxel
        torch.tensor((2 * (relative[axis, axis] * np.arange(length) + relative[axis, 3]) + 1) / size - 1).float()
        for axis, (size, length) in enumerate(zip(logits.shape[1:], volume.source_shape, strict=True))
    ]
    labels = np.empty(volume.source_shape, np.uint8)
    rows = max(1, SLICE_VOXELS // (labels.size // len(labels)))
    for start in range(0, len(labels), rows):
        places = torch.stack(torch.meshgrid(axes[0][start : start + rows], *axes[1:], indexing="ij")[::-1], dim=-1)
        places = places.to(logits.device)[None]
        sampled = functional.grid_sample(logits[None], places, padding_mode="border", align_corners=False)[0]
        labels[start : start + rows] = numbered(len(logits)).labels(sampled).cpu().numpy()
    return labels


def whole(inferer: Inferer, network: Trivial, volume: Volume, options: argparse.Namespace) -> np.ndarray:
    outputs, roi_size = numbered(options.classes), [options.window] * 3
    device = torch.device(options.device)
    return predict_volume(network, volume, inferer, roi_size=roi_size, outputs=outputs, device=device)


def measure(options: argparse.Namespace, volume: Volume) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Median milliseconds by name, and the label maps by inferer."""
    device, outputs, network = torch.device(options.device), numbered(options.classes), Trivial(options)
    request = Request([options.window] * 3, outputs.background, device)
    starts = window_starts(options.shape, [options.window] * 3, overlap=options.overlap)
    num_windows = math.prod(len(along) for along in starts)
    grids = {"affine": volume.affine, "source_shape": volume.source_shape, "source_affine": volume.source_affine}
    samples: dict[str, list[float]] = {}
    watch = Stopwatch(device)

    def timed(name: str, run: Callable[[], object], *, over: int = 1) -> object:
        network.seconds = 0.0
        result = watch.time(name, run)
        samples.setdefault(name, []).append((watch.samples[name][-1] - 1e3 * network.seconds) / over)
        return result

    labels = {}
    for _ in range(options.repeats):
        for name, inferer in make_inferers(options).items():
            labels[name] = timed(f"whole: {name}", lambda inferer=inferer: whole(inferer, network, volume, options))
            timed(
                f"stitching, a window: {name}",
                lambda inferer=inferer: [None for _ in inferer.chunks(network, volume.image, request)],
                over=num_windows,
            )
        logits = make_inferers(options)["reference"](network, volume.image, request)
        timed("deciding: torch.argmax", lambda logits=logits: logits.argmax(dim=0))
        timed("deciding: chunks", lambda logits=logits: [outputs.labels(chunk.logits) for chunk in chunks_of(logits)])
        labels["all voxels"] = timed("regridding: all voxels", lambda logits=logits: interpolate_all(logits, volume))
        labels["borders"] = timed(
            "regridding: borders", lambda logits=logits: to_source_grid(logits, outputs=outputs, **grids)
        )
        del logits
    return {name: median(values) for name, values in samples.items()}, labels


def table(times: dict[str, float]) -> str:
    """Medians, and the time of the first of each kind (the name before the colon) divided by each time."""
    first: dict[str, float] = {}
    lines = [f"{'':<36}{'ms':>10}{'first of its kind / this':>28}"]
    for name in sorted(times, key=lambda name: name.partition(":")[0]):
        against = first.setdefault(name.partition(":")[0], times[name])
        lines.append(f"{name:<36}{times[name]:>10.1f}{against / times[name]:>28.2f}")
    return "\n".join(lines)


def peak_of(name: str, options: argparse.Namespace) -> float | None:
    """Peak memory of one prediction in MiB; run in a fresh process."""
    if options.threads:
        torch.set_num_threads(options.threads)
    inferer, volume, network = make_inferers(options)[name], make_volume(options), Trivial(options)
    return peak_memory_mb(lambda: whole(inferer, network, volume, options), torch.device(options.device))


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    volume = make_volume(options)
    times, labels = measure(options, volume)
    setting = {**vars(options), "threads": torch.get_num_threads(), "name": device_name(torch.device(options.device))}
    print(", ".join(f"{key}={value}" for key, value in setting.items()))
    print(table(times))
    for name in ("fast", "fast, float16", "fast, bfloat16"):
        print(f"labels of {name} equal to the reference: {100 * (labels[name] == labels['reference']).mean():.4f} %")
    print(f"labels of borders equal to all voxels: {100 * (labels['borders'] == labels['all voxels']).mean():.6f} %")
    for name in make_inferers(options):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(peak_of, (name, options))
        print(f"peak memory of {name}: {'unknown' if peak is None else f'{peak:.0f} MiB'}")


if __name__ == "__main__":
    main()
