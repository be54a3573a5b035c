"""Own transforms of intensities: the numbers of MONAI's, to the last digit."""

import pytest
import torch
from monai.transforms import NormalizeIntensityd, ScaleIntensityRanged

from sct.data.loading.scaling import ScaleRange, Standardise
from sct.data.loading.transforms import plain_tensors
from sct.errors import UserError


@pytest.fixture
def image() -> torch.Tensor:
    """Two channels of CT, with a rim of zeros."""
    image = 700 * torch.randn((2, 13, 11, 9), generator=torch.Generator().manual_seed(0))
    image[:, :4] = 0
    return image


@pytest.mark.parametrize(
    "settings",
    [
        {"a_min": -958.0, "a_max": 326.0, "b_min": -1.0, "b_max": 1.0, "clip": True},
        {"a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1},
        {"a_min": 60.3, "a_max": 211.7, "b_min": -1.9231, "b_max": 3.1478, "clip": True},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_a_range_is_scaled_as_monai_does(settings, dtype, image):
    image = image.to(dtype)
    before = image.clone()
    with plain_tensors():
        wanted = ScaleIntensityRanged(keys=["image"], **settings)({"image": image.clone()})["image"]
    found = ScaleRange(**settings)({"image": image, "label": "kept"})
    assert torch.equal(found["image"], wanted)
    assert found["label"] == "kept"
    assert torch.equal(image, before)


@pytest.mark.parametrize("nonzero", [False, True])
def test_channels_are_standardised_as_monai_does(nonzero, image):
    image[1] = 0  # nothing but zeros
    before = image.clone()
    with plain_tensors():
        monai = NormalizeIntensityd(keys=["image"], nonzero=nonzero, channel_wise=True)
        wanted = monai({"image": image.clone()})["image"]
    found = Standardise(nonzero=nonzero)({"image": image})["image"]
    assert torch.equal(found, wanted)
    assert torch.equal(image, before)


def test_equal_voxels_become_0():
    assert not Standardise()({"image": torch.full((1, 4, 4), 7.0)})["image"].any()
    halves = torch.tensor([[0.0, 7.0, 7.0]])
    assert not Standardise(nonzero=True)({"image": halves})["image"].any()


def test_an_empty_range_is_refused():
    with pytest.raises(UserError, match=r"data.intensity.a_min=5 must be less than a_max=5"):
        ScaleRange(a_min=5, a_max=5)


@pytest.mark.parametrize("clip", [False, True])
def test_the_intensity_before_is_the_one_from_which_voxels_have_more(clip):
    scaled = ScaleRange(a_min=-200, a_max=500, b_min=-1, b_max=1, clip=clip)
    for value in (-0.9, 0.0, 0.99, -1.0):
        before = scaled.in_file(value)
        image = torch.tensor([[before - 0.1, before + 0.1]])
        assert (scaled({"image": image})["image"] > value).tolist() == [[False, True]]


def test_where_no_intensity_divides_voxels_there_is_none():
    assert ScaleRange(a_min=0, a_max=1, b_min=1, b_max=0).in_file(0.5) is None  # turned round
    clipped = ScaleRange(a_min=0, a_max=1, clip=True)
    assert clipped.in_file(-0.1) is None  # all voxels have more
    assert clipped.in_file(1.0) is None  # none has more
    assert ScaleRange(a_min=0, a_max=1).in_file(2.0) == 2.0
