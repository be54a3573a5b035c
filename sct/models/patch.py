"""The size of a patch along each axis, and the steps between the token grid and the image: pure functions.

Letters: D axes of the image (2 or 3), m steps. Level i is the resolution after i steps from the image: level 0 is the
image, level m is the token grid.
"""

from collections.abc import Sequence

from sct.errors import UserError

# extent along each axis (D,): voxels of a patch, factors of a step, or places of a kernel
Extent = tuple[int, ...]


def patch_sizes(value: int | Sequence[int], *, num_axes: int, key: str = "encoder.patch_size") -> Extent:
    """The voxels of a patch along each axis (D,), from a config's value: one number for all axes, or a list of D.

    key: of the setting. UserError where the list has not one number for each axis, or a number is below 1.
    """
    sizes = (value,) * num_axes if isinstance(value, int) else tuple(value)
    if len(sizes) != num_axes:
        raise UserError(
            f"{key}={list(sizes)} has {len(sizes)} value(s), but the windows (data.roi_size) have "
            f"{num_axes} axes. Give one number for all axes, or a list of {num_axes}."
        )
    if min(sizes) < 1:
        raise UserError(
            f"{key}={in_config(sizes)}: a patch has at least 1 voxel along each axis. Choose numbers "
            "from 1 on, such as 8."
        )
    return sizes


def in_config(patch_size: Sequence[int]) -> str:
    """How a config writes a patch: 8 where all axes are equal, else [8,8,4]."""
    sizes = list(patch_size)
    return str(sizes[0]) if len(set(sizes)) == 1 else f"[{','.join(map(str, sizes))}]"


def in_words(patch_size: Sequence[int]) -> str:
    """A patch in figures and tables: 8 where all axes are equal, else 8 x 8 x 4."""
    sizes = list(patch_size)
    return str(sizes[0]) if len(set(sizes)) == 1 else " x ".join(map(str, sizes))


def token_grid(image_size: tuple[int, ...], patch_size: Extent, *, key: str = "encoder.patch_size") -> tuple[int, ...]:
    """The grid of patches of an image, both (D,); UserError when the patch does not divide the size."""
    if any(size % edge for size, edge in zip(image_size, patch_size, strict=True)):
        shown = in_config(patch_size)
        raise UserError(
            f"data.roi_size={list(image_size)} is not divisible by {key}={shown}. "
            f"Choose a roi_size of multiples of {shown}, or another patch_size."
        )
    return tuple(size // edge for size, edge in zip(image_size, patch_size, strict=True))


def halvings(patch_size: Extent) -> tuple[Extent, ...] | None:
    """The factor of each step along each axis, m times (D,), from the image to the token grid.

    An axis with a smaller patch has the factor 1 in the finest steps, as in nnU-Net: patches of 8 x 8 x 4 have the
    steps (2, 2, 1), (2, 2, 2), (2, 2, 2). None where a size is no power of two.
    """
    if any(edge & (edge - 1) for edge in patch_size):
        return None
    counts = [edge.bit_length() - 1 for edge in patch_size]
    m = max(counts)
    return tuple(tuple(2 if step >= m - count else 1 for count in counts) for step in range(m))


def kernel_at(level: int, patch_size: Extent, *, size: int = 3) -> Extent:
    """The kernel of a convolution at a level, `size` along each axis, but 1 along axes that the next step keeps.

    Along such an axis the voxels are still longer than along the others, so neighbours are further away. The patch must
    have `halvings`.
    """
    steps = halvings(patch_size)
    assert steps is not None
    factors = steps[level] if level < len(steps) else (2,) * len(patch_size)
    return tuple(size if factor > 1 else 1 for factor in factors)


def kept_size(kernel: Sequence[int]) -> Extent:
    """The padding with which a kernel of odd extents keeps the size."""
    return tuple(edge // 2 for edge in kernel)
