"""What is computed of every window and stitched, and how logits come from it.

Legend: B windows of a batch, C channels of the image, F of what is stitched, Q of the logits, D axes of the image, W
window size, t voxels along every axis of what is stitched to a place, S size of a part of the image.
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
    """num_channels: F; stride: t (D); reach: rows of the image on either side of a row that its logits depend on;
    num_alive: channels at the voxels that `image_logits` holds at a time, beside what it is given and gives.

    window_features: windows (B, C, ...) -> (B, F, ...), what is stitched; image_logits: what was stitched (F, *S / t)
    and the image (C, *S) there -> logits (Q, *S) float32.
    """

    num_channels: int
    stride: tuple[int, ...]
    reach: int
    num_alive: int
    window_features: Callable[[Tensor], Tensor]
    image_logits: Callable[[Tensor, Tensor], Tensor]

    @property
    def is_logits(self) -> bool:
        """Whether what is stitched are the logits themselves."""
        return set(self.stride) == {1}

    def places(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Places of voxels that are multiples of the stride."""
        return tuple(size // step for size, step in zip(sizes, self.stride, strict=True))

    def pooled(self, weight: Tensor) -> Tensor:
        """Mean weight (*W / t) of the voxels (*W) of a place."""
        for axis, step in enumerate(self.stride):
            weight = weight.unflatten(axis, (-1, step)).mean(dim=axis + 1)
        return weight

    def spread(self, mask: Tensor) -> Tensor:
        """Every voxel (*S) of the places of a mask (*S / t)."""
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
    """The stages of a network for images of `num_dims` axes in windows of `roi_size`, Q = num_channels.

    Features of networks that have them; logits where there are none, where `stitch` says so, and with mirrored windows:
    the voxels of a mirrored window come from its own features.
    """
    decoder = model.decoder if isinstance(model, Segmenter) else None
    if stitch == "logits" or mirror_axes or not isinstance(decoder, TwoStageDecoder):
        return Stages(
            num_channels=num_channels,
            stride=(1,) * num_dims,
            reach=0,
            num_alive=0,
            window_features=lambda windows: mirrored_mean(model, windows, axes=mirror_axes),
            image_logits=lambda logits, image: logits,
        )
    assert isinstance(model, Segmenter)
    slices = num_dims - len(roi_size)  # 1 where a volume is predicted slice by slice

    def image_logits(features: Tensor, image: Tensor) -> Tensor:
        # slices are a batch, a volume is a batch of one
        features, image = ((part.movedim(1, 0) if slices else part.unsqueeze(0)) for part in (features, image))
        logits = decoder.voxels(features, image).float()
        return logits.movedim(0, 1) if slices else logits.squeeze(0)

    return Stages(
        num_channels=decoder.num_features,
        stride=(1,) * slices + (decoder.stride,) * len(roi_size),
        reach=0 if slices else decoder.reach,
        num_alive=decoder.num_alive,
        window_features=model.features,
        image_logits=image_logits,
    )
