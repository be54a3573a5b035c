"""What a first look chooses of a scan: the patches that are predicted, and windows and boxes that hold them.

Letters: C channels, S size of the image (2 or 3 dims), G the grid of patches, P patches, Q organs. Boxes and windows
are in voxels.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.data.cases import Box, whole_box, window_shape
from sct.data.module import SegmentationData
from sct.inference.base import Inferer, Model, Request
from sct.inference.wanted import Wanted, joined, volume_of, windows_for
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
        return highest(logits, reach=[max(0, self.margin - 1)] * logits.ndim)

    def held(self, logits: Tensor, *, cells: Sequence[int]) -> Tensor:
        """The patches (*G) bool that windows of `cells` patches are laid for: near ones, see `windows_for`.

        Along an axis where a window has no room for a patch more on either side, all that are predicted.
        """
        reach = [max(0, self.margin - 1) if count > 2 else self.margin for count in cells]
        return highest(logits, reach=reach) >= self.threshold

    def predicted(self, logits: Tensor) -> Tensor:
        """The patches that are predicted, (*G) bool."""
        return highest(logits, reach=[self.margin] * logits.ndim) >= self.threshold

    def settings(self) -> dict[str, float]:
        """As a file has them."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Part:
    """A box of an image, and the patches in it that are predicted; None: the whole box."""

    box: Box
    wanted: Wanted | None = None


@dataclass(frozen=True, eq=False)
class View:
    """What is predicted of an image, and what is left out of it.

    parts: disjoint; all else is background. patches: of the whole image; worth: of these, patches worth predicting;
    voxels, windows: that are predicted; all_voxels, all_windows: without a first look. Windows of air that the inferer
    skips are not counted off.
    """

    parts: tuple[Part, ...]
    patches: int
    worth: int
    voxels: int
    all_voxels: int
    windows: int
    all_windows: int

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes of the parts."""
        return tuple(part.box for part in self.parts)

    def record(self) -> dict[str, int]:
        """The numbers by name, with the number of boxes."""
        counts = ("patches", "worth", "voxels", "all_voxels", "windows", "all_windows")
        return {"boxes": len(self.parts), **{name: getattr(self, name) for name in counts}}

    def __str__(self) -> str:
        share = self.voxels / self.all_voxels
        return (
            f"{self.worth} of {self.patches} patches are worth predicting: {self.windows} of {self.all_windows} "
            f"windows, {share:.0%} of the voxels; the rest is background"
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

    Where it would take as many windows as the whole image, or more, the whole image is predicted.
    """
    if look is None:
        return None
    assert isinstance(model, Segmenter)
    assert model.look is not None
    shape = tuple(image.shape[1:])
    window, patch = (window_shape(of, num_dims=len(shape)) for of in (data.roi_size, model.look.patch_size))

    def windows(parts: Sequence[Part]) -> int:
        return sum(
            inferer.num_windows(
                model,
                [edge.stop - edge.start for edge in part.box],
                Request(data.roi_size, data.outputs.background, device, part.wanted),
            )
            for part in parts
        )

    logits = model.look.scan(image, device=device).cpu()
    held = look.held(logits, cells=[edge // size for edge, size in zip(window, patch, strict=True)])
    starts = windows_for(held, patch=patch, shape=shape, window=window, context=look.margin > 0)
    wanted = Wanted(look.predicted(logits), patch, starts)
    parts = parts_of(wanted, shape=shape, window=window)
    if windows(parts) >= windows(whole := whole_or(None, shape=shape)):
        parts = whole
    view = View(
        parts=parts,
        patches=logits.numel(),
        worth=int((logits >= look.threshold).sum()),
        voxels=sum(num_voxels(part) for part in parts),
        all_voxels=math.prod(shape),
        windows=windows(parts),
        all_windows=windows(whole),
    )
    logger.info("first look: %s", view)
    return view


def whole_or(view: View | None, *, shape: Sequence[int]) -> tuple[Part, ...]:
    """What is predicted of an image of `shape`: the parts of a view, or without one the whole image."""
    return (Part(whole_box(shape)),) if view is None else view.parts


def parts_of(wanted: Wanted, *, shape: Sequence[int], window: Sequence[int]) -> tuple[Part, ...]:
    """What is wanted of an image of `shape`, in disjoint boxes. Windows that overlap are in one of them.

    A box begins with a patch, and is at least as large as a window where the image is. Windows of one slice never
    overlap those of the next: they are in one box with them, since a file may have voxels between the two.
    """
    rims = [int(length == 1) for length in window]
    boxes = joined(
        [
            tuple(
                slice(max(0, at - rim) // unit * unit, min(at + length + rim, size))
                for at, unit, length, size, rim in zip(start, wanted.patch, window, shape, rims, strict=True)
            )
            for start in wanted.windows
        ]
    )
    return tuple(Part(box, wanted.part(box)) for box in boxes)


def num_voxels(part: Part) -> int:
    """Voxels of a part that are predicted."""
    if part.wanted is None:
        return volume_of(part.box)
    return part.wanted.num_voxels([edge.stop - edge.start for edge in part.box])


def highest(logits: Tensor, *, reach: Sequence[int]) -> Tensor:
    """The highest logit of each patch (*G) and those up to `reach` patches away from it along each axis: (*G)."""
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[logits.ndim]
    return pool(logits[None, None], [2 * steps + 1 for steps in reach], stride=1, padding=list(reach))[0, 0]


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
