"""Look-alike phantoms: identical blobs, told apart only by the side of a distant slab on which they lie."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

NAMES = ("blob_left_of_slab", "blob_right_of_slab")


def draw(
    *, shape: Sequence[int], voxel_size: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Image (X, Y, Z) float32 in HU and label uint8: a slab perpendicular to x, a pair of blobs beside it."""
    place = [(np.arange(n) - (n - 1) / 2) * size for n, size in zip(shape, voxel_size, strict=True)]
    world = np.meshgrid(*place, indexing="ij", sparse=True)
    half = [n * size / 2 for n, size in zip(shape, voxel_size, strict=True)]
    slab = rng.uniform(-0.15, 0.15) * half[0]
    image = np.full(shape, 40.0)
    image[np.broadcast_to(np.abs(world[0] - slab) < 3.0, shape)] = 400.0
    label = np.zeros(shape, dtype=np.uint8)
    for value, side in ((1, -1.0), (2, 1.0)):
        reach = half[0] - side * slab
        centre = np.array([slab + side * rng.uniform(0.4, 0.75) * reach, *rng.uniform(-0.6, 0.6, 2) * half[1:]])
        inside = sum((x - c) ** 2 for x, c in zip(world, centre, strict=True)) < 8.0**2
        image[np.broadcast_to(inside, shape)] = 200.0
        label[np.broadcast_to(inside, shape)] = value
    image = ndimage.gaussian_filter(image, 0.5) + rng.normal(0.0, 15.0, shape)
    return image.astype(np.float32), label
