"""The rules of a plan, by hand: sizes, intensities, augmentation, network. No file is read."""

import math
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from sct.config.check import build
from sct.data.cases import Grid
from sct.planning import network
from sct.planning.augment import augmentation, has_sides, rotations
from sct.planning.facts import Foreground, SetFacts, axes_of_network, spread, statistics
from sct.planning.intensity import hounsfield, intensity_choices, kind_of
from sct.planning.machine import Machine
from sct.planning.network import (
    GPU_SIZES,
    SMALL,
    batch_for,
    fits_in_memory,
    ratio_for,
    size_for,
    steps_for,
    window_budget,
)
from sct.planning.plan import make_plan
from sct.planning.window import (
    enlargement,
    picture_size,
    resampled_shape,
    typical_spacing,
    window_of,
)

PROCESSOR, GPU = Machine("cpu", 16.0, 16.0, 2), Machine("cuda", 24.0, 64.0, 16)
TISSUE = Foreground(-100.0, 300.0, 100.0, 50.0)
FACTS = SetFacts(
    shapes=((100, 100, 40),) * 30,
    spacings=((1.0, 1.0, 1.0),) * 30,
    unit="mm",
    num_channels=1,
    channels=("MRI",),
    classes={"organ": 5000.0},
    overlapping=False,
    pictures=False,
    by_name=False,
    foreground=(TISSUE,),
    lowest=0.0,
    zeros=0.0,
    patches=0.1,
    num_cached=33,
)


def values(choices) -> dict:
    return {choice.key: choice.value for choice in choices}


# grid


def test_the_spacing_is_the_median():
    assert typical_spacing([(0.7, 0.7, 2.0), (0.8, 0.8, 1.5), (0.9, 0.9, 1.0)]) == (0.8, 0.8, 1.5)


def test_a_coarse_axis_is_made_finer():
    # thick slices everywhere: at most three times the finest
    assert typical_spacing([(0.8, 0.8, 5.0)] * 3) == (0.8, 0.8, 2.4)
    # where a tenth of the cases has thin ones, theirs: the 10th percentile of 1, 4, 4, ..., 4 (eleven) is 4; of three
    # ones among them it is 1
    assert typical_spacing([(1.0, 1.0, 1.0)] * 3 + [(1.0, 1.0, 4.0)] * 8) == (1.0, 1.0, 1.0)
    assert typical_spacing([(1.0, 1.0, 1.0)] * 1 + [(1.0, 1.0, 4.0)] * 10) == (1.0, 1.0, 3.0)
    # 3.0 is not yet anisotropic
    assert typical_spacing([(1.0, 1.0, 3.0)]) == (1.0, 1.0, 3.0)


def test_the_shape_is_the_median_after_resampling():
    shapes, spacings = [(10, 10, 10), (20, 20, 5), (30, 30, 4)], [(2, 2, 2), (1, 1, 4), (1, 1, 5)]
    # in mm 20, 20, 30 along the first axes and 20, 20, 20 along the last
    assert resampled_shape(shapes, spacings=spacings, spacing=(1, 1, 2)) == (20, 20, 10)


@pytest.mark.parametrize(
    ("shape", "budget", "window"),
    [
        ((35, 51, 35), 1e9, (40, 56, 40)),  # all of it, in multiples of 8
        ((35, 51, 35), 40 * 48 * 40, (32, 56, 40)),  # 40 of 35 is the fullest axis, the first of two
        ((128, 128, 128), 64**3, (64, 64, 64)),
        ((200, 100, 50), 100_000, (88, 40, 24)),  # 96, 48, 24 are 110,592; then the first, then the second axis
        ((3, 3, 3), 100, (8, 8, 8)),  # never less than a patch
    ],
)
def test_a_window_has_the_proportions_of_an_image_and_fits(shape, budget, window):
    assert window_of(shape, patch=(8, 8, 8), budget=budget) == window
    assert math.prod(window) <= max(budget, 8**3)


def test_pictures_keep_their_proportions_and_are_never_enlarged():
    assert picture_size((433, 576), budget=224**2, patch=(8, 8)) == (192, 256)
    assert picture_size((100, 50), budget=224**2, patch=(8, 8)) == (96, 48)


