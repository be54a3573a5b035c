"""Whole-volume inference in a bounded memory: windows chunk by chunk, those of air skipped.

Legend: C channels, Q channels of the logits, S the preprocessed grid (2 or 3 dims), B windows of a batch. A place is
what one vector of what is stitched stands for, see `sct.inference.stages`.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from sct.data.cases import window_shape
from sct.errors import UserError
from sct.inference.base import Chunk, Inferer, Model, chunk_bounds, rows_of_a_chunk
from sct.inference.parallel import AHEAD, in_order
from sct.inference.stages import Stages, Stitch, stages_of
from sct.inference.stitch import RollingSum, box_at, inverse_weight
from sct.inference.tiling import occupied, pad_to_window, padded_shape, window_starts, window_weight
from sct.runtime.processor import has_tiles

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(kw_only=True)
class FastSlidingWindow(Inferer):
    """The windows and weights of `SlidingWindow`, at less time and in a memory that is known before.

    Windows are visited along the first axis, and only the rows that a later window can still touch are kept, on the
    model's device, not those of the whole image.

    stitch: what of the windows is blended. features: where the decoder has two stages (thin, patchwise) the features;
        logits are computed from them chunk by chunk, not in each window that covers a voxel. Images are padded, and
        windows start, at multiples of the features' stride. logits: the windows' logits, as the reference does; all
        other networks and mirrored windows do so too
    skip_below: a window is skipped if no voxel of it is above this preprocessed intensity in any channel; null skips
        none. A skipped window says nothing: a voxel that another window covers is decided by that one (whose features
        end there), what none covers is background. Whatever is darker and larger than a window is never found.
    accumulate: number format of the sums of windows: float32, float16 or bfloat16; the halves take half the memory
        and, on a processor, more time.
    workers: batches that a processor computes at the same time, each on its share of the threads; no more than there
        are threads; null: 1 where it has tiles (AMX), 2 where not. Other devices, and ONNX and OpenVINO, which have
        threads of their own, compute one.
    """

    stitch: Stitch = "features"
    skip_below: float | None = None
    accumulate: Literal["float32", "float16", "bfloat16"] = "float32"
    workers: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stitch not in (choices := get_args(Stitch)):
            raise UserError(f"inferer.stitch={self.stitch}: choose {' or '.join(choices)}")
        if self.accumulate not in PRECISIONS:
            raise UserError(f"inferer.accumulate={self.accumulate}: choose one of {', '.join(PRECISIONS)}")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"inferer.workers={self.workers}: choose 1 or more")

    @torch.no_grad()
    def chunks(
        self, model: Model, image: Tensor, *, roi_size: Sequence[int], background: Tensor, device: torch.device
    ) -> Iterator[Chunk]:
        self.check_axes(roi_size)
        stages = self.stages(model, num_channels=len(background), roi_size=roi_size, num_dims=image.ndim - 1)
        stride = stages.stride
        window = window_shape(roi_size, num_dims=image.ndim - 1)
        image = image.to(device, torch.float32)
        padded, before = pad_to_window(image, window, multiple=stride)
        starts = window_starts(padded.shape[1:], window, overlap=self.overlap, multiple=stride)
        wanted = self.occupied_places(image, starts=starts, window=window, padded=padded.shape[1:])
        chosen = [place for place, is_wanted in wanted.items() if is_wanted]
        if self.skip_below is not None:
            num_skipped = len(wanted) - len(chosen)
            logger.info(
                "%d of %d windows skipped: nothing in them is above %s", num_skipped, len(wanted), self.skip_below
            )
        weight = stages.pooled(window_weight(window, blending=self.blending).to(device))
        inverse = inverse_weight(
            stages.places(padded.shape[1:]), places=[stages.places(at) for at in chosen], weight=weight
        )
        groups = row_groups(starts, batch_size=(batch_size := self.windows_at_once(roi_size, device=device)))
        by_group = [list(batches([at for at in chosen if at[0] in group], size=batch_size)) for group in groups]

        @torch.no_grad()
        def compute(batch: list[tuple[int, ...]]) -> Tensor:
            windows = torch.stack([padded[(slice(None), *box_at(at, window))] for at in batch])
            return stages.window_features(windows.reshape(len(batch), -1, *roi_size))

        workers = self.workers_for(model, num_batches=sum(map(len, by_group)), device=device)
        computed = in_order(compute, itertools.chain(*by_group), workers=workers, device=device)
        total = RollingSum(
            num_channels=stages.num_channels,
            num_rows=rows_kept(groups, depth=window[0], stages=stages),
            plane=inverse.shape[1:],
            dtype=PRECISIONS[self.accumulate],
            device=device,
        )

        def logits_of(start: int, stop: int) -> Tensor:
            """Of rows of the padded image, and of what is around them as much as they depend on."""
            first, last = first_place(start, stages=stages), -(-(stop + stages.reach) // stride[0])
            rows = slice(first * stride[0], last * stride[0])  # the image ends before them, as do the sums
            logits = stages.image_logits(total.rows(first, min(last, len(inverse))), padded[:, rows])
            own = logits[:, start - rows.start : stop - rows.start]
            if (empty := inverse[first:last].isinf()).any():
                fill(own, where=stages.spread(empty)[start - rows.start : stop - rows.start], values=background)
            return own

        # what is handed out, in rows of the padded image
        top, end = before[0], before[0] + image.shape[1]
        inside = tuple(slice(a, a + size) for a, size in zip(before[1:], image.shape[2:], strict=True))
        done, height = top, rows_of_a_chunk(padded.shape[1:])
        for own, following in zip(by_group, [*groups[1:], None], strict=True):
            for batch in own:
                results = next(computed)
                for one, at in zip(results, map(stages.places, batch), strict=True):
                    share = weight * inverse[box_at(at, weight.shape)]
                    total.add(one.reshape(-1, *weight.shape), weight=share, place=at)
                del results, one  # they would stay beside the next batch and chunks
            final = max(done, following[0] - stages.reach) if following else end
            for start, stop in chunk_bounds(done, final, top=top, rows=height):
                yield Chunk(start - top, logits_of(start, stop)[(slice(None), slice(None), *inside)])
            done = final
            total.drop_before(first_place(done - 1, stages=stages))

    def stages(self, model: Model, *, num_channels: int, roi_size: Sequence[int], num_dims: int) -> Stages:
        """What is stitched of a network with so many channels of logits."""
        return stages_of(
            model,
            stitch=self.stitch,
            num_channels=num_channels,
            mirror_axes=self.mirror_axes,
            roi_size=roi_size,
            num_dims=num_dims,
        )

    def workers_for(self, model: Model, *, num_batches: int, device: torch.device) -> int:
        """How many of some batches are computed at the same time."""
        return max(1, min(self.most_workers(device), num_batches)) if isinstance(model, nn.Module) else 1

    def most_workers(self, device: torch.device) -> int:
        """How many batches `device` computes at the same time."""
        if device.type != "cpu":
            return 1
        wanted = (1 if has_tiles() else 2) if self.workers is None else self.workers
        return min(wanted, torch.get_num_threads())

    def occupied_places(
        self, image: Tensor, *, starts: Sequence[Sequence[int]], window: Sequence[int], padded: Sequence[int]
    ) -> dict[tuple[int, ...], bool]:
        """First voxels of all windows of an image (C, *S), in order, and whether they are predicted or skipped.

        `padded`: its size with the padding in which the windows lie.
        """
        places = itertools.product(*starts)
        if self.skip_below is None:
            return dict.fromkeys(places, True)
        # padding is no tissue, whatever the threshold
        mask, _ = pad_to_window((image > self.skip_below).any(dim=0, keepdim=True), padded)
        return dict(zip(places, occupied(mask[0], starts=starts, window=window).flatten().tolist(), strict=True))

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
        stages = self.stages(model, num_channels=num_channels, roi_size=roi_size, num_dims=len(shape))
        window = window_shape(roi_size, num_dims=len(shape))
        padded = padded_shape(shape, window, multiple=stages.stride)
        batch_size = self.windows_at_once(roi_size, device=device)
        starts = window_starts(padded, window, overlap=self.overlap, multiple=stages.stride)
        groups = row_groups(starts, batch_size=batch_size)
        places, itemsize = stages.places(padded), PRECISIONS[self.accumulate].itemsize
        is_padded = padded != list(shape)
        # workers compute on while what they computed before is stitched
        workers = self.most_workers(device)
        at_once = AHEAD * workers + 1 if workers > 1 else 1
        rows, row = rows_of_a_chunk(padded) + 1, math.prod(padded[1:])
        if stages.is_logits:
            batch = self.batch_bytes(
                roi_size=roi_size, in_channels=in_channels, num_channels=num_channels, device=device
            )
            # chunks are views of the sum, unless it is in half precision or its padding is cut off
            channels = num_channels * (int(itemsize < 4) + int(is_padded))
        else:
            features = stages.num_channels // math.prod(stages.stride) + 1  # a voxel's share, at most
            batch = 4 * batch_size * math.prod(roi_size) * (in_channels + features)
            rows += 2 * (stages.reach + stages.stride[0])
            # logits as the network gives them and in float32, what they are computed by, the image's and features' part
            channels = 2 * num_channels + stages.num_alive + in_channels + features
        return {
            "image": 4 * in_channels * (math.prod(shape) + is_padded * math.prod(padded)),
            "weights": 4 * math.prod(places),
            "rows kept": rows_kept(groups, depth=window[0], stages=stages)
            * math.prod(places[1:])
            * stages.num_channels
            * itemsize,
            "batch": at_once * batch,
            "chunk": 4 * rows * row * channels,
        }


def row_groups(starts: Sequence[Sequence[int]], *, batch_size: int) -> list[list[int]]:
    """First rows of the windows that are visited before anything is handed out: as many as a batch has room for."""
    in_a_row = math.prod(len(along) for along in starts[1:])
    return list(batches(starts[0], size=max(1, batch_size // in_a_row)))


def rows_kept(groups: Sequence[Sequence[int]], *, depth: int, stages: Stages) -> int:
    """Rows of places that the windows of one group, `depth` rows each, touch, and those before them that are needed."""
    ends = [(group[-1] + depth) // stages.stride[0] for group in groups]
    firsts = [first_place(max(0, group[0] - stages.reach - 1), stages=stages) for group in groups]
    return max(end - first for end, first in zip(ends, firsts, strict=True))


def first_place(row: int, *, stages: Stages) -> int:
    """The first row of places on which the logits of a row of the image depend."""
    return max(0, row - stages.reach) // stages.stride[0]


def batches(items: Sequence[Item], *, size: int) -> Iterator[list[Item]]:
    """Items in order, `size` at a time."""
    for first in range(0, len(items), size):
        yield list(items[first : first + size])


def fill(logits: Tensor, *, where: Tensor, values: Tensor) -> Tensor:
    """Logits (Q, *S) with values (Q) in the voxels `where` (*S), in place."""
    if where.any():
        for channel, value in zip(logits, values.tolist(), strict=True):
            channel.masked_fill_(where, value)
    return logits
