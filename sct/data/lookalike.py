"""Look-alike phantoms: identical organs, told apart only by the side of a distant slab on which they lie.

A volume is a grid of columns along x, each with one slab (across the column) and one organ. The class of the
organ is the sign of its distance from the slab of its own column; everything else is the same for both classes:

* the organ's place, size and intensity: x is drawn first, uniformly, then the side by a fair coin, then the slab;
* what its neighbourhood shows: between organ and slab lies a gap wider than the decoder's convolutions reach;
* the statistics of a crop: every column has one slab and one organ of the same law, the columns are independent.

Slab and organ of a column cover the same y and z, so a crop that spans x and holds some of an organ holds
some of its slab. Lengths are in mm; `GAP` at 2 mm is at least 11 voxels.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from sct.errors import UserError

NAMES = ("organ_left_of_slab", "organ_right_of_slab")

TISSUE_HU, ORGAN_HU, SLAB_HU, NOISE_HU = 40.0, -120.0, 260.0, 15.0
PITCH = 32.0  # of the columns, in y and z
SLAB_WIDTH = 28.0  # in y and z; tissue between the slabs of neighbours
SLAB_HALF = 4.0  # thickness in x
ORGAN_WIDTH = 26.0  # in y and z
ORGAN_HALF = (6.0, 9.0)  # semi-axis in x
GAP = (23.0, 29.0)  # in x, between the faces of organ and slab; partial voxels take off less than 1 mm
REACH = ORGAN_HALF[1] + GAP[1] + 2 * SLAB_HALF  # from the organ's centre to the far face of its slab


def draw(
    *, shape: Sequence[int], voxel_size: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Image (X, Y, Z) float32 in HU and label uint8 (0, or 1 + index in `NAMES`).

    Raises `UserError` when x is too short for slabs on both sides of an organ, y or z for one column.
    """
    size = np.array(shape) * np.array(voxel_size)
    least = np.array([2 * REACH + 2 * ORGAN_HALF[1], PITCH, PITCH])
    if (size < least).any():
        raise UserError(
            f"data.shape={list(shape)} at data.voxel_size={list(voxel_size)} mm is {size.tolist()} mm large; "
            f"data.lookalikes=true needs at least {least.tolist()} mm."
        )
    x, y, z = (np.arange(n) * step + step / 2 for n, step in zip(shape, voxel_size, strict=True))
    image = np.full(shape, TISSUE_HU)
    label = np.zeros(shape, dtype=np.uint8)
    for centre_y, centre_z in columns(size):
        organ_x = rng.uniform(REACH, size[0] - REACH)
        half, gap = rng.uniform(*ORGAN_HALF), rng.uniform(*GAP)
        value = int(rng.integers(1, 3))
        slab_x = organ_x + (half + gap + SLAB_HALF) * (1 if value == 1 else -1)
        slab = within(x - slab_x, SLAB_HALF)[:, None, None] & (
            within(y - centre_y, SLAB_WIDTH / 2)[:, None] & within(z - centre_z, SLAB_WIDTH / 2)
        )
        image[slab] = SLAB_HU
        squared = ((y - centre_y)[:, None] ** 2 + (z - centre_z) ** 2) / (ORGAN_WIDTH / 2) ** 2
        organ = ((x - organ_x) / half)[:, None, None] ** 2 + squared < 1
        image[organ] = ORGAN_HU
        label[organ] = value
    image = ndimage.gaussian_filter(image, 0.5, truncate=2.0) + rng.normal(0.0, NOISE_HU, shape)
    return image.astype(np.float32), label


def columns(size: np.ndarray) -> Iterator[tuple[float, float]]:
    """Centres (y, z) in mm of the columns that fit into a volume of `size` mm."""
    for i in range(int(size[1] // PITCH)):
        for j in range(int(size[2] // PITCH)):
            yield (i + 0.5) * PITCH, (j + 0.5) * PITCH


def within(distance: np.ndarray, half: float) -> np.ndarray:
    return np.abs(distance) < half
