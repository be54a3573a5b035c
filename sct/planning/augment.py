"""What is varied in training, by what kind of image it is and what the classes are called.

Letters: D axes of the network's window (2 or 3).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sct.planning.intensity import Kind

SIDES = {"left", "right", "l", "r", "lt", "rt", "lh", "rh", "sinister", "dexter"}
# a voxel side that is this much longer than the shortest: rotations across it would distort
UNEQUAL = 1.5
BOTH, IMAGE = ["image", "label"], ["image"]


def has_sides(names: Iterable[str]) -> bool:
    """Whether a class is of one side of the body: kidney_left, LeftKidney, "R lung"."""
    words = {word.lower() for name in names for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
    return bool(words & SIDES)


def augmentation(
    *, kind: Kind, coloured: bool, mirrored: bool, spacing: Sequence[float], window: Sequence[int], whole: bool
) -> tuple[dict[str, Any], str]:
    """The transforms by name, and why these.

    coloured: photographs, whose channels differ; mirrored: along the first axis, or the columns of a picture
    whole: a window holds a whole image
    """
    if kind == "picture":
        return picture_augmentation(turned=mirrored and coloured, mirrored=mirrored)
    strength = 0.1 if kind == "ct" else 0.15
    transforms = {
        **({"flip_x": flip(0)} if mirrored else {}),
        "affine": {
            **transform("RandAffined", keys=BOTH, prob=0.7),
            "rotate_range": rotations(spacing),
            "scale_range": [0.2] * len(window),
            # elsewhere crops lie anywhere by themselves
            **({"translate_range": [float(max(1, round(0.07 * size))) for size in window]} if whole else {}),
            "mode": ["bilinear", "nearest"],
            "padding_mode": "border",
        },
        "scale_intensity": {**transform("RandScaleIntensityd", keys=IMAGE, prob=0.5), "factors": strength},
        "shift_intensity": {**transform("RandShiftIntensityd", keys=IMAGE, prob=0.5), "offsets": strength},
        "noise": {**transform("RandGaussianNoised", keys=IMAGE, prob=0.3), "std": strength},
    }
    if kind == "ct":
        return transforms, "rotation, scaling, little change of intensity: Hounsfield units mean the same everywhere"
    blur = {f"sigma_{axis}": [0.4, 0.9] for axis in "xyz"[: len(window)]}
    transforms |= {
        "gamma": {**transform("RandAdjustContrastd", keys=IMAGE, prob=0.3), "gamma": [0.7, 1.5], "retain_stats": True},
        "smooth": {**transform("RandGaussianSmoothd", keys=IMAGE, prob=0.2), **blur},
    }
    return transforms, "rotation, scaling, contrast, noise and blur: scanners and sequences differ"


def picture_augmentation(*, turned: bool, mirrored: bool) -> tuple[dict[str, Any], str]:
    """turned: photographs that have no up or down; mirrored: along the columns."""
    transforms: dict[str, Any] = {
        **({"flip_rows": flip(0)} if turned else {}),
        **({"flip_columns": flip(1)} if mirrored else {}),
        "affine": {
            **transform("RandAffined", keys=BOTH, prob=0.7),
            "rotate_range": [3.1416 if turned else 0.26],
            "scale_range": [0.2, 0.2],
            "mode": ["bilinear", "nearest"],
            "padding_mode": "reflection",
        },
        "gamma": {**transform("RandAdjustContrastd", keys=IMAGE, prob=0.5), "gamma": [0.7, 1.5]},
        "contrast": {
            **transform("RandScaleIntensityFixedMeand", keys=IMAGE, prob=0.5),
            "factors": 0.25,
            "preserve_range": True,
        },
    }
    way = "any rotation (colour photographs have no up or down)" if turned else "rotations up to 15 degrees"
    return transforms, f"{way}, scaling, contrast: cameras and light differ"


def rotations(spacing: Sequence[float]) -> list[float]:
    """Largest angles in radians: about every axis, or about the one with long voxels; of pictures one angle."""
    if len(spacing) == 2:
        return [0.3]
    long = [axis for axis, side in enumerate(spacing) if side > UNEQUAL * min(spacing)]
    if not long:
        return [0.3] * 3
    return [0.3 if axis in long and len(long) == 1 else 0.0 for axis in range(3)]


def flip(axis: int) -> dict[str, Any]:
    return {**transform("RandFlipd", keys=BOTH, prob=0.5), "spatial_axis": axis}


def transform(name: str, *, keys: Sequence[str], prob: float) -> dict[str, Any]:
    return {"_target_": f"monai.transforms.{name}", "keys": list(keys), "prob": prob}
