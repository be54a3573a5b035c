"""What an inferer is: logits of a whole image, handed out chunk by chunk along its first axis.

Legend: B windows of a batch, C channels, Q channels of the logits (classes or regions), S the preprocessed grid
(2 or 3 dims), h rows of a chunk, a row being all voxels of one index of the first axis.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sct.data.outputs import Outputs
from sct.errors import UserError

Model = Callable[[Tensor], Tensor]

# Voxels of a chunk: with 14 classes 28 MB of logits, which stay near the processor from one operation to the next.
CHUNK_VOXELS = 500_000
# Neighbouring chunks share a row: thinner ones would do too much of the work twice.
FEWEST_ROWS = 4
# Voxels of one forward pass where no batch size is given. On a processor, more pass its caches, fewer leave it idle:
# of 1, 2 and 4 windows of 96^3, one is fastest (0.85 of the time of four, with a thin and with a full decoder), of 1,
# 2, 4 and 8 windows of 48^3, eight (0.6 of the time of one).
PROCESSOR_VOXELS = 96**3
DEVICE_VOXELS = 4 * PROCESSOR_VOXELS


@dataclass(frozen=True)
class Chunk:
    """Logits (Q, h, *S[1:]) float32 of the rows from `start` on; their memory is used again for the chunk after it.

    Either the channels of a voxel are side by side in memory, or the voxels of a channel; it may be a part of more.
    """

    start: int
    logits: Tensor

    @property
    def stop(self) -> int:
        return self.start + self.logits.shape[1]

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(kw_only=True)
class Inferer(ABC):
    """Overlapping windows over an image, blended.

    overlap: share of a window that its neighbour covers again, 0 to below 1
    blending: weight of the voxels inside a window: gaussian or constant
    mirror_axes: spatial axes (from 0) along which each window is also predicted mirrored, over all their combinations,
        and the logits averaged: better where training mirrored them too, at 2 to the number of axes the cost
    batch_size: windows in one forward pass; null: as many as 96^3 voxels hold on a processor, four times as many on a
        GPU
    """

    overlap: float = 0.5
    blending: Literal["gaussian", "constant"] = "gaussian"
    mirror_axes: Sequence[int] = ()
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise UserError(f"inferer.overlap={self.overlap}: choose a share of the window, 0 <= overlap < 1")
        if self.blending not in ("gaussian", "constant"):
            raise UserError(f"inferer.blending={self.blending}: choose gaussian or constant")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"inferer.batch_size={self.batch_size}: choose 1 window or more, or null")

    @abstractmethod
    def chunks(
        self, model: Model, image: Tensor, *, roi_size: Sequence[int], background: Tensor, device: torch.device
    ) -> Iterator[Chunk]:
        """Logits of an image (C, *S) in order, every chunk beginning with the last row of the one before it.

        `model` maps (B, C, *roi_size) on `device` to (B, Q, *roi_size). An image smaller than the window is
        padded with zeros, and the padding removed again. A volume before a window of 2 numbers is predicted
        slice by slice along its first axis. background: logits (Q) of a voxel in which there is nothing.
        """

    @abstractmethod
    def memory(
        self,
        model: Model,
        shape: Sequence[int],
        *,
        roi_size: Sequence[int],
        in_channels: int,
        num_channels: int,
        device: torch.device,
    ) -> dict[str, int]:
        """Bytes at most, by what they are for, of `chunks` of an image of `shape` (*S) beside the network itself."""

    def __call__(
        self, model: Model, image: Tensor, *, roi_size: Sequence[int], background: Tensor, device: torch.device
    ) -> Tensor:
        """Logits (Q, *S), float32, of an image (C, *S) on the device they were stitched on; see `chunks`."""
        logits = torch.empty(0)
        for chunk in self.chunks(model, image, roi_size=roi_size, background=background, device=device):
            if not len(logits):
                logits = chunk.logits.new_empty((len(background), *image.shape[1:]))
            logits[:, chunk.rows] = chunk.logits
        return logits

    def labels(
        self, model: Model, image: Tensor, *, roi_size: Sequence[int], outputs: Outputs, device: torch.device
    ) -> Tensor:
        """Label values (*S), int16, on the CPU, of an image (C, *S) on its own grid; see `chunks`."""
        labels = torch.empty(image.shape[1:], dtype=torch.int16)
        for chunk in self.chunks(model, image, roi_size=roi_size, background=outputs.background, device=device):
            labels[chunk.rows] = outputs.labels(chunk.logits).cpu()
            del chunk  # the next need not be computed beside it
        return labels

    def check_axes(self, roi_size: Sequence[int]) -> None:
        """UserError where `mirror_axes` names an axis that the window has not, or one twice."""
        axes, last = list(self.mirror_axes), len(roi_size) - 1
        if any(not 0 <= axis <= last for axis in axes) or len(set(axes)) < len(axes):
            raise UserError(f"inferer.mirror_axes={axes}: choose axes from 0 to {last}, each once")

    def windows_at_once(self, roi_size: Sequence[int], *, device: torch.device) -> int:
        """Windows of one forward pass: `batch_size`, or as many as suit the device, see `PROCESSOR_VOXELS`."""
        if self.batch_size is not None:
            return self.batch_size
        voxels = PROCESSOR_VOXELS if device.type == "cpu" else DEVICE_VOXELS
        return max(1, voxels // math.prod(roi_size))

    def batch_bytes(self, *, roi_size: Sequence[int], in_channels: int, num_channels: int, device: torch.device) -> int:
        """Bytes of one forward pass' windows and logits in float32, with what their mean over mirrors takes."""
        channels = 2 * in_channels + 4 * num_channels if self.mirror_axes else in_channels + num_channels
        return 4 * self.windows_at_once(roi_size, device=device) * math.prod(roi_size) * channels


def rows_of_a_chunk(shape: Sequence[int]) -> int:
    """How many new rows of an image of `shape` (*S) make a chunk."""
    return max(FEWEST_ROWS, CHUNK_VOXELS // math.prod(shape[1:]))


def chunk_bounds(start: int, stop: int, *, top: int = 0, rows: int) -> Iterator[tuple[int, int]]:
    """Bounds of chunks of `rows` rows that cover start ... stop - 1, each with the row before it unless it is `top`."""
    for row in range(start, stop, rows):
        yield max(top, row - 1), min(row + rows, stop)


def mirrored_mean(model: Model, windows: Tensor, *, axes: Sequence[int]) -> Tensor:
    """Logits (B, Q, *S) of windows (B, C, *S), the mean over all mirrorings along `axes`, which is in float32."""
    if not axes:
        return model(windows)
    choices = [
        [axis + 2 for axis in chosen] for n in range(len(axes) + 1) for chosen in itertools.combinations(axes, n)
    ]
    # half precision would round the sum
    total = model(windows).float()
    for flips in choices[1:]:
        total = total + model(windows.flip(flips)).flip(flips)
    return total / len(choices)
