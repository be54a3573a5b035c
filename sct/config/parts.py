"""Parts: what a saved config may build. Own classes declare that they are one; torch's and MONAI's are listed.

A saved config may come from a stranger, and a class that it names runs. A list of what is forbidden was never complete:
libraries have classes that import what they are told, download, or write where they are told. The config of the command
itself is the user's own and may name anything.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sct.errors import UserError

Declared = TypeVar("Declared")

MARK = "is_part_of_configs"
# a class or function of a module of this project; names with an underscore in front are nobody's setting
OWN_PATH = re.compile(r"sct(\.[a-z][a-z0-9_]*)+\.[A-Za-z]\w*")
# what a text among the settings of a library's part may be: an option such as "relu", never a path or a dotted name
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_ +-]{0,39}|")

LIBRARY: dict[str, tuple[str, ...]] = {
    "torch.optim": (
        *("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
    ),
    "monai.networks.nets": (
        *("AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "SegResNet", "SegResNetDS", "SwinUNETR"),
        *("UNETR", "UNet", "VNet"),
    ),
    "monai.transforms": (
        # that join others
        *("Compose", "OneOf", "RandomOrder", "SomeOf"),
        # that change intensities
        *("ClipIntensityPercentilesd", "GaussianSharpend", "GaussianSmoothd", "HistogramNormalized", "Identityd"),
        *("MedianSmoothd", "NormalizeIntensityd", "ScaleIntensityRangePercentilesd", "ScaleIntensityRanged"),
        *("ScaleIntensityd", "ShiftIntensityd", "StdShiftIntensityd", "ThresholdIntensityd"),
        *("RandAdjustContrastd", "RandBiasFieldd", "RandCoarseDropoutd", "RandCoarseShuffled", "RandGaussianNoised"),
        *("RandGaussianSharpend", "RandGaussianSmoothd", "RandGibbsNoised", "RandHistogramShiftd"),
        *("RandKSpaceSpikeNoised", "RandRicianNoised", "RandScaleIntensityFixedMeand", "RandScaleIntensityd"),
        *("RandShiftIntensityd", "RandStdShiftIntensityd"),
        # that move voxels
        *("Flipd", "Rotate90d", "Rotated", "Zoomd"),
        *("Rand2DElasticd", "Rand3DElasticd", "RandAffined", "RandAxisFlipd", "RandFlipd", "RandGridDistortiond"),
        *("RandRotate90d", "RandRotated", "RandSimulateLowResolutiond", "RandZoomd"),
    ),
}
LISTED = frozenset(f"{module}.{name}" for module, names in LIBRARY.items() for name in names)


def part(target: Declared) -> Declared:
    """Declares that a saved config may build this class, and classes derived from it, or call this function.

    Nothing that a setting says may choose code, or a place to write to, beside the settings of `SegmentationData`, for
    which `SegmentationData.may_write` says what counts.
    """
    setattr(target, MARK, True)
    return target


def is_part(target: Any) -> bool:
    """Whether a class or function of this project, or its base, is declared as a part."""
    return (inspect.isclass(target) or inspect.isfunction(target)) and getattr(target, MARK, False) is True


def check_library_settings(settings: Mapping[Any, Any], *, key: str) -> None:
    """UserError for a setting of a library's part that is no number, option, list or mapping of such, or inner part.

    The libraries' own type hints are not reliable, and a text of theirs may be a path or the name of code.
    """
    for place, text in texts(settings, key=key):
        if not WORD.fullmatch(text):
            raise UserError(
                f"{place}={text} is not allowed in a saved config: a text for a class of torch or MONAI must be one "
                "option of letters and digits there. Build that class in a class of your own package, and name that "
                "package on the command line with plugins=[mypkg]."
            )


def texts(node: Any, *, key: str) -> Iterator[tuple[str, str]]:
    """All texts below a node with their keys, without those of inner parts."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, child in node.items():
            if isinstance(name, str) and not name.startswith("_"):
                yield f"{key}.{name}", name
            if not (isinstance(child, Mapping) and "_target_" in child) and name != "_target_":
                yield from texts(child, key=f"{key}.{name}")
    elif isinstance(node, Sequence):
        for number, child in enumerate(node):
            if not (isinstance(child, Mapping) and "_target_" in child):
                yield from texts(child, key=f"{key}.{number}")
