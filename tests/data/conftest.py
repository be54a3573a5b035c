"""Little data sets in temporary folders, and where the real ones are."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from little_data import save, scale
from monai.transforms import (
    RandAffined,
    RandFlipd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

from sct.data.sets.btcv import BTCV

REAL_DATA = Path(os.environ.get("SCT_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        if not (REAL_DATA / name).is_dir():
            pytest.skip(f"real data {name} is not in {REAL_DATA} (set SCT_REAL_DATA)")
        return REAL_DATA / name

    return find


@pytest.fixture
def btcv_root(tmp_path: Path) -> Path:
    """Six CTs of 20 x 18 x 12 voxels in BTCV's raw layout, each with a block of classes 1 and 6."""
    for number in (1, 2, 3, 21, 22, 23):
        rng = np.random.default_rng(number)
        image = rng.normal(0, 100, (20, 18, 12)).astype(np.int16)
        label = np.zeros((20, 18, 12), dtype=np.uint8)
        label[3:6, 4:8, 2:5] = 1
        label[12:16, 10:14, 6:9] = 6
        affine = np.diag([-2.0, -2.0, 3.0, 1.0])
        training = tmp_path / "btcv" / "RawData" / "Training"
        save(training / "img" / f"img{number:04d}.nii.gz", image, affine=affine)
        save(training / "label" / f"label{number:04d}.nii.gz", label, affine=affine)
    return tmp_path / "btcv"


@pytest.fixture
def make_btcv(btcv_root: Path, tmp_path: Path) -> Callable[..., BTCV]:
    """Builds the data set on `btcv_root` with every kind of augmentation; keywords override fields."""

    def make(**fields: object) -> BTCV:
        keys = ["image", "label"]
        settings = {
            "root": str(btcv_root),
            "cache_dir": str(tmp_path / "cache"),
            "roi_size": [8, 8, 8],
            "intensity": scale(),
            "crops_per_volume": 2,
            "split": None,
            "val_share": 0.15,
            "augment": {
                "flip": RandFlipd(keys, prob=0.5, spatial_axis=0),
                "rot90": RandRotate90d(keys, prob=0.5),
                "affine": RandAffined(keys, prob=0.5, rotate_range=0.3, mode=["bilinear", "nearest"]),
                "scale": RandScaleIntensityd(["image"], prob=0.5, factors=0.3),
                "shift": RandShiftIntensityd(["image"], prob=0.5, offsets=0.3),
            },
        }
        return BTCV(**(settings | fields))

    return make
