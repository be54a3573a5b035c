"""Whatever an augmentation does to an image, its labels stay where they belong."""

import numpy as np
import pytest
import torch
from monai.utils import set_determinism

from sct.config.check import build
from sct.config.command import compose_config

DRAWS = 60
# a shift of a voxel is a mistake, and so is a small one that always has the same direction
LARGEST_MEAN = 0.12
PLACES = (
    "RandFlipd", "RandRotate90d", "RandAffined", "RandRotated", "RandZoomd", "RandSimulateLowResolutiond",
    "RandGaussianSmoothd",
)  # fmt: skip
CONFIGS = {
    "modern": ["+experiment=brats_small_stp_mta", "+recipe=modern"],
    "modern_2d": ["+experiment=isic_stp_mta", "+recipe=modern_2d"],
    "hippocampus": ["+experiment=hippocampus_stp_mta"],
    "brats": ["+experiment=brats_small_stp_mta"],
    "isic": ["+experiment=isic_stp_mta"],
    "synapse": ["+experiment=synapse_apformer"],
}


def ball(num_axes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A soft ball (1, *S) off the centre, and the mask of its inside, symmetric about the same point."""
    sides = torch.meshgrid(*[torch.arange(33.0) - 13] * num_axes, indexing="ij")
    radius = torch.stack(sides).pow(2).sum(dim=0).sqrt()
    return torch.sigmoid(2 * (6 - radius))[None], (radius < 6).float()[None]


def centre(values) -> np.ndarray:
    """The centre of mass of (1, *S)."""
    weights = np.asarray(values, dtype=float)[0]
    return np.array([(weights * place).sum() for place in np.indices(weights.shape)]) / weights.sum()


@pytest.mark.parametrize("name", CONFIGS)
def test_image_and_label_stay_together(name):
    data = compose_config("train", overrides=CONFIGS[name]).data
    image, label = ball(len(data.roi_size))
    set_determinism(seed=0)
    tried = 0
    for key, node in data.augment.items():
        if node is None or node["_target_"].rpartition(".")[2] not in PLACES:
            continue
        tried += 1
        node.prob = 1.0
        transform = build(node, key=f"data.augment.{key}")
        shifts = []
        for _ in range(DRAWS):
            made = transform({"image": image.clone(), "label": label.clone()})
            shifts.append(centre(made["label"]) - centre(made["image"]))
        assert np.abs(np.mean(shifts, axis=0)).max() < LARGEST_MEAN, key
    set_determinism(seed=None)
    assert tried >= 1
