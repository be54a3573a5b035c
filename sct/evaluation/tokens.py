"""What is known of tokens: how many are alive, what of the foreground is kept, the pruning method's own numbers.

Letters: B batch, N tokens of the grid, n tokens alive.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.data.outputs import Outputs
from sct.models.grid import foreground_patches, pruning_depth
from sct.models.patch import Extent
from sct.models.reducers.base import hard_top_k
from sct.models.tokens import Prediction, Scores, gather_tokens
from sct.models.worth import boundary_patches


@torch.no_grad()
def token_statistics(
    prediction: Prediction, label: Tensor, *, patch_size: Extent, outputs: Outputs
) -> dict[str, float]:
    """`kept_shares` and `alive_spread` of a batch with labels (B, *S), and the pruning method's own numbers, such
    as thresholds; of those that it has for every image the mean. The decoder's own likewise.

    Patches are of foreground, of a boundary, or hold a voxel that is predicted wrongly. Where a stage draws noise,
    `tokens/foreground_chosen` is what its scores keep without, and `reducer/spread` their standard deviation.
    Where dropped tokens re-enter, `tokens/alive_reentered` is the number alive from then on, mean over the images.
    Empty where nothing is pruned or skipped.
    """
    encoded, numbers = prediction.encoded, method_numbers(prediction)
    if not encoded.num_depths:
        return numbers
    predicted = torch.stack([outputs.labels(logits) for logits in prediction.logits])
    kinds = patch_kinds(label, predicted, patch_size=patch_size)
    shares = kept_shares(pruning_depth(encoded), kinds, num_stages=encoded.num_depths)
    row = {**shares, **alive_tokens(prediction), **alive_spread(encoded.alive[: encoded.num_depths])}
    row |= chosen_shares(encoded.scores, kinds["foreground"])
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


def patch_kinds(label: Tensor, predicted: Tensor, *, patch_size: Extent) -> dict[str, Tensor]:
    """Patches with foreground, with a boundary and with a wrong voxel, of labels (B, *S): bool (B, *grid) by name."""
    return {
        "foreground": foreground_patches(label, patch_size=patch_size),
        "boundary": boundary_patches(label, patch_size=patch_size),
        "wrong": foreground_patches((label != predicted).long(), patch_size=patch_size),
    }


def kept_shares(
    depth: Tensor, kinds: Mapping[str, Tensor], *, num_stages: int, unit: str = "tokens"
) -> dict[str, float]:
    """Shares of all patches, and of the patches of each kind, that each pruning stage keeps.

    depth, and each of `kinds`, (B, *grid); depth is the number of stages that a patch survived. unit: first part of
    the names, `tokens` of a window and `patches` of a whole image. A kind without a patch is left out. A random choice
    keeps the same share of each.
    """
    row = {}
    for stage in range(1, num_stages + 1):
        alive = depth >= stage
        row[f"{unit}/kept_{stage}"] = alive.float().mean().item()
        for name, patches in kinds.items():
            if patches.any():
                row[f"{unit}/{name}_kept_{stage}"] = (alive & patches).sum().item() / patches.sum().item()
    return row


def chosen_shares(scores: Sequence[Scores], foreground: Tensor) -> dict[str, float]:
    """Of each stage the share of the foreground patches it sees that its scores keep without noise, and their spread.

    foreground (B, *grid). A stage that sees no foreground has no share.
    """
    row = {}
    # tokens without a place (index N), such as EViT's fused token, are no foreground
    places = F.pad(foreground.flatten(1), (0, 1))
    for number, stage in enumerate(scores, start=1):
        values = (stage.values if stage.ranks is None else stage.ranks).detach()
        ranked = torch.ones_like(values, dtype=torch.bool) if stage.alive is None else stage.alive.detach() > 0
        worth = gather_tokens(places, stage.index) & ranked
        chosen = hard_top_k(values.masked_fill(~ranked, -torch.inf), k=stage.num_kept).bool()
        if worth.any():
            row[f"tokens/foreground_chosen_{number}"] = (chosen & worth).sum().item() / worth.sum().item()
        row[f"reducer/spread_{number}"] = values.std(dim=1, correction=0).mean().item()
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
