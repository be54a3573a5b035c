"""Whole-volume inference in a bounded memory: windows slab by slab, those of air skipped.

Legend: C channels, Q channels of the logits, S the preprocessed grid (2 or 3 dims), B windows of a batch.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from sct.data.cases import window_shape
from sct.errors import UserError
from sct.inference.base import Inferer, Model, Slab, mirrored_mean, rows_of_a_slab, slab_bounds
from sct.inference.parallel import AHEAD, in_order
from sct.inference.stitch import RollingLogits, box_at, inverse_weight
from sct.inference.tiling import occupied, pad_to_window, window_starts, window_weight

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(kw_only=True)
class FastSlidingWindow(Inferer):
    """The windows and weights of `SlidingWindow`, at less time and in a memory that is known before.

    Windows are visited along the first axis, and only the rows that a later window can still touch are kept: logits
    of about one window's depth, on the model's device, not of the whole image.

    skip_below: a window is skipped if no voxel of it is above this preprocessed intensity in any channel; None skips
        none. A skipped window says nothing: a voxel that another window covers is decided by that one, what none
        covers is background. Whatever is darker and larger than a window is never found.
    accumulate: precision in which the windows are weighted and summed; the halves take half the memory and, on a
        processor, more time.
    workers: batches that a processor computes at the same time, each on its share of the threads; no more than there
        are threads. Other devices, and ONNX and OpenVINO, which have threads of their own, compute one.
    """

    skip_below: float | None = None
    accumulate: Literal["float32", "float16", "bfloat16"] = "float32"
    workers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate not in PRECISIONS:
            raise UserError(f"inferer.accumulate={self.accumulate}: choose one of {', '.join(PRECISIONS)}")
        if self.workers < 1:
            raise UserError(f"inferer.workers={self.workers}: choose 1 or more")

    @torch.no_grad()
    def slabs(
        self, model: Model, image: Tensor, *, roi_size: Sequence[int], background: Tensor, device: torch.device
    ) -> Iterator[Slab]:
        self.check_axes(roi_size)
        window = window_shape(roi_size, num_dims=image.ndim - 1)
        image = image.to(device, torch.float32)
        padded, before = pad_to_window(image, window)
        starts = window_starts(padded.shape[1:], window, overlap=self.overlap)
        wanted = self.occupied_places(image, starts=starts, window=window)
        places = [place for place, is_wanted in wanted.items() if is_wanted]
        if self.skip_below is not None:
            num_skipped = len(wanted) - len(places)
            logger.info(
                "%d of %d windows skipped: nothing in them is above %s", num_skipped, len(wanted), self.skip_below
            )
        weight = window_weight(window, blending=self.blending).to(device)
        inverse = inverse_weight(padded.shape[1:], places=places, weight=weight)
        batch_size = self.windows_at_once(roi_size, device=device)
        groups = row_groups(starts, batch_size=batch_size)
        by_group = [list(batches([p for p in places if p[0] in group], size=batch_size)) for group in groups]

        @torch.no_grad()
        def compute(batch: list[tuple[int, ...]]) -> Tensor:
            windows = torch.stack([padded[(slice(None), *box_at(place, window))] for place in batch])
            return mirrored_mean(model, windows.reshape(len(batch), -1, *roi_size), axes=self.mirror_axes)

        workers = self.workers_for(model, num_batches=sum(map(len, by_group)), device=device)
        computed = in_order(compute, itertools.chain(*by_group), workers=workers, device=device)
        buffer = RollingLogits(
            num_channels=len(background),
            num_rows=rows_kept(groups, depth=window[0]),
            plane=padded.shape[2:],
            dtype=PRECISIONS[self.accumulate],
            device=device,
        )
        # what is handed out, in places of the padded image
        top, end = before[0], before[0] + image.shape[1]
        inside = tuple(slice(a, a + size) for a, size in zip(before[1:], image.shape[2:], strict=True))
        done, height = top, rows_of_a_slab(padded.shape[1:])
        for own, following in zip(by_group, [*groups[1:], None], strict=True):
            for batch in own:
                logits = next(computed)
                for one, place in zip(logits, batch, strict=True):
                    share = weight * inverse[box_at(place, window)]
                    buffer.add(one.reshape(-1, *window), weight=share, place=place)
                del logits, one  # they would stay beside the next batch and slabs
            final = following[0] if following else end
            for start, stop in slab_bounds(done, final, top=top, rows=height):
                rows = fill(buffer.rows(start, stop), where=inverse[start:stop].isinf(), values=background)
                yield Slab(start - top, rows[(slice(None), slice(None), *inside)])
                del rows
            done = final
            buffer.drop_before(done - 1)

    def workers_for(self, model: Model, *, num_batches: int, device: torch.device) -> int:
        """How many of some batches are computed at the same time."""
        return max(1, min(self.most_workers(device), num_batches)) if isinstance(model, nn.Module) else 1

    def most_workers(self, device: torch.device) -> int:
        """How many batches `device` computes at the same time."""
        return min(self.workers, torch.get_num_threads()) if device.type == "cpu" else 1

    def occupied_places(
        self, image: Tensor, *, starts: Sequence[Sequence[int]], window: Sequence[int]
    ) -> dict[tuple[int, ...], bool]:
        """First voxels of all windows of an image (C, *S), in order, and whether they are predicted or skipped."""
        places = itertools.product(*starts)
        if self.skip_below is None:
            return dict.fromkeys(places, True)
        # padding is no tissue, whatever the threshold
        mask, _ = pad_to_window((image > self.skip_below).any(dim=0, keepdim=True), window)
        return dict(zip(places, occupied(mask[0], starts=starts, window=window).flatten().tolist(), strict=True))

    def memory(
        self,
        shape: Sequence[int],
        *,
        roi_size: Sequence[int],
        in_channels: int,
        num_channels: int,
        device: torch.device,
    ) -> dict[str, int]:
        window = window_shape(roi_size, num_dims=len(shape))
        padded = [max(size, edge) for size, edge in zip(shape, window, strict=True)]
        batch_size = self.windows_at_once(roi_size, device=device)
        groups = row_groups(window_starts(padded, window, overlap=self.overlap), batch_size=batch_size)
        row, itemsize = math.prod(padded[1:]), PRECISIONS[self.accumulate].itemsize
        is_padded = padded != list(shape)
        # workers compute on while what they computed before is stitched
        workers = self.most_workers(device)
        at_once = AHEAD * workers + 1 if workers > 1 else 1
        # slabs are views of the sum, unless it is in half precision or its padding is cut off
        copies = int(itemsize < 4) + int(is_padded)
        return {
            "image": 4 * in_channels * (math.prod(shape) + is_padded * math.prod(padded)),
            "weights": 4 * math.prod(padded),
            "logits kept": rows_kept(groups, depth=window[0]) * row * num_channels * itemsize,
            "batch": at_once
            * self.batch_bytes(roi_size=roi_size, in_channels=in_channels, num_channels=num_channels, device=device),
            "slab": (rows_of_a_slab(padded) + 1) * row * 4 * num_channels * copies,
        }


def row_groups(starts: Sequence[Sequence[int]], *, batch_size: int) -> list[list[int]]:
    """First rows of the windows that are visited before anything is handed out: as many as a batch has room for."""
    in_a_row = math.prod(len(along) for along in starts[1:])
    return list(batches(starts[0], size=max(1, batch_size // in_a_row)))


def rows_kept(groups: Sequence[Sequence[int]], *, depth: int) -> int:
    """Rows that the windows of one group, `depth` rows each, touch, and the row before them, at most."""
    return max(group[-1] + depth - max(0, group[0] - 1) for group in groups)


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
