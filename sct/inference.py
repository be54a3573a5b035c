"""From a preprocessed image to a label map on the grid of the source file.

Legend: C channels, Q channels of the logits (classes or regions), S the preprocessed grid (2 or 3 dims), D = len(S).
An affine maps voxel indices to scanner coordinates, (4, 4) or (D + 1, D + 1); the first D rows and columns and the
last column are read.
"""

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor
from torch.nn import functional

from sct.data.cases import Volume, window_shape
from sct.data.outputs import Outputs
from sct.errors import UserError

logger = logging.getLogger(__name__)

Model = Callable[[Tensor], Tensor]

# Affines come from headers in float32: two grids this close (in voxels) are the same one.
GRID_TOLERANCE = 1e-3
# Source voxels sampled at once: with 14 classes 28 MB of logits.
BLOCK_VOXELS = 500_000
# The rest of the free memory is left to the forward pass.
STITCH_SHARE = 0.5


@dataclass(kw_only=True)
class SlidingWindow:
    """Overlapping windows over an image, blended: thin over MONAI's inferer.

    overlap: share of a window that its neighbour covers again; blending: weight inside a window;
    mirror_axes: spatial axes (from 0) along which each window is also predicted mirrored, over all their
    combinations, and the logits averaged: better where training mirrored them too, at 2 to the number of axes the
    cost; batch_size: windows in one forward pass; stitch_device: where the logits of the whole image are kept,
    `auto` being the model's device as long as they fit there.
    """

    overlap: float = 0.5
    blending: Literal["gaussian", "constant"] = "gaussian"
    mirror_axes: Sequence[int] = ()
    batch_size: int = 4
    stitch_device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise UserError(f"inferer.overlap={self.overlap}: choose a share of the window, 0 <= overlap < 1")
        if self.blending not in ("gaussian", "constant"):
            raise UserError(f"inferer.blending={self.blending}: choose gaussian or constant")
        if self.batch_size < 1:
            raise UserError(f"inferer.batch_size={self.batch_size}: choose 1 window or more")
        if self.stitch_device not in ("auto", "cpu", "cuda"):
            raise UserError(f"inferer.stitch_device={self.stitch_device}: choose auto, cpu or cuda")

    @torch.no_grad()
    def __call__(
        self, model: Model, image: Tensor, *, roi_size: Sequence[int], num_classes: int, device: torch.device
    ) -> Tensor:
        """Logits (Q, *S) of an image (C, *S), float32, on the device they were stitched on.

        `model` maps (B, C, *roi_size) on `device` to (B, Q, *roi_size). An image smaller than the window is
        padded with zeros, and the padding removed again. A volume before a window of 2 numbers is predicted
        slice by slice along its first axis.
        """
        spatial_dims, window = len(roi_size), window_shape(roi_size, num_dims=image.ndim - 1)
        if any(not 0 <= axis < spatial_dims for axis in self.mirror_axes):
            raise UserError(f"inferer.mirror_axes={list(self.mirror_axes)}: choose axes from 0 to {spatial_dims - 1}")
        stitch_device = self.plan(image.shape[1:], roi_size=window, num_classes=num_classes, device=device)

        def predictor(windows: Tensor) -> Tensor:
            logits = mirrored_mean(model, windows.reshape(*windows.shape[:2], *roi_size), axes=self.mirror_axes)
            return logits.reshape(*logits.shape[:2], *window)

        logits = sliding_window_inference(
            image[None].to(stitch_device, torch.float32),
            roi_size=window,
            sw_batch_size=self.batch_size,
            predictor=predictor,
            overlap=self.overlap,
            mode=self.blending,
            sw_device=device,
            device=stitch_device,
        )
        assert isinstance(logits, Tensor)
        return logits[0]

    def plan(
        self, shape: Sequence[int], *, roi_size: Sequence[int], num_classes: int, device: torch.device
    ) -> torch.device:
        """Choose the device that holds the logits of an image of `shape` (*S); say if they do not fit."""
        cpu = torch.device("cpu")
        if self.stitch_device == "cuda" and device.type != "cuda":
            logger.warning("inferer.stitch_device=cuda is ignored: the model is on %s; stitching there", device)
        if self.stitch_device == "cpu" or device.type == "cpu":
            return cpu
        needed = stitch_bytes(shape, roi_size=roi_size, num_classes=num_classes)
        free = free_memory(device)
        if needed <= STITCH_SHARE * free:
            return device
        logger.warning(
            "stitching on the CPU: the logits of %s x %d classes take %.2f GiB, %s has %.2f GiB free of "
            "which %.0f %% may go to them; slower, same result (inferer.stitch_device=cpu silences this)",
            "x".join(map(str, shape)), num_classes, needed / 2**30, device, free / 2**30, 100 * STITCH_SHARE,
        )  # fmt: skip
        return cpu


def mirrored_mean(model: Model, windows: Tensor, *, axes: Sequence[int]) -> Tensor:
    """Logits (B, Q, *S) of windows (B, C, *S), the mean over all mirrorings along `axes`, in float32."""
    choices = [
        [axis + 2 for axis in chosen] for n in range(len(axes) + 1) for chosen in itertools.combinations(axes, n)
    ]
    # half precision would round the sum, here and in the blending
    logits = [model(windows.flip(flips)).float().flip(flips) for flips in choices]
    return torch.stack(logits).mean(dim=0) if len(logits) > 1 else logits[0]


def stitch_bytes(shape: Sequence[int], *, roi_size: Sequence[int], num_classes: int) -> int:
    """Bytes of the stitched logits, the map of their weights, and the image beside them (float32)."""
    voxels = math.prod(max(size, roi) for size, roi in zip(shape, roi_size, strict=True))
    return 4 * voxels * (num_classes + 2)


