"""The interface of inferers: logits of a whole image, yielded chunk by chunk along its first axis.

Legend: B windows of a batch, C channels, Q channels of the logits (classes or regions), S the preprocessed grid
(2 or 3 dims), h rows of a chunk. A row is all voxels with one index of the first axis.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sct.config.parts import part
from sct.data.cases import window_shape
from sct.data.outputs import Outputs
from sct.errors import UserError
from sct.inference.tiling import padded_shape, window_starts
from sct.inference.wanted import Wanted

Model = Callable[[Tensor], Tensor]

# Voxels of a chunk: with 14 classes 28 MB of logits, which stay in the CPU's cache from one operation to the next.
CHUNK_VOXELS = 500_000
# Neighbouring chunks share a row: chunks with fewer rows would repeat too much work.
FEWEST_ROWS = 4
# Logits of a chunk, unless a single row has more: 128 MB. Fewer rows take less memory and more time.
MOST_LOGITS = 2**25
# Voxels of one forward pass if no batch size is given. On a CPU, more voxels exceed the caches, fewer leave cores idle:
# windows   tried batches   fastest batch   its time (light and full decoders)
# 96^3      1, 2, 4         1               0.85 of a batch of 4
# 48^3      1, 2, 4, 8      8               0.6 of a batch of 1
PROCESSOR_VOXELS = 96**3
DEVICE_VOXELS = 4 * PROCESSOR_VOXELS


@dataclass(frozen=True)
class Chunk:
    """Logits (Q, h, *S[1:]) float32 of the rows from `start` on; the next chunk may reuse their memory.

    The tensor may be a view of a larger one. In memory, either the channels of a voxel are adjacent or the voxels of a
    channel.
    """

    start: int
    logits: Tensor

    @property
    def stop(self) -> int:
        return self.start + self.logits.shape[1]

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Request:
    """What is predicted of an image, and where.

    roi_size: voxels of a window; 2 numbers: a volume is predicted slice by slice along its first axis
    background: logits (Q) of a background voxel
    device: of the network
    wanted: patches of the image that are predicted, all others are background; None: all of it
    """

    roi_size: Sequence[int]
    background: Tensor
    device: torch.device
    wanted: Wanted | None = None

    @property
    def num_channels(self) -> int:
        return len(self.background)

    def window(self, *, num_dims: int) -> tuple[int, ...]:
        """Voxels of a window along each axis of an image with `num_dims` axes."""
        return window_shape(self.roi_size, num_dims=num_dims)


@part
@dataclass(kw_only=True)
class Inferer(ABC):
    """Predicts overlapping windows of an image and blends them.

    overlap: share of a window that the next window covers too, 0 to below 1
    blending: weight of the voxels inside a window: gaussian or constant
    mirror_axes: spatial axes (from 0) for test-time mirroring: each window is predicted for all combinations of
        mirrored axes and the logits are averaged; helps if training mirrored these axes too; n axes cost 2^n times as
        much
    batch_size: windows in one forward pass; null: windows with 96^3 voxels in total on a CPU, four times as many on a
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
    def chunks(self, model: Model, image: Tensor, request: Request) -> Iterator[Chunk]:
        """Yields the logits of an image (C, *S) in order; every chunk begins with the last row of the previous chunk.

        `model` maps (B, C, *roi_size) on the request's device to (B, Q, *roi_size). An image smaller than the window is
        padded with zeros, and the result is cropped again.
        """

    @abstractmethod
    def memory(self, model: Model, shape: Sequence[int], request: Request, *, in_channels: int) -> dict[str, int]:
        """Most bytes that `chunks` needs for an image of `shape` (*S) in addition to the network, by purpose."""

    def __call__(self, model: Model, image: Tensor, request: Request) -> Tensor:
        """Logits (Q, *S), float32, of an image (C, *S), on the device where they are stitched; see `chunks`."""
        logits = torch.empty(0)
        for chunk in self.chunks(model, image, request):
            if not len(logits):
                logits = chunk.logits.new_empty((request.num_channels, *image.shape[1:]))
            logits[:, chunk.rows] = chunk.logits
        return logits

    def labels(
        self, model: Model, image: Tensor, *, roi_size: Sequence[int], outputs: Outputs, device: torch.device
    ) -> Tensor:
        """Label values (*S), int16, on the CPU, of an image (C, *S), on the same grid; see `chunks`."""
        labels = torch.empty(image.shape[1:], dtype=torch.int16)
        for chunk in self.chunks(model, image, Request(roi_size, outputs.background, device)):
            labels[chunk.rows] = outputs.labels(chunk.logits).cpu()
            del chunk  # frees memory before the next chunk is computed
        return labels

    def num_windows(self, model: Model, shape: Sequence[int], request: Request) -> int:
        """Windows that cover an image of `shape` (*S), or what is wanted of it.

        Windows of air that an inferer may skip count too.
        """
        window = request.window(num_dims=len(shape))
        starts = window_starts(padded_shape(shape, window), window, overlap=self.overlap)
        return math.prod(map(len, starts))

    def check_axes(self, roi_size: Sequence[int]) -> None:
        """UserError if `mirror_axes` names an axis that the window does not have, or one axis twice."""
        axes, last = list(self.mirror_axes), len(roi_size) - 1
        if any(not 0 <= axis <= last for axis in axes) or len(set(axes)) < len(axes):
            raise UserError(f"inferer.mirror_axes={axes}: choose axes from 0 to {last}, each once")

    def windows_at_once(self, roi_size: Sequence[int], *, device: torch.device) -> int:
        """Windows of one forward pass: `batch_size`, or a number that suits the device, see `PROCESSOR_VOXELS`."""
        if self.batch_size is not None:
            return self.batch_size
        voxels = PROCESSOR_VOXELS if device.type == "cpu" else DEVICE_VOXELS
        return max(1, voxels // math.prod(roi_size))

    def batch_bytes(self, request: Request, *, in_channels: int) -> int:
        """Bytes of the windows and logits of one forward pass in float32, with the copies for mirrored windows."""
        out_channels = request.num_channels
        channels = 2 * in_channels + 4 * out_channels if self.mirror_axes else in_channels + out_channels
        windows = self.windows_at_once(request.roi_size, device=request.device)
        return 4 * windows * math.prod(request.roi_size) * channels


def rows_of_a_chunk(shape: Sequence[int], *, num_channels: int) -> int:
    """The number of new rows in a chunk of an image of `shape` (*S), with so many channels of logits."""
    plane = math.prod(shape[1:])
    rows = max(FEWEST_ROWS, CHUNK_VOXELS // plane)
    return max(1, min(rows, MOST_LOGITS // (plane * num_channels)))


def chunk_bounds(start: int, stop: int, *, top: int = 0, rows: int) -> Iterator[tuple[int, int]]:
    """Bounds of chunks for the rows start ... stop - 1: `rows` rows each and the row before, but no row above `top`."""
    for row in range(start, stop, rows):
        yield max(top, row - 1), min(row + rows, stop)


def mirrored_mean(model: Model, windows: Tensor, *, axes: Sequence[int]) -> Tensor:
    """Logits (B, Q, *S) of windows (B, C, *S): the mean, in float32, over all combinations of mirrored `axes`."""
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
