"""The rules of a plan for the patch along each axis, by hand. No file is read."""

import math
from dataclasses import replace

import pytest
from test_rules import FACTS, PROCESSOR, values

from sct.planning.plan import make_plan
from sct.planning.window import near_cube, patch_of


def test_patches():
    assert patch_of((35, 51, 35), spacing=(1, 1, 1), budget=1e9) == (8, 8, 8)
    assert patch_of((30, 30, 30), spacing=(1, 1, 1), budget=1e9) == (4, 4, 4)  # fewer than 64 tokens of 8^3
    assert patch_of((256, 256), spacing=(1, 1), budget=1e9) == (8, 8)
    assert patch_of((512, 512), spacing=(1, 1), budget=1e9) == (16, 16)
    assert patch_of((512, 512), spacing=(1, 1), budget=224**2) == (8, 8)


def test_patches_of_long_voxels_are_near_to_a_cube():
    assert patch_of((100, 100, 40), spacing=(0.8, 0.8, 2.4), budget=1e9) == (8, 8, 4)
    assert patch_of((40, 100, 100), spacing=(2.4, 0.8, 0.8), budget=1e9) == (4, 8, 8)
    assert patch_of((30, 30, 30), spacing=(1, 1, 3), budget=1e9) == (8, 8, 4)  # 105 tokens
    assert patch_of((20, 20, 20), spacing=(1, 1, 3), budget=1e9) == (4, 4, 2)  # 31 of 8 x 8 x 4
    assert patch_of((512, 256), spacing=(1, 2), budget=1e9) == (16, 8)


@pytest.mark.parametrize(
    ("ratio", "edge"), [(1.0, 8), (1.7, 8), (1.75, 4), (3.0, 4), (3.4, 4), (3.5, 2), (6.25, 2), (100, 2)]
)
def test_a_side_is_halved_while_it_is_long(ratio, edge):
    assert near_cube(8, spacing=(0.8, 0.8, 0.8 * ratio)) == (8, 8, edge)


def test_thick_slices_get_patches_with_fewer_voxels_along_them():
    facts = replace(FACTS, shapes=((200, 200, 40),) * 30, spacings=((0.8, 0.8, 5.0),) * 30)
    plan = make_plan(facts, machine=PROCESSOR, given={})
    chosen = {choice.key: choice for choice in (*plan.data, *plan.settings)}
    # 200 mm of slices are 83 voxels of 2.4 mm
    assert chosen["spacing"].value == [0.8, 0.8, 2.4]
    assert chosen["encoder.patch_size"].value == [8, 8, 4]
    assert "nearer to a cube: 6.4 x 6.4 x 9.6 mm" in chosen["encoder.patch_size"].reason
    window = chosen["roi_size"].value
    assert [side % edge for side, edge in zip(window, (8, 8, 4), strict=True)] == [0, 0, 0]
    assert f"{math.prod(window) // 256} tokens" in chosen["encoder.patch_size"].reason
    assert "multiples of the patch, 8 x 8 x 4" in chosen["roi_size"].reason
    # what the user says about spacing is followed
    plan = make_plan(facts, machine=PROCESSOR, given={"spacing": [0.8, 0.8, 5.0]})
    assert values(plan.settings)["encoder.patch_size"] == [8, 8, 2]
    plan = make_plan(facts, machine=PROCESSOR, given={"spacing": [1.0, 1.0, 1.0]})
    assert values(plan.settings)["encoder.patch_size"] == 8
