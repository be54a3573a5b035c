"""What HD95 and the normalised surface Dice (NSD) cost beside MONAI's, on organs of a CT.

    python scripts/benchmark_metrics.py                              # 512 x 512 x 147 voxels of 0.8 x 0.8 x 2.5 mm
    python scripts/benchmark_metrics.py --shape 256 256 80 --repeats 3

A truth and a prediction for each organ: ellipsoids with rough edges; `far` is a liver moved by 9 x 9 x 2 voxels, as no
trained network predicts it. One pass gives both scores here, MONAI computes each by itself: the first ratio is to both
of MONAI's, the second one to its HD95 alone. The masks have the size of the image, as an evaluation has them.

Programs take turns, so that other load on the machine meets both, on one thread; medians of the processor's time are
compared. The scores must be equal, or the script ends with status 1.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from sct.evaluation.metrics import surface_pair
from sct.profiling.timing import device_name

SPACING = (0.8, 0.8, 2.5)
# centre and half axes as shares of the image, and how rough the edge is
ORGANS = {
    "liver": ((0.35, 0.49, 0.6), (0.215, 0.176, 0.218), 0.05),
    "adrenal": ((0.49, 0.51, 0.68), (0.027, 0.02, 0.054), 0.2),
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 147])
    parser.add_argument("--tolerance", type=float, default=1.0, help="of NSD, in mm")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(argv)


def rough_ellipsoid(shape: Sequence[int], organ: str, *, seed: int) -> np.ndarray:
    """A mask (*S) of an organ, drawn in the part of the image where it is."""
    centre, radii, rough = ORGANS[organ]
    centre, radii = (np.asarray(part) * shape for part in (centre, radii))
    first = np.maximum(centre - 1.4 * radii - 1, 0).astype(int)
    last = np.minimum(centre + 1.4 * radii + 2, shape).astype(int)
    axes = [np.arange(a, b) for a, b in zip(first, last, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    field = sum(((place - c) / r) ** 2 for place, c, r in zip(grid, centre, radii, strict=True))
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(field.shape), [6, 6, 3])
    mask = np.zeros(shape, bool)
    mask[tuple(map(slice, first, last))] = field + rough * noise / noise.std() < 1
    return mask


def make_cases(shape: Sequence[int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Prediction and truth by name."""
    cases = {name: tuple(rough_ellipsoid(shape, name, seed=seed) for seed in (0, 1)) for name in ORGANS}
    pred, truth = cases["liver"]
    return {**cases, "far": (np.roll(pred, (9, 9, 2), axis=(0, 1, 2)), truth)}


def programs(pred: np.ndarray, truth: np.ndarray, *, tolerance: float) -> dict[str, Callable[[], tuple[float, ...]]]:
    """What is timed, by name; each gives its scores."""
    tensors = [torch.from_numpy(mask)[None, None] for mask in (pred, truth)]
    common = {"include_background": True, "spacing": list(SPACING)}
    return {
        "ours": lambda: surface_pair(pred, truth, spacing=SPACING, tolerance=tolerance),
        "hd95": lambda: (compute_hausdorff_distance(*tensors, percentile=95, **common).item(),),
        "nsd": lambda: (compute_surface_dice(*tensors, class_thresholds=[tolerance], **common).item(),),
    }


def measure(runs: dict[str, Callable], *, repeats: int) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:
    """Median seconds and the scores by name; the programs take turns, and a first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    scores = {}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            scores[name] = run()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: median(own) for name, own in seconds.items()}, scores


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="monai")
    print(f"{device_name(torch.device('cpu'))}, one thread; {options.shape} voxels, tolerance {options.tolerance} mm\n")
    print("| organ | HD95 mm | NSD | ours s | MONAI HD95 s | MONAI NSD s | times both | times HD95 alone |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    is_equal = True
    for name, (pred, truth) in make_cases(options.shape).items():
        runs = programs(pred, truth, tolerance=options.tolerance)
        seconds, scores = measure(runs, repeats=options.repeats)
        ours, theirs = scores["ours"], (*scores["hd95"], *scores["nsd"])
        is_equal &= bool(np.allclose(ours, theirs, rtol=1e-5))
        both = (seconds["hd95"] + seconds["nsd"]) / seconds["ours"]
        print(
            f"| {name} | {ours[0]:.2f} | {ours[1]:.4f} | {seconds['ours']:.3f} | {seconds['hd95']:.3f} "
            f"| {seconds['nsd']:.3f} | {both:.1f} | {seconds['hd95'] / seconds['ours']:.1f} |"
        )
    if not is_equal:
        sys.exit("The scores differ from MONAI's.")


if __name__ == "__main__":
    main()
