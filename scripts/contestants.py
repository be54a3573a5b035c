"""The networks that scripts/duel.py can compare: how each is made, and how it predicts as its own program does.

Legend of names: `fast` is this project's; `dense` has all tokens; `_3mm` works on voxels of 3 mm, for many classes at
once; `openvino_` is the same network as a graph of OpenVINO, in bf16.

contestant      network, and what it stands for
fast            btcv_fast_stp
fastest         btcv_fastest_stp
fast_3mm        btcv_fast_stp on voxels of 3 mm
dense_unetr     the network of the STP paper without pruning, patch 8
monai_unetr     MONAI's UNETR, patch 16
nnunet          nnU-Net's plain U-Net, windows of 128^3
segresnet_3mm   MONAI's SegResNet as its whole-body bundle uses it at low resolution: windows of 96^3, overlap 0.25
nnunet_3mm      nnU-Net's plain U-Net as TotalSegmentator's fast mode uses it: windows of 112 x 112 x 128, overlap 0.5
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from sct.errors import UserError


@dataclass(frozen=True)
class Contestant:
    """Overrides that make a network, settings of its prediction, and the format of its export (None: not exported).

    packages: modules that it needs beside those of this project, see `REMEDIES`
    """

    network: tuple[str, ...]
    predict: tuple[str, ...] = ()
    export: str | None = None
    packages: tuple[str, ...] = ()


REMEDIES = {
    "dynamic_network_architectures": "pip install --no-deps dynamic-network-architectures",
    "openvino": "pip install -e '.[openvino]'",
}

BASELINE = ("+experiment=btcv_dense_unetr",)
COARSE = ("data.spacing=[3,3,3]",)
# MONAI's default overlap, which gives as many windows as the fast inferer has; nnU-Net uses 0.5, its own default
REFERENCE = ("precision=fp32", "inferer.overlap=0.25")
NNUNET = (*BASELINE, "model=nnunet")

OURS = {
    "fast": Contestant(("+experiment=btcv_fast_stp",)),
    "fastest": Contestant(("+experiment=btcv_fastest_stp",)),
    "fast_3mm": Contestant(("+experiment=btcv_fast_stp", *COARSE)),
}
RIVALS = {
    "dense_unetr": Contestant(BASELINE, REFERENCE),
    "monai_unetr": Contestant((*BASELINE, "model=monai_unetr"), REFERENCE),
    "nnunet": Contestant(
        (*NNUNET, "data.roi_size=[128,128,128]"), ("precision=fp32",), packages=("dynamic_network_architectures",)
    ),
    "segresnet_3mm": Contestant(
        (
            *(*BASELINE, *COARSE, "model=monai_segresnet", "data.roi_size=[96,96,96]", "model.network.init_filters=32"),
            *("+model.network.blocks_down=[1,2,2,4]", "+model.network.blocks_up=[1,1,1]"),
            "+model.network.dropout_prob=0.2",
        ),
        REFERENCE,
    ),
    "nnunet_3mm": Contestant(
        # axes of 112 are halved four times, to 7, as the planner does
        (*NNUNET, *COARSE, "data.roi_size=[112,112,128]", "model.last_stride=[1,1,2]"),
        ("precision=fp32", "inferer.overlap=0.5"),
        packages=("dynamic_network_architectures",),
    ),
}


def in_openvino(rival: Contestant) -> Contestant:
    """The same network as a graph of OpenVINO."""
    settings = tuple(setting.replace("precision=fp32", "precision=bf16") for setting in rival.predict)
    return replace(rival, predict=settings, export="openvino", packages=(*rival.packages, "openvino"))


CONTESTANTS = OURS | RIVALS | {f"openvino_{name}": in_openvino(rival) for name, rival in RIVALS.items()}
# those of the README's table, which run if none are named
USUAL = ("fast", "dense_unetr", "monai_unetr", "nnunet", "openvino_dense_unetr")


def with_classes(contestant: Contestant, count: int) -> Contestant:
    """The contestant for a data set with `count` classes beside the background, and else as before."""
    names = ",".join(["background", *(f"class_{number}" for number in range(1, count + 1))])
    data = ("data._target_=sct.data.sets.msd.MSD", f"+data.labels=[{names}]", "+data.channels=[CT]", "data.split=null")
    # groups of organs that are no more classes
    return replace(contestant, network=(*contestant.network, *data, "~data.class_groups"))


def check_packages(names: Sequence[str]) -> None:
    """UserError if a package that a contestant needs is not installed."""
    for name in names:
        for module in CONTESTANTS[name].packages:
            if find_spec(module) is None:
                raise UserError(
                    f"{name} needs the package {module}: {REMEDIES[module]}, or leave it out with --contestants."
                )
