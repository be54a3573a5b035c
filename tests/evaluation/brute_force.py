"""The metrics voxel by voxel, as their definitions say, and random masks to compare them on."""

import math

import numpy as np

from sct.evaluation.metrics import OVERLAPS


def brute_surface(mask):
    """Voxels with a face neighbour outside the mask or outside the image."""
    found = []
    for voxel in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = voxel.copy()
                other[axis] += step
                inside = 0 <= other[axis] < mask.shape[axis] and mask[tuple(other)]
                if not inside:
                    found.append(tuple(voxel))
    return np.array(sorted(set(found)))


def brute_distances(pred, truth, spacing):
    """From every voxel of each surface to the other surface."""
    a, b = brute_surface(pred) * np.array(spacing), brute_surface(truth) * np.array(spacing)
    pairs = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return pairs.min(1), pairs.min(0)


def brute_surfaces(pred, truth, spacing, tolerance):
    """HD95 and NSD, empty masks as the policy says."""
    if not pred.any() and not truth.any():
        return math.nan, math.nan
    if not pred.any() or not truth.any():
        return math.sqrt(sum((n * s) ** 2 for n, s in zip(pred.shape, spacing, strict=True))), 0.0
    there, back = brute_distances(pred, truth, spacing)
    both = np.concatenate([there, back])
    return max(np.percentile(there, 95), np.percentile(back, 95)), float((both <= tolerance).mean())


def brute_dice(pred, truth):
    a, b = {tuple(v) for v in np.argwhere(pred)}, {tuple(v) for v in np.argwhere(truth)}
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else math.nan


def brute_counts(pred, truth):
    """The policy and the confusion counts, voxel by voxel."""
    if not pred.any() and not truth.any():
        return dict.fromkeys(OVERLAPS, math.nan)
    if not pred.any() or not truth.any():
        return dict.fromkeys(OVERLAPS, 0.0)
    pairs = list(zip(pred.ravel().tolist(), truth.ravel().tolist(), strict=True))
    tp, tn = pairs.count((True, True)), pairs.count((False, False))
    fp, fn = pairs.count((True, False)), pairs.count((False, True))
    return {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "accuracy": (tp + tn) / len(pairs),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp) if tn + fp else 1.0,
    }


def random_mask(rng, shape):
    kind = rng.integers(5)
    if kind == 0:
        return np.zeros(shape, bool)
    if kind == 1:
        return np.ones(shape, bool)
    if kind == 2:
        mask = np.zeros(shape, bool)
        mask[tuple(rng.integers(n) for n in shape)] = True
        return mask
    if kind == 3:
        grid = np.indices(shape)
        centre = [rng.uniform(0, n) for n in shape]
        return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < rng.uniform(1, 4) ** 2
    return rng.random(shape) < rng.uniform(0.05, 0.9)
