"""The grid of the network: spacing or size, window and patch of a data set.

Letters: D axes of the network's window (2 or 3).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sct.models.patch import Extent, in_words
from sct.planning.choice import Choice, choose
from sct.planning.facts import SetFacts
from sct.planning.machine import Machine
from sct.planning.network import window_budget
from sct.planning.window import (
    ANISOTROPIC,
    LEAST_OF_CLASS,
    enlargement,
    patch_of,
    picture_size,
    resampled_shape,
    rounded,
    typical_spacing,
    window_of,
)


@dataclass(frozen=True)
class Sizes:
    """What data set and network have in common, each (D,) along the network's axes.

    shape, spacing: of a typical image as the network sees it; patch: in voxels
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    window: tuple[int, ...]
    patch: Extent

    @property
    def num_tokens(self) -> int:
        return math.prod(self.window) // math.prod(self.patch)

    @property
    def is_whole(self) -> bool:
        """Whether a window holds a typical image."""
        return all(side >= size for side, size in zip(self.window, self.shape, strict=True))


def plan_grid(facts: SetFacts, *, machine: Machine, given: Mapping[str, Any]) -> tuple[list[Choice], Sizes]:
    """The keys spacing, resize_to and roi_size, and what follows from them."""
    budget = window_budget(machine, spatial_dims=facts.spatial_dims)
    if facts.unit == "mm":
        spacing = choose_spacing(facts, budget=budget, given=given)
        sides = spacing.value or list(typical_spacing(facts.spacings))
        shape = resampled_shape(facts.shapes, spacings=facts.spacings, spacing=sides)
        resize = choose("resize_to", None, "sizes are in mm: images are resampled", given=given)
    else:
        spacing = choose("spacing", None, "files have no spacing", given=given)
        sides = [1.0] * facts.spatial_dims
        typical = resampled_shape(facts.shapes, spacings=facts.spacings, spacing=sides)
        resize = choose_size(facts, typical, budget=budget, given=given)
        shape = tuple(resize.value or typical)
    patch = patch_of(shape, spacing=sides, budget=budget)
    window = choose(
        "roi_size",
        list(window_of(shape, patch=patch, budget=budget)),
        f"voxels of a window: a typical image is {times(shape)} then; multiples of the patch, {in_words(patch)}; at "
        f"most {budget:.0f} voxels for {machine}",
        given=given,
    )
    return [spacing, resize, window], Sizes(shape, tuple(sides), tuple(window.value), patch)


def choose_spacing(facts: SetFacts, *, budget: float, given: Mapping[str, Any]) -> Choice:
    """The spacing of a set in mm."""
    spacing = typical_spacing(facts.spacings)
    reason = "mm, the median of the training cases"
    if max(spacing) >= ANISOTROPIC * min(spacing) * 0.99:
        reason += f"; an axis with long voxels gets finer ones, at most {ANISOTROPIC:g} times as long as the others"
    shape = resampled_shape(facts.shapes, spacings=facts.spacings, spacing=spacing)
    factor = enlargement(shape, budget=budget, smallest_class=facts.smallest_class)
    if factor > 1.05:
        reason += f"; {factor:.2g} times as large, so that a window sees enough of an image"
        spacing = tuple(rounded(side * factor) for side in spacing)
    return choose("spacing", list(spacing), reason, given=given)


def choose_size(facts: SetFacts, typical: tuple[int, ...], *, budget: float, given: Mapping[str, Any]) -> Choice:
    """What pictures of a `typical` size are resized to; null where windows are cut out of them as they are."""
    if facts.spatial_dims == 3:
        return choose("resize_to", None, "volumes are not resized", given=given)
    size = picture_size(typical, budget=budget, patch=patch_of(typical, spacing=[1.0, 1.0], budget=budget))
    left = facts.smallest_class * math.prod(size) / math.prod(typical)
    if left < LEAST_OF_CLASS:
        reason = f"not resized: the smallest class would have about {left:.0f} pixels; windows are cut out"
        return choose("resize_to", None, reason, given=given)
    return choose(
        "resize_to", list(size), f"a whole picture at once, of typically {times(typical)} pixels", given=given
    )


def times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
