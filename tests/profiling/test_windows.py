"""Real windows for measuring."""

import torch

from sct.profiling.windows import all_windows


def test_windows_cover_an_image():
    image = torch.arange(7 * 10.0).reshape(1, 7, 10)
    windows = list(all_windows(image, size=(4, 4), overlap=0.5))
    assert {tuple(window.shape) for window in windows} == {(1, 4, 4)}
    assert set(torch.cat([window.flatten() for window in windows]).tolist()) == set(range(70))


def test_a_small_image_is_padded_in_the_middle():
    (window,) = all_windows(torch.ones(2, 2, 4), size=(4, 4), overlap=0.5)
    assert window.sum(dim=(0, 2)).tolist() == [0, 8, 8, 0]


def test_2d_windows_of_a_volume_are_slices():
    volume = torch.arange(3 * 4 * 6.0).reshape(1, 3, 4, 6)
    windows = list(all_windows(volume, size=(4, 4), overlap=0.5))
    assert {tuple(window.shape) for window in windows} == {(1, 4, 4)}
    assert len(windows) == 3 * 2
    assert set(torch.cat([window.flatten() for window in windows]).tolist()) == set(range(72))
