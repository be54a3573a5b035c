"""From facts about a data set and a machine to the settings of a first training, each with its reason.

Pure functions: the same facts give the same plan. The rules as a table: docs/explanation/plan.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sct.planning.augment import augmentation, has_sides
from sct.planning.choice import Choice, choose
from sct.planning.facts import SetFacts
from sct.planning.grid import Sizes, plan_grid
from sct.planning.intensity import BODY, intensity_choices, kind_of
from sct.planning.machine import Machine
from sct.planning.network import batch_for, fits_in_memory, ratio_for, size_for, steps_for


@dataclass(frozen=True)
class Plan:
    """Settings of the data set, chosen files of the other groups, and all other settings."""

    data: tuple[Choice, ...]
    groups: tuple[Choice, ...]
    settings: tuple[Choice, ...]


def make_plan(facts: SetFacts, *, machine: Machine, given: Mapping[str, Any]) -> Plan:
    """given: settings of the data set that the user chose, by key; the rules follow them."""
    grid, sizes = plan_grid(facts, machine=machine, given=given)
    crops = plan_crops(facts, sizes, machine=machine, given=given)
    data = {choice.key: choice for choice in (*grid, *intensity_choices(facts, given=given), *crops)}
    voxels = data["batch_size"].value * data["crops_per_volume"].value * math.prod(sizes.window)
    groups, settings = plan_network(facts, sizes, machine=machine)
    return Plan(
        tuple(data.values()),
        tuple(groups),
        (
            *settings,
            *plan_inference(facts, augment=data["augment"].value, crop_above=data["crop_above"].value),
            *plan_training(machine, voxels=voxels),
        ),
    )


def plan_crops(facts: SetFacts, sizes: Sizes, *, machine: Machine, given: Mapping[str, Any]) -> list[Choice]:
    """Windows of a step, where they lie, what is varied in them, and where the prepared cases are kept."""
    sided = has_sides(facts.classes)
    transforms, why = augmentation(
        kind=kind_of(facts),
        coloured=facts.coloured,
        mirrored=not sided,
        spacing=sizes.spacing,
        window=sizes.window,
        whole=sizes.is_whole,
    )
    mirrored = "not mirrored, since classes are of one side of the body" if sided else "mirrored left to right"
    in_memory = fits_in_memory(machine, shape=sizes.shape, num_channels=facts.num_channels, num_cases=facts.num_cached)
    room = f"half of the main memory ({machine.main_memory:.0f} GiB)"
    return [
        choose(
            "batch_size",
            batch_for(machine, window=sizes.window),
            f"windows of a step, each of another case: what {machine} trains in reasonable time",
            given=given,
        ),
        choose("crops_per_volume", 1, "different cases vary more than windows of the same", given=given),
        choose(
            "positive_share", 0.5, "half of the windows are centred on a class, the others lie anywhere", given=given
        ),
        choose("crop_centre", "class", "a small class is seen as often as a large one", given=given),
        choose("augment", transforms, f"{mirrored}; {why}", given=given),
        choose(
            "cache",
            "memory" if in_memory else "disk",
            f"the prepared cases {'fit' if in_memory else 'do not fit'} into {room}",
            given=given,
        ),
    ]


def plan_network(facts: SetFacts, sizes: Sizes, *, machine: Machine) -> tuple[list[Choice], list[Choice]]:
    """The files of encoder, completion, decoder and loss, and the settings of encoder, pruning and optimizer."""
    size = size_for(machine, num_cases=facts.num_cases)
    ratio = ratio_for(facts.patches, num_stages=len(size.blocks))
    seen = f"about {facts.patches:.0%} of the patches hold any foreground"
    pruning = []
    if ratio is None:
        encoder = Choice("encoder", "dense", f"{seen}: too many to drop tokens")
        completion = Choice("completion", "scatter", "nothing was dropped that must be brought back")
    else:
        kept = (1 - ratio) ** len(size.blocks)
        encoder = Choice("encoder", "stp_taught", f"{seen}, so that tokens can be dropped on the way")
        completion = Choice("completion", "mta", "brings dropped tokens back")
        pruning = [
            Choice("pruning.blocks", list(size.blocks), "blocks after which tokens are dropped"),
            Choice("pruning.ratio", ratio, f"of the tokens at each of them: {kept:.0%} stay to the end; {seen}"),
        ]
    groups = [
        encoder,
        completion,
        Choice("decoder", "thin", "the fast decoder: boundaries from the image, the rest from tokens"),
        Choice(
            "loss",
            "dice_bce" if facts.overlapping else "dice_ce",
            "regions overlap: each is a yes or no of its own" if facts.overlapping else "classes exclude each other",
        ),
        Choice("inferer", "fast", "whole images in little memory"),
    ]
    return groups, [
        *pruning,
        plan_patch(sizes, unit=facts.unit),
        Choice("encoder.dim", size.dim, size.reason),
        Choice("encoder.depth", size.depth, "blocks of this ViT"),
        Choice("encoder.num_heads", size.num_heads, "heads of this ViT"),
        Choice("encoder.taps", 0, "the decoder reads the last tokens alone"),
        Choice("optimizer.lr", size.lr, "a narrower network learns with larger steps"),
        Choice("optimizer.layer_decay", 1.0, "all layers start at random and learn at the same rate"),
    ]


def plan_patch(sizes: Sizes, *, unit: str) -> Choice:
    """The voxels of a token: a number, or a number for each axis where voxels are longer along some of them."""
    reason = f"{sizes.num_tokens} tokens in a window"
    if len(set(sizes.patch)) == 1:
        return Choice("encoder.patch_size", sizes.patch[0], reason)
    sides = " x ".join(f"{edge * side:.3g}" for edge, side in zip(sizes.patch, sizes.spacing, strict=True))
    reason += f"; fewer voxels along an axis with long voxels, so that a patch is nearer to a cube: {sides} {unit}"
    return Choice("encoder.patch_size", list(sizes.patch), reason)


def plan_inference(facts: SetFacts, *, augment: Mapping[str, Any], crop_above: float | None) -> list[Choice]:
    """How whole images are predicted."""
    flips = [node["spatial_axis"] for node in augment.values() if node and node["_target_"].endswith("RandFlipd")]
    choices = [
        Choice(
            "inferer.mirror_axes",
            sorted(flips),
            "averaged over mirrored images, as in training" if flips else "no mirroring, as in training",
        )
    ]
    if crop_above is not None and min(one.low for one in facts.foreground) < BODY:
        choices.append(Choice("inferer.skip_below", None, "labels reach into air: no window is skipped as empty"))
    return choices


def plan_training(machine: Machine, *, voxels: int) -> list[Choice]:
    """Length and records of the training; voxels: of all windows of a step."""
    steps = steps_for(machine, voxels=voxels)
    times = "about an hour on a free core or two" if machine.device == "cpu" else "some hours on a GPU"
    often = 10 * round(steps / 180)
    choices = [
        Choice("schedule.warmup_steps", max(20, 10 * round(steps / 450)), "a short warm-up"),
        Choice("trainer.max_steps", steps, f"{times}, for a first result; more steps are better"),
        Choice("trainer.validate_every", often, "the best of 18 validations is kept"),
        Choice("trainer.save_every", often, "what a crash costs at most"),
    ]
    if machine.device == "cuda":
        choices.append(Choice("trainer.clip_norm", 1.0, "deep networks are trained so"))
    return choices
