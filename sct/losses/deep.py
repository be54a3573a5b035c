"""Deep supervision: the weights of a decoder's levels, and labels at their resolution.

Letters: B batch, S spatial size, s size of a level.
"""

from collections.abc import Sequence

from torch import Tensor


def level_weights(number: int) -> list[float]:
    """The weights of the losses of `number` levels, finest first: 1, 1/2, 1/4, ..., divided by their sum (nnU-Net)."""
    weights = [0.5**level for level in range(number)]
    return [weight / sum(weights) for weight in weights]


def sampled(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels or a mask (B, *S) at a coarser size s that divides S: of every block the voxel in its middle."""
    for axis, (length, places) in enumerate(zip(labels.shape[1:], size, strict=True), start=1):
        assert length % places == 0, "a level of the decoder divides the image"
        step = length // places
        labels = labels[(slice(None),) * axis + (slice(step // 2, None, step),)]
    return labels