def free_memory(device: torch.device) -> int:
    """Bytes a CUDA device can still give this process, PyTorch's own unused cache included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def predict_volume(
    model: Model,
    volume: Volume,
    inferer: SlidingWindow,
    *,
    roi_size: Sequence[int],
    outputs: Outputs,
    device: torch.device,
) -> np.ndarray:
    """Label map of a preprocessed volume on the grid of its source file."""
    logits = inferer(model, volume.image, roi_size=roi_size, num_classes=outputs.num_channels, device=device)
    return to_source_grid(
        logits,
        outputs=outputs,
        affine=volume.affine,
        source_shape=volume.source_shape,
        source_affine=volume.source_affine,
    )


@torch.no_grad()
def to_source_grid(
    logits: Tensor, *, outputs: Outputs, affine: np.ndarray, source_shape: Sequence[int], source_affine: np.ndarray
) -> np.ndarray:
    """Label map (*source_shape), uint8 or int16 above 256 labels, of logits (Q, *S) on the grid of `affine`.

    One affine takes a source voxel to its place in the logits, which undoes crop, padding, spacing and
    orientation together; there the logits are interpolated linearly, and `outputs` says which label they mean.
    Source voxels more than half a voxel outside the logits are background. Where the grids coincide up to axis
    order, flips and whole voxels, the result is exactly that of the logits.
    """
    num_dims = logits.ndim - 1
    relative = np.linalg.inv(affine) @ source_affine
    matrix, offset = relative[:num_dims, :num_dims], relative[:num_dims, -1]
    labels = np.zeros(tuple(source_shape), dtype=np.uint8 if len(outputs.label_map) <= 256 else np.int16)
    box = _overlap(matrix, offset, shape=logits.shape[1:], source_shape=source_shape)
    if any(start >= stop for start, stop in box):
        return labels
    rows = max(1, BLOCK_VOXELS // math.prod(stop - start for start, stop in box[1:]))
    whole = _is_whole(matrix, offset, source_shape=source_shape)
    for start in range(box[0][0], box[0][1], rows):
        block = [(start, min(start + rows, box[0][1])), *box[1:]]
        place = (matrix, offset, block)
        picked, outside = _pick(logits, *place) if whole else _interpolate(logits, *place)
        values = outputs.labels(picked)
        if outside is not None:
            values.masked_fill_(outside, 0)
        labels[tuple(slice(*bounds) for bounds in block)] = values.cpu().numpy().astype(labels.dtype)
    return labels


def _overlap(
    matrix: np.ndarray, offset: np.ndarray, *, shape: Sequence[int], source_shape: Sequence[int]
) -> list[tuple[int, int]]:
    """Bounds [start, stop) of the source voxels among which all those lie that fall into the logits' grid."""
    corners = np.array(list(itertools.product(*((-0.5, size - 0.5) for size in shape))))
    places = np.linalg.solve(matrix, (corners - offset).T)
    first = np.ceil(places.min(axis=1) - GRID_TOLERANCE).astype(int)
    last = np.floor(places.max(axis=1) + GRID_TOLERANCE).astype(int)
    return [(max(int(a), 0), min(int(b) + 1, size)) for a, b, size in zip(first, last, source_shape, strict=True)]


def _is_whole(matrix: np.ndarray, offset: np.ndarray, *, source_shape: Sequence[int]) -> bool:
    steps = np.abs(np.round(matrix))
    is_permutation = (steps.sum(axis=0) == 1).all() and (steps.sum(axis=1) == 1).all()
    drift = np.abs(matrix - np.round(matrix)) @ np.asarray(source_shape) + np.abs(offset - np.round(offset))
    return bool(is_permutation and (drift < GRID_TOLERANCE).all())


def _pick(logits: Tensor, matrix: np.ndarray, offset: np.ndarray, block: list[tuple[int, int]]) -> tuple[Tensor, None]:
    """Logits (Q, *block) of source voxels that are voxels of the logits, their axes permuted or flipped."""
    order = [int(np.flatnonzero(np.round(column))[0]) for column in matrix.T]  # source axis -> axis of the logits
    picked = logits.permute(0, *(axis + 1 for axis in order))
    for source_axis, (axis, bounds) in enumerate(zip(order, block, strict=True)):
        index = np.round(matrix[axis, source_axis]) * np.arange(*bounds) + np.round(offset[axis])
        picked = picked.index_select(source_axis + 1, torch.from_numpy(index).long().to(logits.device))
    return picked, None


def _interpolate(
    logits: Tensor, matrix: np.ndarray, offset: np.ndarray, block: list[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Logits (Q, *block) of source voxels that lie between voxels of the logits, and which lie outside of them."""
    axes = []
    outside = torch.zeros([stop - start for start, stop in block], dtype=torch.bool, device=logits.device)
    for size, weights, shift in zip(logits.shape[1:], matrix, offset, strict=True):
        # grid_sample's coordinates: -1 and 1 are the outer faces of the first and the last voxel
        place = torch.tensor((2 * shift + 1) / size - 1, dtype=torch.float32, device=logits.device)
        for dim, (weight, bounds) in enumerate(zip(weights, block, strict=True)):
            along = torch.from_numpy(2 * weight / size * np.arange(*bounds)).to(logits.device, torch.float32)
            place = place + along.reshape([-1 if other == dim else 1 for other in range(len(block))])
        outside |= place.abs() > 1 + 2 * GRID_TOLERANCE / size
        axes.append(place.expand(outside.shape))
    sampled = functional.grid_sample(
        logits[None].float(),
        torch.stack(axes[::-1], dim=-1)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0], outside
