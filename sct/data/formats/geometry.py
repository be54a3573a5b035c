"""Where the voxels of a file may lie: an affine that no scanner makes is a damaged header or another unit of length."""

from pathlib import Path

import numpy as np

from sct.errors import UserError

# mm: voxels of the finest microscopes and of the coarsest atlases; how far a scan may lie from the origin
SMALLEST, LARGEST, FAR = 1e-6, 1e4, 1e6
# volume of a voxel over the product of its edges, below which its axes lie in one plane; 1 at right angles
FLAT = 1e-3


def check_affine(affine: np.ndarray, *, path: Path, source: str) -> None:
    """UserError where an affine (4, 4) to mm is not finite, flat, or of a size that no scan has.

    source: the fields of the header that it comes from, for the message
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all():
        fault = "has numbers that are not finite"
    elif edges.min() <= 0:
        fault = f"has spacing {edges.tolist()}, not positive along every axis"
    elif not (edges.min() >= SMALLEST and edges.max() <= LARGEST):
        fault = (
            f"has spacing {' x '.join(f'{edge:.4g}' for edge in edges)} mm, and voxels have {SMALLEST:g} to "
            f"{LARGEST:g} mm (is the unit of length wrong?)"
        )
    elif abs(np.linalg.det(affine[:3, :3] / edges)) < FLAT:
        fault = "has axes that lie in one plane"
    elif np.abs(affine[:3, 3]).max() > FAR:
        fault = f"has its first voxel at {affine[:3, 3].tolist()} mm, more than {FAR:g} mm from the origin"
    else:
        return
    raise UserError(f"{path}: its affine ({source}) {fault}. Correct its header, or convert it again.")