def test_voxels_grow_until_a_window_sees_enough_but_small_classes_stay():
    # a window of 64^3 is the sixteenth of 16 * 64^3 voxels
    assert enlargement((128, 128, 256), budget=64**3, smallest_class=1e6) == 1
    assert enlargement((256, 256, 256), budget=64**3, smallest_class=1e6) == pytest.approx(4 ** (1 / 3))
    assert enlargement((512, 512, 512), budget=64**3, smallest_class=0) == 2
    # 150 voxels become 100
    assert enlargement((512, 512, 512), budget=64**3, smallest_class=150) == pytest.approx(1.5 ** (1 / 3))
    assert enlargement((512, 512, 512), budget=64**3, smallest_class=50) == 1


# facts


def test_axes_are_those_of_the_network():
    """A file with its axes in the order S, R, A, the second one pointing left."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 5.0, -1.0, 2.0, 1.0
    grid = Grid((10, 20, 30), 1, affine)
    assert axes_of_network(grid, axes="RAS", num_dims=3) == ((20, 30, 10), (1.0, 2.0, 5.0))
    assert axes_of_network(Grid((4, 20, 30), 1, np.eye(4)), axes=None, num_dims=2) == ((20, 30), (1.0, 1.0))


def test_statistics_are_of_the_clipped_foreground():
    numbers = np.arange(1001, dtype=np.float32)
    numbers[-1] = 1e9  # a saturated voxel
    found = statistics(numbers)
    assert (found.low, found.high) == (5.0, 995.0)
    assert found.mean == pytest.approx(500)
    assert spread(np.zeros((2, 35_000))).shape == (2, 8750)
    assert spread(np.zeros((2, 7))).shape == (2, 7)


# intensity


def test_the_kind_follows_the_names_or_else_the_intensities():
    assert kind_of(replace(FACTS, channels=("ct",))) == "ct"
    assert kind_of(replace(FACTS, channels=("CT", "PET"))) == "other"
    assert kind_of(replace(FACTS, channels=(), lowest=-1000)) == "ct"
    assert kind_of(replace(FACTS, channels=(), lowest=0)) == "other"
    assert kind_of(replace(FACTS, pictures=True)) == "picture"


def test_ct_is_standardised_by_its_foreground():
    node, edge = hounsfield([TISSUE])
    # (-100 - 100) / 50 and (300 - 100) / 50; the edge of the body is at the clip
    assert (node["a_min"], node["a_max"], node["b_min"], node["b_max"], node["clip"]) == (-100, 300, -4, 4, True)
    assert edge == -4
    # lungs: -300 HU
    assert hounsfield([Foreground(-900.0, 100.0, -500.0, 200.0)])[1] == 1.0
    # labels of bone alone say nothing about the body
    assert hounsfield([Foreground(200.0, 1500.0, 500.0, 200.0)])[1] is None


def test_images_of_other_kinds_are_standardised_one_by_one():
    plain = values(intensity_choices(FACTS, given={}))
    assert len(plain["intensity"]["transforms"]) == 2
    assert (plain["crop_above"], plain["zero_background"]) == (None, False)
    cut_out = values(intensity_choices(replace(FACTS, zeros=0.5), given={}))
    assert cut_out["zero_background"]
    assert cut_out["intensity"]["nonzero"]
    picture = values(intensity_choices(replace(FACTS, pictures=True), given={}))
    assert (picture["intensity"]["a_max"], picture["intensity"]["b_min"]) == (255, -1)


def test_a_data_set_that_normalises_by_names_goes_on_doing_so():
    ct = values(intensity_choices(replace(FACTS, by_name=True, channels=("CT",)), given={}))
    assert (ct["intensity"], ct["crop_above"]) == (None, -4)
    mixed = values(intensity_choices(replace(FACTS, by_name=True, channels=("CT", "PET"), zeros=0.5), given={}))
    assert (mixed["intensity"], mixed["crop_above"], mixed["zero_background"]) == (None, None, False)
    # what every other name means to nnU-Net, the rules do with regard to the background
    assert values(intensity_choices(replace(FACTS, by_name=True, zeros=0.5), given={}))["intensity"]["nonzero"]


# augmentation


@pytest.mark.parametrize(("name", "sided"), [
    ("left_kidney", True), ("LeftKidney", True), ("R lung", True), ("kidney right", True), ("hippocampus-lh", True),
    ("liver", False), ("bright spot", False), ("cleft", False), ("Tumour core", False), ("RV", False),
])  # fmt: skip
def test_sides_of_the_body_are_told_by_names(name, sided):
    assert has_sides([name]) is sided


def test_rotations_stay_within_slices_of_thick_voxels():
    assert rotations((1.0, 1.0, 1.0)) == [0.3, 0.3, 0.3]
    assert rotations((1.0, 1.0, 3.0)) == [0.0, 0.0, 0.3]  # about the third axis: within the slices
    assert rotations((1.0, 2.0, 3.0)) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["ct", "picture", "other"])
@pytest.mark.parametrize("mirrored", [True, False])
def test_all_transforms_can_be_built_and_mirror_only_where_they_may(kind, mirrored):
    window = (16, 16) if kind == "picture" else (16, 16, 16)
    transforms, _ = augmentation(
        kind=kind, coloured=True, mirrored=mirrored, spacing=(1.0,) * len(window), window=window, whole=True
    )
    for name, node in transforms.items():
        build(OmegaConf.create(node), key=f"data.augment.{name}")
    assert any("flip" in name for name in transforms) is mirrored
    assert ("gamma" in transforms) is (kind != "ct")


def test_grey_pictures_are_not_turned_upside_down():
    both = [
        augmentation(kind="picture", coloured=coloured, mirrored=True, spacing=(1, 1), window=(8, 8), whole=True)[0]
        for coloured in (True, False)
    ]
    assert ["flip_rows" in transforms for transforms in both] == [True, False]
    assert both[1]["affine"]["rotate_range"][0] < 0.3


def test_windows_that_hold_the_whole_image_are_shifted():
    common = {"kind": "other", "coloured": False, "mirrored": True, "spacing": (1.0,) * 3, "window": (40, 56, 40)}
    assert augmentation(**common, whole=True)[0]["affine"]["translate_range"] == [3, 4, 3]
    assert "translate_range" not in augmentation(**common, whole=False)[0]["affine"]


# network


def test_the_size_follows_machine_and_cases():
    assert size_for(PROCESSOR, num_cases=1000) is SMALL
    assert [size_for(GPU, num_cases=cases).dim for cases in (30, 400)] == [384, 768]
    assert size_for(Machine("cuda", 8.0, 32.0, 8), num_cases=1000).dim == 384
    assert [size.dim % size.num_heads for size in (SMALL, *GPU_SIZES)] == [0, 0, 0]


def test_windows_follow_cores_and_memory():
    assert window_budget(PROCESSOR, spatial_dims=3) == 64**3
    assert window_budget(Machine("cpu", 64.0, 64.0, 8), spatial_dims=3) == 2 * 64**3
    assert window_budget(Machine("cpu", 64.0, 64.0, 64), spatial_dims=3) == 96**3
    # 1 GiB: 0.6 of it, two windows, 2500 bytes a voxel
    assert window_budget(Machine("cpu", 1.0, 1.0, 8), spatial_dims=3) == pytest.approx(0.6 * 2**30 / 2500 / 2)
    assert window_budget(GPU, spatial_dims=3) == 128**3
    assert window_budget(GPU, spatial_dims=2) == 512**2


def test_batches_follow_memory():
    assert batch_for(PROCESSOR, window=(64, 64, 64)) == 2
    # 0.6 * 24 GiB / 1500 bytes are 10.3 M voxels
    assert batch_for(GPU, window=(128, 128, 128)) == 4
    assert batch_for(GPU, window=(64, 64, 64)) == 8
    assert batch_for(GPU, window=(512, 512)) == 32


def test_what_is_dropped_leaves_more_than_the_foreground():
    assert ratio_for(0.01, num_stages=2) == 0.75  # 6 % stay, 1.5 % are needed
    assert ratio_for(0.08, num_stages=2) == 0.5  # 25 %, 12 %
    assert ratio_for(0.2, num_stages=2) == 0.25  # 56 %, 30 %
    assert ratio_for(0.4, num_stages=2) is None  # 60 % are needed
    assert ratio_for(0.08, num_stages=3) == 0.5  # 12.5 %, 12 %


def test_a_dense_network_where_the_foreground_is_large():
    groups = values(make_plan(replace(FACTS, patches=0.5), machine=PROCESSOR, given={}).groups)
    assert (groups["encoder"], groups["completion"]) == ("dense", "scatter")
    groups = values(make_plan(FACTS, machine=PROCESSOR, given={}).groups)
    assert (groups["encoder"], groups["completion"]) == ("stp_taught", "mta")


def test_the_length_of_a_training():
    assert steps_for(PROCESSOR, voxels=2 * 40 * 56 * 40) == 4450  # 8e8 / 179,200 = 4464
    assert steps_for(PROCESSOR, voxels=1000) == 4500
    assert steps_for(PROCESSOR, voxels=10**7) == 1000
    assert steps_for(GPU, voxels=10**7) == 20_000


def test_a_set_is_kept_where_it_fits():
    assert network.GIB == 2**30
    # 6 bytes a voxel
    assert fits_in_memory(PROCESSOR, shape=(1024, 1024, 128), num_channels=1, num_cases=10)  # 7.5 GiB of 8
    assert not fits_in_memory(PROCESSOR, shape=(1024, 1024, 128), num_channels=1, num_cases=11)


# the whole


def test_a_gpu_gets_a_larger_network_and_larger_windows():
    on_gpu = make_plan(replace(FACTS, shapes=((300, 300, 200),) * 30), machine=GPU, given={})
    settings = values(on_gpu.settings)
    assert (settings["encoder.dim"], settings["pruning.blocks"], settings["trainer.clip_norm"]) == (384, [3, 6, 9], 1.0)
    assert math.prod(values(on_gpu.data)["roi_size"]) > 0.8 * 128**3
    assert "trainer.clip_norm" not in values(make_plan(FACTS, machine=PROCESSOR, given={}).settings)


def test_small_things_in_large_pictures_are_not_made_smaller():
    facts = replace(
        FACTS,
        shapes=((2000, 3000),) * 9,
        spacings=((1.0, 1.0),) * 9,
        unit="voxel",
        pictures=True,
        classes={"cell": 400.0},
    )
    planned = values(make_plan(facts, machine=PROCESSOR, given={}).data)
    assert planned["resize_to"] is None
    assert math.prod(planned["roi_size"]) <= 224**2
    large = values(make_plan(replace(facts, classes={"lesion": 1e6}), machine=PROCESSOR, given={}).data)
    assert large["resize_to"] == large["roi_size"] == [184, 272]


def test_labels_in_air_are_never_skipped():
    air = replace(FACTS, channels=("CT",), foreground=(Foreground(-950.0, -500.0, -800.0, 60.0),))
    assert values(make_plan(air, machine=PROCESSOR, given={}).settings).get("inferer.skip_below", 0) is None
    tissue = replace(FACTS, channels=("CT",))
    assert "inferer.skip_below" not in values(make_plan(tissue, machine=PROCESSOR, given={}).settings)


def test_classes_of_one_side_are_never_mirrored():
    plan = make_plan(replace(FACTS, classes={"left_kidney": 900.0, "liver": 9000.0}), machine=PROCESSOR, given={})
    assert "flip_x" not in values(plan.data)["augment"]
    assert values(plan.settings)["inferer.mirror_axes"] == []
    plan = make_plan(FACTS, machine=PROCESSOR, given={})
    assert "flip_x" in values(plan.data)["augment"]
    assert values(plan.settings)["inferer.mirror_axes"] == [0]


def test_rules_follow_what_the_user_gave():
    given = {"spacing": [4, 4, 4], "augment": {"flip": {"_target_": "monai.transforms.RandFlipd", "spatial_axis": 1}}}
    plan = make_plan(FACTS, machine=PROCESSOR, given=given)
    assert values(plan.data)["roi_size"] == [28, 28, 12]  # of 25 x 25 x 10 voxels; patches of 4
    assert values(plan.settings)["inferer.mirror_axes"] == [1]
