"""The patch's size along each axis: a config's value, messages, and the steps from the image to the token grid."""

import pytest

from sct.errors import UserError
from sct.models.patch import halvings, in_config, in_words, kernel_at, patch_sizes, token_grid


def test_a_number_is_for_all_axes_and_a_list_for_each():
    assert patch_sizes(8, num_axes=3) == patch_sizes([8, 8, 8], num_axes=3) == (8, 8, 8)
    assert patch_sizes([16, 8], num_axes=2) == (16, 8)
    assert (in_config((8, 8, 8)), in_config((8, 8, 4))) == ("8", "[8,8,4]")
    assert (in_words((8, 8)), in_words((8, 8, 4))) == ("8", "8 x 8 x 4")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([8, 8], r"encoder\.patch_size=\[8, 8\] has 2 value\(s\).*have 3 axes.*list of 3"),
        ([8, 8, 8, 4], r"encoder\.patch_size=\[8, 8, 8, 4\] has 4 value\(s\)"),
        ([], r"encoder\.patch_size=\[\] has 0 value\(s\)"),
        (0, r"encoder\.patch_size=0: a patch has at least 1 voxel"),
        ([8, 8, -4], r"encoder\.patch_size=\[8,8,-4\]: a patch has at least 1 voxel"),
    ],
)
def test_mistakes(value, message):
    with pytest.raises(UserError, match=message):
        patch_sizes(value, num_axes=3)


def test_the_grid_along_each_axis():
    assert token_grid((32, 16, 12), (8, 8, 4)) == (4, 2, 3)
    with pytest.raises(UserError, match=r"roi_size=\[32, 16, 10\].*patch_size=\[8,8,4\].*multiples of \[8,8,4\]"):
        token_grid((32, 16, 10), (8, 8, 4))


def test_the_finest_steps_keep_an_axis_with_a_smaller_patch():
    assert halvings((8, 8)) == ((2, 2), (2, 2), (2, 2))
    assert halvings((8, 8, 4)) == ((2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert halvings((1, 8, 4)) == ((1, 2, 1), (1, 2, 2), (1, 2, 2))
    assert halvings((1, 1)) == ()
    assert halvings((8, 6)) is None


def test_kernels_do_not_look_along_an_axis_that_the_next_step_keeps():
    assert [kernel_at(level, (8, 8, 4)) for level in range(4)] == [(3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    # on the token grid neighbours are tokens
    assert [kernel_at(level, (1, 4)) for level in range(3)] == [(1, 3), (1, 3), (3, 3)]
    assert kernel_at(0, (4, 2), size=7) == (7, 1)
