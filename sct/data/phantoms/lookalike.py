"""Look-alike phantoms: identical organs, told apart only by the side of a distant slab on which they lie.

The volume is a grid of bars along x. Each bar holds one organ near the middle of x and one slab, left or right
of it; the class of the organ is the side. Nothing else may tell the class, so that a network must relate two
distant places, as attention does and a decoder's convolutions cannot:

* place and shape: organs of both classes follow the same law;
* neighbourhood: `GAP` is wider than the convolutions reach (4 voxels each way for UNETR at patch 2, 9 at patch 4,
  21 at patch 8: choose the voxel size accordingly);
* statistics of a crop, which instance norms spread over it: bars that lie side by side in y form a pair, alike
  but for a fair coin that says which of the two has its slab left; the other has it right. One slab for the whole
  volume would not do: its place reaches every voxel through the norms, and no transformer is needed.

Organ and slab of a bar cover the same y and z: every crop that spans x and holds an organ holds its slab.
All lengths are in mm. The longer x, the wider the organs' range, and the harder the task.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from sct.errors import UserError

NAMES = ("organ_left_of_slab", "organ_right_of_slab")

TISSUE_HU, ORGAN_HU, SLAB_HU, NOISE_HU = 40.0, -160.0, 300.0, 15.0
PITCH = (8.0, 16.0)  # of the bars in y and z
MARGIN = 2.0  # tissue between neighbouring bars
ORGAN = 8.0  # extent in x
SLAB = 4.0  # extent in x
GAP = (10.0, 12.0)  # in x, between the faces of organ and slab
REACH = ORGAN / 2 + GAP[1] + SLAB  # from the middle of an organ to the far face of its slab


def draw(
    *, shape: Sequence[int], voxel_size: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Image (X, Y, Z) float32 in HU and label uint8: 0, or 1 + index in `NAMES`.

    Raises `UserError` where x is too short for a slab on either side, or y and z for one pair of bars.
    """
    size = [n * step for n, step in zip(shape, voxel_size, strict=True)]
    least = [2 * REACH, 2 * PITCH[0], PITCH[1]]
    if any(have < need for have, need in zip(size, least, strict=True)):
        raise UserError(
            f"data.shape={list(shape)} of data.voxel_size={list(voxel_size)} mm spans {size} mm, but "
            f"data.lookalikes=true needs at least {least} mm; enlarge data.shape."
        )
    x, y, z = (np.arange(n) * step + step / 2 for n, step in zip(shape, voxel_size, strict=True))
    image = np.full(shape, TISSUE_HU)
    label = np.zeros(shape, dtype=np.uint8)
    for start_y, start_z in pairs(size):
        middle = rng.uniform(REACH, size[0] - REACH)
        distance = ORGAN / 2 + rng.uniform(*GAP) + SLAB / 2
        organ = np.abs(x - middle) < ORGAN / 2
        inside_z = inside(z, start_z, PITCH[1])
        for place, value in enumerate(rng.permutation([1, 2])):
            inside_y = inside(y, start_y + place * PITCH[0], PITCH[0])
            slab = np.abs(x - middle - (distance if value == 1 else -distance)) < SLAB / 2
            image[np.ix_(organ, inside_y, inside_z)] = ORGAN_HU
            label[np.ix_(organ, inside_y, inside_z)] = value
            image[np.ix_(slab, inside_y, inside_z)] = SLAB_HU
    return (image + rng.normal(0.0, NOISE_HU, shape)).astype(np.float32), label


def pairs(size: Sequence[float]) -> Iterator[tuple[float, float]]:
    """First corner (y, z) in mm of every pair of bars that fits into a volume of `size` mm."""
    for i in range(int(size[1] // (2 * PITCH[0]))):
        for j in range(int(size[2] // PITCH[1])):
            yield 2 * i * PITCH[0], j * PITCH[1]


def inside(place: np.ndarray, start: float, pitch: float) -> np.ndarray:
    """Which places of an axis a bar that starts at `start` covers."""
    return (place > start) & (place < start + pitch - MARGIN)
