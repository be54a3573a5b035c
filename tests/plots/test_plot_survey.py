"""The picture of a data set: values by split, strips of them, and what is drawn."""

import numpy as np
import pytest

from sct.data.survey import CaseFacts
from sct.plots.survey import axis_values, class_volumes, draw_survey, foreground_shares, places


def case(number: int, split: str, *, volume: float, shape: tuple[int, ...] = (4, 6, 8)) -> CaseFacts:
    spacing = tuple(float(size) / 2 for size in shape)
    volumes = {"a": volume, "b": 2.0 * volume}
    return CaseFacts(str(number), split, shape, spacing, "mm", [], volumes, number / 10, str(number))


FACTS = [case(1, "train", volume=3), case(2, "train", volume=0), case(3, "test", volume=5, shape=(6, 8))]


def test_values_by_split() -> None:
    volumes = class_volumes(FACTS)
    # the case without the class is left out
    assert {split: own.tolist() for split, own in volumes["b"].items()} == {"train": [6], "val": [], "test": [10]}
    shares = foreground_shares(FACTS)[""]
    assert shares["train"] == pytest.approx([10, 20])
    shapes = axis_values(FACTS, field="shape")
    assert {name: own["train"].tolist() for name, own in shapes.items()} == {"axis 1": [6, 6], "axis 2": [8, 8]}
    assert axis_values(FACTS, field="spacing")["axis 2"]["test"].tolist() == [4]


def test_neighbours_in_a_strip_lie_apart() -> None:
    found = places(50, width=0.2)
    assert np.abs(found).max() <= 0.1
    assert np.abs(np.diff(found)).min() > 0.05
    assert len(np.unique(found.round(6))) == 50


def test_what_is_drawn() -> None:
    figure = draw_survey(FACTS, patch_size=(4, 4, 4), title="t")
    top, shapes, spacings, shares = figure.axes
    # rows a, b; dots and median of train and test, dots of val, which has none
    dots = [line for line in top.get_lines() if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [[3], [], [5], [6], [], [10]]
    assert [round(float(line.get_ydata()[0])) for line in dots if len(line.get_ydata())] == [0, 0, 1, 1]
    assert top.get_xscale() == "log"
    low, high = top.get_xlim()
    assert high / low >= 10 - 1e-6
    assert [text.get_text() for text in shapes.get_yticklabels()] == ["axis 1", "axis 2"]
    assert "(mm)" in spacings.get_xlabel()
    medians = [line.get_xdata()[0] for line in shares.get_lines() if line.get_marker() != "o"]
    assert medians == pytest.approx([15, 30])
