"""The two stages of inference: features (or logits) of windows, which are stitched, and logits from the stitched map.

Legend: B windows of a batch, C channels of the image, F channels of the stitched map, Q channels of the logits, D axes
of the image, W window size, S size of a part of the image. A place is one position of the stitched map; t is its number
of voxels along each axis (the stride).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sct.inference.base import Model, mirrored_mean
from sct.models.decoders.base import TwoStageDecoder
from sct.models.segmenter import Segmenter

Stitch = Literal["features", "logits"]


@dataclass(frozen=True)
class Stages:
    """The functions of both stages, and their sizes.

    num_channels: F; stride: t (D); reaches: the logits of a voxel depend on so many voxels of the image on either side,
    along each axis (D);
    num_alive: channels of the intermediate maps that `image_logits` has in memory at once, without inputs and output.

    window_features: windows (B, C, ...) -> maps to stitch (B, F, ...); image_logits: stitched map (F, *S / t) and the
    image (C, *S) of the same part -> logits (Q, *S), in the network's number format, of some of its rows.
    """

    num_channels: int
    stride: tuple[int, ...]
    reaches: tuple[int, ...]
    num_alive: int
    window_features: Callable[[Tensor], Tensor]
    image_logits: Callable[[Tensor, Tensor, slice], Tensor]

    @property
    def reach(self) -> int:
        """The logits of a row depend on so many rows of the image on either side."""
        return self.reaches[0]

    @property
    def is_logits(self) -> bool:
        """Whether the stitched maps are logits."""
        return set(self.stride) == {1}

    def places(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Sizes or positions in places, from sizes or positions in voxels that are multiples of the stride."""
        return tuple(size // step for size, step in zip(sizes, self.stride, strict=True))

    def pooled(self, weight: Tensor) -> Tensor:
        """The weights of voxels (*W) averaged over the voxels of each place: (*W / t)."""
        for axis, step in enumerate(self.stride):
            weight = weight.unflatten(axis, (-1, step)).mean(dim=axis + 1)
        return weight

    def spread(self, mask: Tensor) -> Tensor:
        """A mask of places (*S / t) as a mask of voxels (*S)."""
        for axis, step in enumerate(self.stride):
            mask = mask.repeat_interleave(step, dim=axis)
        return mask


def stages_of(
    model: Model,
    *,
    stitch: Stitch,
    num_channels: int,
    mirror_axes: Sequence[int],
    roi_size: Sequence[int],
    num_dims: int,
) -> Stages:
    """The stages of a network for images with `num_dims` axes in windows of `roi_size`, Q = num_channels.

    Features are stitched if the decoder has two stages. Logits are stitched if it does not, with stitch=logits, and
    with mirrored windows: the logits of a mirrored window must be computed from the features of this window.
    """
    decoder = model.decoder if isinstance(model, Segmenter) else None
    if stitch == "logits" or mirror_axes or not isinstance(decoder, TwoStageDecoder):
        return Stages(
            num_channels=num_channels,
            stride=(1,) * num_dims,
            reaches=(0,) * num_dims,
            num_alive=0,
            window_features=lambda windows: mirrored_mean(model, windows, axes=mirror_axes),
            image_logits=lambda logits, image, rows: logits[:, rows],
        )
    assert isinstance(model, Segmenter)
    slices = num_dims - len(roi_size)  # 1 if a volume is predicted slice by slice

    def image_logits(features: Tensor, image: Tensor, rows: slice) -> Tensor:
        if slices:  # they form a batch
            return decoder.voxels(features[:, rows].movedim(1, 0), image[:, rows].movedim(1, 0)).movedim(0, 1)
        return decoder.voxels(features.unsqueeze(0), image.unsqueeze(0), rows).squeeze(0)

    return Stages(
        num_channels=decoder.num_features,
        stride=(1,) * slices + decoder.stride,
        reaches=(0,) * slices + (decoder.reach,) * len(roi_size),
        num_alive=decoder.num_alive,
        window_features=model.features,
        image_logits=image_logits,
    )
