"""What is known of tokens: how many are alive, what of the foreground is kept, the pruning method's own numbers.

Letters: B batch, N tokens of the grid, n tokens alive.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from sct.models.grid import foreground_patches, pruning_depth
from sct.models.patch import Extent
from sct.models.tokens import Prediction


@torch.no_grad()
def token_statistics(prediction: Prediction, label: Tensor, *, patch_size: Extent) -> dict[str, float]:
    """`kept_shares` and `alive_spread` of a batch with labels (B, *S), and the pruning method's own numbers, such
    as thresholds; of those that it has for every image the mean. The decoder's own likewise.

    Where dropped tokens re-enter, `tokens/alive_reentered` is the number alive from then on, mean over the images.
    Empty where nothing is pruned or skipped.
    """
    encoded, numbers = prediction.encoded, method_numbers(prediction)
    if not encoded.num_depths:
        return numbers
    foreground = foreground_patches(label, patch_size=patch_size)
    shares = kept_shares(pruning_depth(encoded), foreground, num_stages=encoded.num_depths)
    row = {**shares, **alive_tokens(prediction), **alive_spread(encoded.alive[: encoded.num_depths])}
    if len(encoded.alive) > encoded.num_depths:
        row["tokens/alive_reentered"] = encoded.alive[-1].mean().item()
    return {**row, **numbers}


def method_numbers(prediction: Prediction) -> dict[str, float]:
    """The pruning method's and the decoder's numbers; those of images as means over the images that have them."""
    parts = {"reducer": prediction.encoded.aux, "decoder": prediction.aux}
    numbers = {f"{part}/{name}": value for part, aux in parts.items() for name, value in aux.items()}
    values = {name: value.float().nanmean().item() for name, value in numbers.items() if value.ndim <= 1}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def known_means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means by name over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: fmean(row[name] for row in rows if name in row) for name in names}


def alive_spread(alive: list[Tensor]) -> dict[str, float]:
    """Fewest and most tokens alive in an image of the batch after every stage; alive: (B,) a stage."""
    row: dict[str, float] = {}
    for stage, counts in enumerate(alive, start=1):
        row |= {f"tokens/fewest_{stage}": counts.min().item(), f"tokens/most_{stage}": counts.max().item()}
    return row


def kept_shares(depth: Tensor, foreground: Tensor, *, num_stages: int, unit: str = "tokens") -> dict[str, float]:
    """Shares of all patches and of foreground patches that each pruning stage keeps.

    depth, foreground (B, *grid); depth is the number of stages that a patch survived. unit: first part of the names,
    `tokens` of a window and `patches` of a whole image. The share of foreground patches is left out where there is no
    foreground. A random choice keeps the same share of both.
    """
    row = {}
    for stage in range(1, num_stages + 1):
        alive = depth >= stage
        row[f"{unit}/kept_{stage}"] = alive.float().mean().item()
        if foreground.any():
            row[f"{unit}/foreground_kept_{stage}"] = (alive & foreground).sum().item() / foreground.sum().item()
    return row


def alive_tokens(prediction: Prediction) -> dict[str, float]:
    """Tokens of a window that are alive after each pruning stage: number and share, means over the batch."""
    depth = pruning_depth(prediction.encoded)
    row = {}
    for stage in range(1, prediction.encoded.num_depths + 1):
        alive = (depth >= stage).float()
        row[f"tokens/alive_{stage}"] = alive.sum().item() / len(depth)
        row[f"tokens/kept_{stage}"] = alive.mean().item()
    return row
