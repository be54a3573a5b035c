"""Which network a machine trains in reasonable time: width, pruning, windows of a step, number of steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sct.planning.machine import GIB, Machine

# share of a device's memory that a training may take
USED_MEMORY = 0.6
# bytes that a step of training takes for each voxel of its windows, of decoder=thin and the encoders below: in fp32 on
# a processor, in bf16 on a GPU
BYTES_PER_VOXEL = {"cpu": 2500, "cuda": 1500}
# voxels of a window that up to 4 cores compute in a second or less; more cores take more, up to the second number
PROCESSOR_VOXELS, MOST_PROCESSOR_VOXELS = 64**3, 96**3
# the same of pixels: a flat window has less to compute than a volume of as many voxels, and more of them are seen
PROCESSOR_PIXELS, GPU_PIXELS = 224**2, 512**2
GPU_VOXELS = 128**3
# windows of a step
WINDOWS = {("cpu", 3): (2, 2), ("cpu", 2): (4, 4), ("cuda", 3): (2, 8), ("cuda", 2): (8, 32)}
# voxels of all steps together that a core computes in about an hour
PROCESSOR_TRAINING = 8e8
# pruned tokens are brought back from what is kept: more is kept than has any foreground, by this factor
MARGIN = 1.5
RATIOS = (0.75, 0.5, 0.25)


@dataclass(frozen=True)
class Size:
    """Width and depth of an encoder, where it prunes, and its learning rate.

    least_cases: training cases from which it is taken; least_memory: GiB of a GPU
    """

    dim: int
    depth: int
    num_heads: int
    blocks: tuple[int, ...]
    lr: float
    reason: str
    least_cases: int = 0
    least_memory: float = 0.0


SMALL = Size(192, 6, 6, (2, 4), 1e-3, "a small ViT, which a processor trains in an hour or so")
# the largest first
GPU_SIZES = (
    Size(768, 12, 12, (3, 6, 9), 2e-4, "ViT-B, for many cases and a large GPU", 400, 24.0),
    Size(384, 12, 6, (3, 6, 9), 4e-4, "ViT-S, which learns from tens to hundreds of cases"),
)


def size_for(machine: Machine, *, num_cases: int) -> Size:
    """The encoder of a machine and a number of training cases."""
    if machine.device == "cpu":
        return SMALL
    fitting = [size for size in GPU_SIZES if num_cases >= size.least_cases and machine.memory >= size.least_memory]
    return fitting[0]


def window_budget(machine: Machine, *, spatial_dims: int) -> float:
    """Voxels that a window may have: what a step's fewest windows leave memory and time for."""
    by_memory = memory_voxels(machine) / WINDOWS[machine.device, spatial_dims][0]
    return min(by_memory, most_voxels(machine, spatial_dims=spatial_dims))


def most_voxels(machine: Machine, *, spatial_dims: int) -> float:
    """Voxels of a window that a machine computes in reasonable time."""
    if machine.device == "cuda":
        return GPU_VOXELS if spatial_dims == 3 else GPU_PIXELS
    if spatial_dims == 2:
        return PROCESSOR_PIXELS
    return min(PROCESSOR_VOXELS * max(1.0, machine.cores / 4), MOST_PROCESSOR_VOXELS)


def memory_voxels(machine: Machine) -> float:
    """Voxels of all windows of a step that the memory holds."""
    return USED_MEMORY * machine.memory * GIB / BYTES_PER_VOXEL[machine.device]


def batch_for(machine: Machine, *, window: Sequence[int]) -> int:
    """Windows of a step: as many as the memory holds, within limits."""
    least, most = WINDOWS[machine.device, len(window)]
    return max(least, min(most, int(memory_voxels(machine) / math.prod(window))))


def ratio_for(patches: float, *, num_stages: int) -> float | None:
    """The largest share of tokens that every stage may drop so that enough is kept; None: nothing can be dropped.

    patches: share of the patches with any foreground
    """
    kept = MARGIN * patches
    return next((ratio for ratio in RATIOS if (1 - ratio) ** num_stages >= kept), None)


def steps_for(machine: Machine, *, voxels: int) -> int:
    """Steps of a first training; voxels: of all windows of a step."""
    if machine.device == "cuda":
        return 20_000
    return int(min(4500, max(1000, 50 * round(PROCESSOR_TRAINING / voxels / 50))))


def fits_in_memory(machine: Machine, *, shape: Sequence[int], num_channels: int, num_cases: int) -> bool:
    """Whether half of the main memory holds all prepared cases: float32 images, labels, places of the foreground."""
    return num_cases * math.prod(shape) * (4 * num_channels + 2) <= machine.main_memory * GIB / 2
