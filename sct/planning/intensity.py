"""How intensities are normalised, by what kind of image it is, and what is cut away as background."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sct.planning.choice import Choice, choose
from sct.planning.facts import Foreground, SetFacts

Kind = Literal["ct", "picture", "other"]

# Hounsfield units: air is -1000, and whatever reaches below this typically has air in it
AIR = -500.0
# the body without the air around it
BODY = -300.0
# names of channels for which nnU-Net has a normalisation of its own
NAMED = {"ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1"}
# where less of a set's images is not 0, they were cut out of their background (skull stripping)
CUT_OUT = 0.25


def kind_of(facts: SetFacts) -> Kind:
    """CT by the names of the channels, as in nnU-Net; where there are none, by intensities."""
    if facts.pictures:
        return "picture"
    if facts.channels:
        return "ct" if all(name.strip().lower() == "ct" for name in facts.channels) else "other"
    return "ct" if facts.lowest < AIR else "other"


def intensity_choices(facts: SetFacts, *, given: Mapping[str, Any]) -> list[Choice]:
    """The keys intensity, crop_above and zero_background."""
    kind = kind_of(facts)
    crop_above, crop_reason = None, "nothing is cut away: what is background can't be told from the intensities"
    zero_background, zero_reason = False, "0 is an intensity as any other"
    node: dict[str, Any] | None
    if facts.by_name and NAMED & {name.strip().lower() for name in facts.channels}:
        node, reason = None, "each channel by its name, as nnU-Net does"
        crop_above = hounsfield(facts.foreground)[1] if kind == "ct" else None
    elif kind == "picture":
        node = ranged(0.0, 255.0, b_min=-1.0, b_max=1.0)
        reason = "pictures: 8 bits become -1 to 1"
    elif kind == "ct":
        node, crop_above = hounsfield(facts.foreground)
        reason = (
            f"CT: clipped to the percentiles 0.5 and 99.5 of all voxels with a label in the training cases "
            f"({node['a_min']:g} to {node['a_max']:g}), then mean 0 and standard deviation 1 of these voxels"
        )
    elif facts.zeros > CUT_OUT:
        node = {**normalised(), "nonzero": True}
        reason = "each channel of each case gets mean 0 and standard deviation 1, of the voxels that are not 0"
        zero_background = True
        zero_reason = f"{facts.zeros:.0%} of a typical image is 0 in every channel: background, which is cut away"
    else:
        node = {"_target_": "monai.transforms.Compose", "transforms": [percentiles(), normalised()]}
        reason = (
            "each channel of each case is clipped to its percentiles 0.5 and 99.5 (single bright voxels), then gets "
            "mean 0 and standard deviation 1: scanners have no common scale"
        )
    if crop_above is not None:
        crop_reason = "the air around the body is cut away, at the normalised value of -300 HU or of the lower clip"
    return [
        choose("intensity", node, reason, given=given),
        choose("crop_above", crop_above, crop_reason, given=given),
        choose("zero_background", zero_background, zero_reason, given=given),
    ]


def hounsfield(foreground: Sequence[Foreground]) -> tuple[dict[str, Any], float | None]:
    """The transform of CT, and the normalised value of the air around the body, None where it can't be told.

    Several channels are phases of one scan: they share the scale.
    """
    low, high = min(one.low for one in foreground), max(one.high for one in foreground)
    mean = sum(one.mean for one in foreground) / len(foreground)
    std = sum(one.std for one in foreground) / len(foreground) or 1.0
    high = max(high, low + 1.0)
    # of labels that are all bright (vessels, bone) what is darker is no background
    edge = None if low > 0 else round((max(BODY, low) - mean) / std, 4)
    scaled = ranged(
        round(low, 1), round(high, 1), b_min=round((low - mean) / std, 4), b_max=round((high - mean) / std, 4)
    )
    return {**scaled, "clip": True}, edge


def ranged(a_min: float, a_max: float, *, b_min: float, b_max: float) -> dict[str, Any]:
    limits = {"a_min": a_min, "a_max": a_max, "b_min": b_min, "b_max": b_max}
    return {"_target_": "sct.data.loading.scaling.ScaleRange", **limits}


def percentiles() -> dict[str, Any]:
    limits = {"lower": 0.5, "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True, "channel_wise": True}
    return {"_target_": "monai.transforms.ScaleIntensityRangePercentilesd", "keys": ["image"], **limits}


def normalised() -> dict[str, Any]:
    return {"_target_": "sct.data.loading.scaling.Standardise"}
