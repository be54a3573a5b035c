"""Windows of real images for measurements, as a sliding window takes them from the cases of a data set.

Letters: C channels, S window size, D = len(S).
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.data.cases import Case, window_shape
from sct.data.module import SegmentationData


def sample_windows(
    data: SegmentationData, *, count: int, split: str = "val", cases: list[Case] | None = None, overlap: float = 0.5
) -> Tensor:
    """`count` windows (count, C, *S), spread evenly over all windows of the cases of a split, windows of air included.

    `cases` replaces the cases of the split. With fewer cases than `count`, a case gives several windows; with fewer
    windows than `count`, some windows are repeated.
    """
    cases = cases or data.cases(split)
    chosen = []
    for number in range(count):
        volume = data.load_case(cases[number % len(cases)])
        windows = list(all_windows(volume.image, size=data.roi_size, overlap=overlap))
        share = (number // len(cases) + 0.5) * len(cases) / count
        chosen.append(windows[int(share * len(windows)) % len(windows)])
    return torch.stack(chosen)


def all_windows(image: Tensor, *, size: Sequence[int], overlap: float) -> Iterator[Tensor]:
    """The windows (C, *S) of an image (C, ...); an image smaller than a window is padded with zeros.

    2-D windows of a volume are taken from its slices along the first axis.
    """
    shape = window_shape(size, num_dims=image.ndim - 1)
    missing = [max(0, edge - length) for edge, length in zip(shape, image.shape[1:], strict=True)]
    pads = [pad for voxels in reversed(missing) for pad in (voxels // 2, voxels - voxels // 2)]
    image = F.pad(image, pads)
    step = [max(1, int(edge * (1 - overlap))) for edge in shape]
    # the import takes seconds, and predictions look up what a run can do by this module
    from monai.data.utils import dense_patch_slices

    for window in dense_patch_slices(tuple(image.shape[1:]), shape, tuple(step)):
        yield image[(slice(None), *window)].reshape(-1, *size)
