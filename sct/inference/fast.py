"""Whole-volume inference with bounded memory: predicts windows chunk by chunk and skips windows of air.

Legend: C channels, Q channels of the logits, S the preprocessed grid (2 or 3 dims), B windows of a batch. A place is
one position of the stitched map, see `sct.inference.stages`.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.inference.base import Chunk, Inferer, Model, Request, chunk_bounds, rows_of_a_chunk
from sct.inference.parallel import AHEAD, in_order
from sct.inference.readout import Readout
from sct.inference.rows import first_place, row_groups, rows_kept
from sct.inference.stages import Stages, Stitch, stages_of
from sct.inference.stitch import RollingSum, box_at, inverse_weight
from sct.inference.tiling import occupied, pad_to_window, padded_shape, window_starts, window_weight
from sct.inference.wanted import Start, Wanted
from sct.runtime.processor import has_tiles

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(kw_only=True)
class FastSlidingWindow(Inferer):
    """Uses the windows and weights of `SlidingWindow` in less time, with an amount of memory that is known in advance.

    Windows are predicted in order along the first axis. Only the rows that later windows can still change are stored,
    on the model's device.

    stitch: what is blended: features or logits. features: for decoders with two stages (thin, patchwise, primus), the
        windows' features are blended, and logits are computed from them once for each voxel, chunk by chunk; sizes of
        padded images and starts of windows are then multiples of the features' stride. logits: the windows' logits are
        blended, as in `SlidingWindow`. Other decoders and mirrored windows always use logits
    skip_below: a window is skipped if no voxel of it is above this preprocessed intensity in any channel; null skips
        no window. Other windows alone decide the voxels that they share with a skipped window (blended features end at
        the edges of these windows); voxels in skipped windows only are background. A structure that is darker than
        this and larger than a window is never found
    accumulate: number format of the sums of windows: float32, float16 or bfloat16; the 16-bit formats take half the
        memory and, on a CPU, more time
    even: windows lie evenly along each axis: there are as many, and any two share about as much; false: as MONAI has
        them, the last one moved back to the end of the image
    workers: batches that a CPU computes at the same time, at most the number of threads; the workers share the
        threads; null: 1 on a CPU with tiles (AMX), 2 on others. Other devices, ONNX and OpenVINO always use 1
    """

    stitch: Stitch = "features"
    skip_below: float | None = None
    accumulate: Literal["float32", "float16", "bfloat16"] = "float32"
    even: bool = False
    workers: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stitch not in (choices := get_args(Stitch)):
            raise UserError(f"inferer.stitch={self.stitch}: choose {' or '.join(choices)}")
        if self.accumulate not in PRECISIONS:
            raise UserError(f"inferer.accumulate={self.accumulate}: choose one of {', '.join(PRECISIONS)}")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"inferer.workers={self.workers}: choose 1 or more")

    # no decorator: a generator that runs within `no_grad` keeps each chunk alive while the next one is computed
    def chunks(self, model: Model, image: Tensor, request: Request) -> Iterator[Chunk]:
        self.check_axes(request.roi_size)
        shape, device, wanted = tuple(image.shape[1:]), request.device, request.wanted
        stages = self.stages(model, request, num_dims=len(shape))
        window = request.window(num_dims=len(shape))
        image = image.to(device, torch.float32)
        padded, before = pad_to_window(image, window, multiple=stages.stride)
        starts = self.starts(shape, window, stages=stages, wanted=wanted)
        chosen = self.occupied_places(image, starts=starts, window=window, padded=padded.shape[1:])
        if self.skip_below is not None:
            num_skipped = len(starts) - len(chosen)
            logger.info(
                "%d of %d windows skipped: no voxel in them is above %s", num_skipped, len(starts), self.skip_below
            )
        weight = stages.pooled(window_weight(window, blending=self.blending).to(device))
        inverse = inverse_weight(
            stages.places(padded.shape[1:]), places=[stages.places(at) for at in chosen], weight=weight
        )
        batch_size = self.windows_at_once(request.roi_size, device=device)
        groups = row_groups(starts, batch_size=batch_size)
        by_group = [list(batches([at for at in chosen if at[0] in group], size=batch_size)) for group in groups]

        @torch.no_grad()
        def compute(batch: list[tuple[int, ...]]) -> Tensor:
            windows = torch.stack([padded[(slice(None), *box_at(at, window))] for at in batch])
            return stages.window_features(windows.reshape(len(batch), -1, *request.roi_size))

        workers = self.workers_for(model, num_batches=sum(map(len, by_group)), device=device)
        computed = in_order(compute, itertools.chain(*by_group), workers=workers, device=device)
        total = RollingSum(
            num_channels=stages.num_channels,
            num_rows=rows_kept(groups, depth=window[0], length=padded.shape[1], stages=stages),
            plane=inverse.shape[1:],
            dtype=PRECISIONS[self.accumulate],
            device=device,
        )

        readout = Readout(stages, total, inverse, padded, tuple(before), shape, request.background, wanted)
        # first row, end and next row of the output, in rows of the padded image
        top, end = before[0], before[0] + shape[0]
        done, height = top, rows_of_a_chunk(padded.shape[1:], num_channels=request.num_channels)
        for group_batches, next_group in zip(by_group, [*groups[1:], None], strict=True):
            for batch in group_batches:
                results = next(computed)
                for result, at in zip(results, map(stages.places, batch), strict=True):
                    share = weight * inverse[box_at(at, weight.shape)]
                    total.add(result.reshape(-1, *weight.shape), weight=share, place=at)
                del results, result  # frees memory before the next batch and the chunks
            final = max(done, next_group[0] - stages.reach) if next_group else end
            for start, stop in chunk_bounds(done, final, top=top, rows=height):
                yield Chunk(start - top, readout.logits(start, stop))
            done = final
            total.drop_before(first_place(done - 1, stages=stages))

    def num_windows(self, model: Model, shape: Sequence[int], request: Request) -> int:
        stages = self.stages(model, request, num_dims=len(shape))
        return len(self.starts(shape, request.window(num_dims=len(shape)), stages=stages, wanted=request.wanted))

    def starts(
        self, shape: Sequence[int], window: Sequence[int], *, stages: Stages, wanted: Wanted | None = None
    ) -> list[Start]:
        """First voxels of the windows on the padded image of an image of `shape`, in order: multiples of the stride.

        The windows lie on a grid that covers the image, or are the few that hold what is `wanted`.
        """
        padded = padded_shape(shape, window, multiple=stages.stride)
        if wanted is None:
            along = window_starts(padded, window, overlap=self.overlap, multiple=stages.stride, even=self.even)
            return list(itertools.product(*along))
        return wanted.padded_starts(shape, window, padded=padded, multiple=stages.stride)

    def stages(self, model: Model, request: Request, *, num_dims: int) -> Stages:
        """The stages in which a network predicts what is asked for of an image with `num_dims` axes."""
        return stages_of(
            model,
            stitch=self.stitch,
            num_channels=request.num_channels,
            mirror_axes=self.mirror_axes,
            roi_size=request.roi_size,
            num_dims=num_dims,
        )

    def workers_for(self, model: Model, *, num_batches: int, device: torch.device) -> int:
        """The number of batches, of `num_batches`, that are computed at the same time."""
        return max(1, min(self.most_workers(device), num_batches)) if isinstance(model, nn.Module) else 1

    def most_workers(self, device: torch.device) -> int:
        """The number of batches that `device` computes at the same time."""
        if device.type != "cpu":
            return 1
        workers = (1 if has_tiles() else 2) if self.workers is None else self.workers
        return min(workers, torch.get_num_threads())

    def occupied_places(
        self, image: Tensor, *, starts: Sequence[Start], window: Sequence[int], padded: Sequence[int]
    ) -> list[Start]:
        """Of the first voxels of windows those of windows that are predicted, of an image (C, *S).

        padded: size of the padded image, on which the windows lie.
        """
        if self.skip_below is None:
            return list(starts)
        # padding never counts as tissue, also with a threshold below 0
        mask, _ = pad_to_window((image > self.skip_below).any(dim=0, keepdim=True), padded)
        return occupied(mask[0], places=starts, window=window)

    def memory(self, model: Model, shape: Sequence[int], request: Request, *, in_channels: int) -> dict[str, int]:
        device, num_channels = request.device, request.num_channels
        stages = self.stages(model, request, num_dims=len(shape))
        window = request.window(num_dims=len(shape))
        padded = padded_shape(shape, window, multiple=stages.stride)
        batch_size = self.windows_at_once(request.roi_size, device=device)
        groups = row_groups(self.starts(shape, window, stages=stages, wanted=request.wanted), batch_size=batch_size)
        places, itemsize = stages.places(padded), PRECISIONS[self.accumulate].itemsize
        is_padded = padded != list(shape)
        # workers compute the next batches while earlier ones are stitched
        workers = self.most_workers(device)
        at_once = AHEAD * workers + 1 if workers > 1 else 1
        rows, row = rows_of_a_chunk(padded, num_channels=num_channels) + 1, math.prod(padded[1:])
        # what joins channels and voxels of a part in one axis copies it where padding is cut off
        float32 = 4 * rows * row * num_channels
        if stages.is_logits:
            batch = self.batch_bytes(request, in_channels=in_channels)
            # chunks are views of the sum, except in half precision or if padding is cut off
            chunk = float32 * (int(itemsize < 4) + int(is_padded))
        else:
            features = stages.num_channels // math.prod(stages.stride) + 1  # numbers for each voxel, at most
            number = number_bytes(device)
            batch = number * batch_size * math.prod(request.roi_size) * (in_channels + features)
            # rows of whole places, and those within reach of them
            begun = rows + 2 * (stages.stride[0] - 1)
            reached = begun + 2 * stages.reach
            logits = number * begun * row * num_channels
            # intermediate maps, parts of the image and the features, whose sums in half precision are first converted
            alive = stages.num_alive + in_channels + features * (1 + int(itemsize < 4))
            chunk = number * reached * row * alive
            # the last layer puts its numbers in order by a copy; then logits become those of the chunk by another one
            chunk += logits + max(logits, float32 * int(number < 4 or is_padded))
        if request.wanted is not None:  # the chunk that the logits of what is wanted are put into, and masks
            chunk += float32 + 2 * rows * row
        return {
            "image": 4 * in_channels * (math.prod(shape) + is_padded * math.prod(padded)),
            "weights": 4 * math.prod(places),
            "rows kept": rows_kept(groups, depth=window[0], length=padded[0], stages=stages)
            * math.prod(places[1:])
            * stages.num_channels
            * itemsize,
            "batch": at_once * batch,
            "chunk": chunk,
        }


def number_bytes(device: torch.device) -> int:
    """Bytes of a number of the network's maps: of mixed precision where that is on."""
    return torch.get_autocast_dtype(device.type).itemsize if torch.is_autocast_enabled(device.type) else 4


def batches(items: Sequence[Item], *, size: int) -> Iterator[list[Item]]:
    """Items in order, `size` at a time."""
    for first in range(0, len(items), size):
        yield list(items[first : first + size])
