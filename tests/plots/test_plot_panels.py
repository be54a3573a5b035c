"""Panels of several runs: colours of classes at their places, Dice of the case, axes turned alike."""

import numpy as np
import pytest

from sct.plots.panels import PanelRow, draw_panels
from sct.plots.planes import view
from sct.plots.style import class_color

CLASSES = ("background", "liver", "spleen")


def test_every_run_has_its_column_with_its_labels_and_dice() -> None:
    truth = np.zeros((4, 6), int)
    truth[1:3, 1:3], truth[3, 4:] = 1, 2
    wrong = np.where(truth == 2, 1, 0)
    where = view(np.zeros((1, 4, 6)), truth, spacing=(1, 1))
    row = PanelRow("case", where, truth, [truth, wrong], [1.0, 0.25])
    figure = draw_panels([row, row], runs=["right", "wrong"], classes=CLASSES, about="small print")
    assert len(figure.axes) == 8
    assert [axes.get_title() for axes in figure.axes[:4]] == ["Image", "right", "wrong", "Truth"]
    assert [axes.get_xlabel() for axes in figure.axes[:4]] == ["", "Dice 1.000", "Dice 0.250", ""]
    for axes, labels in zip(figure.axes[1:4], (truth, wrong, truth), strict=True):
        colors = np.asarray(axes.images[-1].get_array())
        np.testing.assert_array_equal(colors[..., 3] > 0, labels > 0)
        for value in (1, 2):
            np.testing.assert_allclose(colors[labels == value][:, :3] - class_color(value), 0)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["liver", "spleen", "outline of the truth"]


@pytest.mark.parametrize("count", [1, 9])
def test_many_runs_make_a_wider_figure_not_smaller_panels(count: int) -> None:
    labels = np.ones((4, 4), int)
    row = PanelRow("case", view(np.zeros((1, 4, 4)), labels, spacing=(1, 1)), labels, [labels] * count, [1.0] * count)
    figure = draw_panels([row], runs=["run"] * count, classes=CLASSES, about="small print")
    assert figure.get_figwidth() / (count + 2) >= 1.1 - 1e-9
