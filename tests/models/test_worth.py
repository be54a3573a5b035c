"""What patches are worth, by hand."""

import torch

from sct.models.worth import boundary_patches, patch_worth


def labels() -> torch.Tensor:
    """8 x 8 pixels in patches of 2: label 1 fills rows 2 to 7 and columns 2 to 5, label 2 is one pixel in a corner."""
    image = torch.zeros(1, 8, 8, dtype=torch.long)
    image[0, 2:8, 2:6] = 1
    image[0, 0, 7] = 2
    return image


def test_a_patch_with_any_foreground_is_worth_it():
    worth = patch_worth(labels(), patch_size=(2, 2), kind="foreground").reshape(4, 4)
    assert worth.tolist() == [[0, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]


def test_a_boundary_is_where_a_patch_or_a_voxel_beside_it_differs():
    found = boundary_patches(labels(), patch_size=(2, 2))[0].int().tolist()
    # all patches beside the block and in it touch its border; the corner's pixel is a boundary for its own patch alone
    assert found == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    wide = torch.zeros(1, 8, 16, dtype=torch.long)
    wide[..., 8:] = 1
    expected = [[0, 0, 0, 1, 1, 0, 0, 0]] * 4
    assert boundary_patches(wide, patch_size=(2, 2))[0].int().tolist() == expected


def test_the_inside_of_an_organ_and_two_organs_that_touch():
    volume = torch.ones(1, 4, 4, 12, dtype=torch.long)
    volume[..., 8:] = 2
    assert boundary_patches(volume, patch_size=(4, 4, 2))[0, 0, 0].tolist() == [False, False, False, True, True, False]
    # the image's own edge is no boundary
    assert not boundary_patches(torch.ones(1, 6, 6, dtype=torch.long), patch_size=(2, 3)).any()


def test_slices_have_no_neighbours_and_patches_at_the_edge_may_be_cut():
    volume = torch.zeros(1, 3, 5, 5, dtype=torch.long)
    volume[:, 1, :, 4] = 1
    found = boundary_patches(volume, patch_size=(1, 2, 2))
    assert found.shape == (1, 3, 3, 3)
    assert found[0].int().tolist() == [[[0] * 3] * 3, [[0, 1, 1]] * 3, [[0] * 3] * 3]
