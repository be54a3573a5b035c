"""What a first look chooses of a scan: boxes that hold every patch worth predicting.

Letters: C channels, S size of the image (2 or 3 dims), G the grid of patches, P patches, Q organs. Boxes and windows
are in voxels.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

from sct.data.cases import Box, window_shape
from sct.data.module import SegmentationData
from sct.inference.base import Inferer, Model
from sct.models.segmenter import Segmenter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """How a run uses its first look: patches with a logit of `threshold` or more are worth predicting.

    margin: patches round those that are predicted as well. The outermost of them are there so that windows see what
    surrounds an organ; the others may hold its rim, see `near`.
    """

    threshold: float
    margin: int

    def near(self, logits: Tensor) -> Tensor:
        """The highest logit of each patch of a scan (*G) and those up to `margin` - 1 patches away from it: (*G).

        A patch where this is not below the threshold is predicted, and so are those next to it, if margin is above 0.
        """
        reach = max(0, self.margin - 1)
        pool = {2: F.max_pool2d, 3: F.max_pool3d}[logits.ndim]
        return pool(logits[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]

    def settings(self) -> dict[str, float]:
        """As a file has them."""
        return asdict(self)


@dataclass(frozen=True)
class View:
    """What is predicted of an image, and what is left out of it.

    boxes: disjoint parts of the image; all else is background. patches: of the whole image; worth: of these, patches
    worth predicting; voxels, windows: in the boxes; all_voxels, all_windows: without a first look. Windows of air that
    the inferer skips are not counted off.
    """

    boxes: tuple[Box, ...]
    patches: int
    worth: int
    voxels: int
    all_voxels: int
    windows: int
    all_windows: int

    def record(self) -> dict[str, int]:
        """The numbers by name, with the number of boxes."""
        numbers = {name: value for name, value in asdict(self).items() if name != "boxes"}
        return {"boxes": len(self.boxes), **numbers}

    def __str__(self) -> str:
        share = self.voxels / self.all_voxels
        return (
            f"{self.worth} of {self.patches} patches are worth predicting: {self.windows} of {self.all_windows} "
            f"windows in {len(self.boxes)} box(es), {share:.0%} of the voxels; the rest is background"
        )


def look_at(
    model: Model,
    image: Tensor,
    look: Look | None,
    *,
    inferer: Inferer,
    data: SegmentationData,
    device: torch.device,
) -> View | None:
    """What a calibrated look chooses of an image (C, *S), logged; None where there is none, and all is predicted.

    Boxes that would take as many windows as the whole image, or more, are replaced by the whole image.
    """
    if look is None:
        return None
    assert isinstance(model, Segmenter)
    assert model.look is not None
    shape = tuple(image.shape[1:])
    window, patch = (window_shape(of, num_dims=len(shape)) for of in (data.roi_size, model.look.patch_size))

    def windows(boxes: Sequence[Box]) -> int:
        sizes = ([edge.stop - edge.start for edge in box] for box in boxes)
        return sum(
            inferer.num_windows(model, size, roi_size=data.roi_size, num_channels=data.outputs.num_channels)
            for size in sizes
        )

    worth = (model.look.scan(image, device=device) >= look.threshold).numpy()
    boxes = boxes_of(worth, patch=patch, shape=shape, window=window, margin=look.margin)
    whole = whole_or(None, shape=shape)
    if windows(boxes) >= windows(whole):
        boxes = whole
    view = View(
        boxes=boxes,
        patches=worth.size,
        worth=int(worth.sum()),
        voxels=sum(volume_of(box) for box in boxes),
        all_voxels=math.prod(shape),
        windows=windows(boxes),
        all_windows=windows(whole),
    )
    logger.info("first look: %s", view)
    return view


def whole_or(view: View | None, *, shape: Sequence[int]) -> tuple[Box, ...]:
    """What is predicted of an image of `shape`: the boxes of a view, or without one the whole image."""
    return (tuple(slice(0, size) for size in shape),) if view is None else view.boxes


def boxes_of(
    worth: np.ndarray, *, patch: Sequence[int], shape: Sequence[int], window: Sequence[int], margin: int
) -> tuple[Box, ...]:
    """Disjoint boxes of an image of `shape` that hold the patches worth (*G) bool, with `margin` patches round them.

    Patches that touch are in one box. A box is at least as large as a window where the image is.
    """
    numbers, _ = scipy.ndimage.label(worth, structure=np.ones((3,) * worth.ndim))
    boxes = []
    for found in scipy.ndimage.find_objects(numbers):
        edges = zip(found, patch, shape, window, strict=True)
        boxes.append(
            tuple(
                widened((edge.start - margin) * unit, (edge.stop + margin) * unit, least=least, size=size, unit=unit)
                for edge, unit, size, least in edges
            )
        )
    return tuple(joined(boxes))


def widened(start: int, stop: int, *, least: int, size: int, unit: int) -> slice:
    """The part of start ... stop - 1 within 0 ... size - 1, widened on both sides to `least`, as far as that fits.

    It starts at a multiple of `unit` if `start` is one, so that patches of the part are patches of the whole.
    """
    start, stop = max(0, start), min(stop, size)
    if (missing := least - (stop - start)) > 0:
        start = max(0, min(start - missing // 2, size - least)) // unit * unit
    return slice(start, min(size, max(stop, start + least)))


def joined(boxes: Sequence[Box]) -> list[Box]:
    """Disjoint boxes that hold all boxes: those that overlap become the smallest box that holds both."""
    found: list[Box] = []
    for box in boxes:
        # a box that has grown may overlap others that it did not overlap before
        while overlapping := [other for other in found if overlap(box, other)]:
            found = [other for other in found if not overlap(box, other)]
            box = tuple(
                slice(min(edge.start for edge in edges), max(edge.stop for edge in edges))
                for edges in zip(box, *overlapping, strict=True)
            )
        found.append(box)
    return found


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes have a voxel in common."""
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


def volume_of(box: Box) -> int:
    """Number of voxels of a box."""
    return math.prod(edge.stop - edge.start for edge in box)


def safe_threshold(logits: Tensor, counts: Tensor, *, keep: float) -> Tensor:
    """For each organ the highest threshold that keeps this share of its voxels: (Q) float32, NaN for an absent organ.

    logits (P) of patches, counts (P, Q): voxels of each organ in them. Kept are patches with a logit that is not below
    the threshold.
    """
    order = logits.argsort(descending=True, stable=True)
    kept, total = counts[order].double().cumsum(dim=0), counts.double().sum(dim=0)
    # the first place at which enough is kept; sums of whole numbers are exact
    enough = (kept >= keep * total).double().argmax(dim=0)
    return torch.where(total > 0, logits[order][enough], torch.nan)


def left_out(logits: Tensor, counts: Tensor, *, threshold: float) -> Tensor:
    """The share of each organ's voxels in patches below the threshold: (Q), NaN for an absent organ; see above."""
    missed = counts[logits < threshold].sum(dim=0).double()
    return missed / counts.sum(dim=0).double()


def miss_bound(num_cases: int, *, confidence: float = 0.95) -> float:
    """The share of new cases that miss more than the calibration allows is at most this, with this confidence.

    The threshold is the lowest of those of the cases. The chance that a new case needs a lower one is then distributed
    as Beta(1, n), whatever the distribution of thresholds: 1 - (1 - confidence)^(1/n), nearly 3 / n for many cases.
    """
    return 1 - (1 - confidence) ** (1 / num_cases)
