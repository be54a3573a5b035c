"""Sparsity and gain of classes: shares counted by hand, the paper's own figures, and what is drawn."""

import pytest
import torch

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, Regions
from sct.errors import UserError
from sct.plots.sparsity import ClassGain, class_gains, class_sparsity, comma_separated, draw_sparsity, rank_correlation

MAP = LabelMap(("background", "a", "b"))


def test_shares_of_voxels_and_patches_by_hand() -> None:
    first, second = torch.zeros(2, 4, 4, dtype=torch.long)
    first[0, :3] = 1  # 3 of 16 voxels, 2 of 4 patches
    first[3, 3] = 2  # 1 of 16, 1 of 4
    second[0, 0] = 1  # 1 of 16, 1 of 4
    found = class_sparsity([first, second], outputs=Classes(MAP), patch_size=(2, 2))
    assert found == {"a": (1 - 2 / 16, 1 - 1.5 / 4), "b": (1 - 0.5 / 16, 1 - 0.5 / 4)}
    regions = Regions(MAP, (("all", (1, 2)), ("inner", (2,))))
    found = class_sparsity([first], outputs=regions, patch_size=(2, 2))
    assert found == {"all": (1 - 4 / 16, 1 - 3 / 4), "inner": (1 - 1 / 16, 1 - 1 / 4)}


def test_slices_of_a_volume_have_patches_of_one_slice() -> None:
    label = torch.zeros(3, 4, 4, dtype=torch.long)
    label[1, 0, 0] = 1
    found = class_sparsity([label], outputs=Classes(MAP), patch_size=(2, 2))
    assert found["a"] == (pytest.approx(1 - 1 / 48), pytest.approx(1 - 1 / 12))


def test_gains_are_of_classes_that_both_have_the_sparsest_first() -> None:
    sparsity = {"a": (0.9, 0.5), "b": (0.99, 0.7), "c": (0.95, 0.6)}
    gains = class_gains(sparsity, baseline={"a": 0.5, "b": 0.25, "c": None}, run={"a": 0.75, "b": 0.125, "c": 0.5})
    assert [(gain.name, gain.gain) for gain in gains] == [("b", -12.5), ("a", 25.0)]
    assert comma_separated(gains).splitlines() == [
        "class,sparsity voxels,sparsity patches,dice baseline,dice run,gain points",
        "b,0.99,0.7,0.25,0.125,-12.5",
        "a,0.9,0.5,0.5,0.75,25.0",
    ]
    with pytest.raises(UserError, match="no class in common"):
        class_gains(sparsity, baseline={"x": 0.5}, run={"x": 0.5})


def paper() -> list[ClassGain]:
    """Table 7 of the STP paper: Dice of WT, TC and ET in UNETR and in STP+MTA+UNETR."""
    rows = (("WT", 0.9883, 0.9078, 0.9029), ("TC", 0.9960, 0.8214, 0.8194), ("ET", 0.9981, 0.6327, 0.6402))
    return [ClassGain(name, voxels, voxels - 0.5, baseline, run) for name, voxels, baseline, run in rows]


def test_order_of_the_papers_classes() -> None:
    gains = paper()
    assert rank_correlation(gains, [gain.voxels for gain in gains]) == pytest.approx(1)
    assert rank_correlation(gains, [-gain.voxels for gain in gains]) == pytest.approx(-1)
    assert rank_correlation(gains[:2], [0.1, 0.2]) is None
    assert rank_correlation(gains, [0.1, 0.1, 0.1]) is None


def test_what_is_drawn() -> None:
    figure = draw_sparsity(paper(), baseline="UNETR", run="STP", patch_size=(8, 8, 8), about="a")
    for axes, shift in zip(figure.axes, (0.0, 0.5), strict=True):
        dots = axes.get_lines()[-1]
        assert dots.get_xdata() == pytest.approx([0.0117 + shift, 0.004 + shift, 0.0019 + shift])
        assert dots.get_ydata() == pytest.approx([-0.49, -0.20, 0.75])
        assert [text.get_text() for text in axes.texts] == ["WT", "TC", "ET"]
        left, right = axes.get_xlim()
        assert left > right  # sparse to the right
        assert axes.get_title().endswith("+1.00")
