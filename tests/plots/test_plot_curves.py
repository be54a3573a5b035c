"""Curves: what is read from a run's log, and how it is smoothed."""

import json
from pathlib import Path

import numpy as np
import pytest

from sct.errors import UserError
from sct.plots.curves import Curve, draw_curves, read_curve, smooth


def test_smoothing_by_hand() -> None:
    values = np.array([1.0, 2.0, 6.0, 3.0, 8.0])
    np.testing.assert_allclose(smooth(values, share=0.6), [1, 3, 11 / 3, 17 / 3, 8])
    np.testing.assert_allclose(smooth(values, share=1.0), [1, 3, 4, 17 / 3, 8])
    np.testing.assert_array_equal(smooth(values, share=0.3), values)


def test_smoothing_keeps_a_straight_line() -> None:
    line = np.arange(40) * 0.5 + 3
    np.testing.assert_allclose(smooth(line, share=0.3), line)


def log(folder: Path, rows: list[dict], *, torn: str = "") -> Path:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return folder


def test_a_curve_is_read_while_the_run_still_writes(tmp_path: Path) -> None:
    rows = [{"step": 1, "train/loss": 2.0}, {"step": 2, "val/dice/mean": 0.5}, {"step": 3, "train/loss": 1.0}]
    curve = read_curve(log(tmp_path, rows, torn='{"step": 4, "train/lo'), "train/loss")
    assert (curve.steps.tolist(), curve.values.tolist()) == ([1, 3], [2.0, 1.0])
    with pytest.raises(UserError, match=r"no train/loss_ce yet\. It has: train/loss, val/dice/mean"):
        read_curve(tmp_path, "train/loss_ce")
    with pytest.raises(UserError, match=r"has no metrics\.jsonl"):
        read_curve(tmp_path / "none", "train/loss")


def test_every_run_is_drawn_raw_and_smoothed_in_its_colour() -> None:
    steps = np.arange(1, 101)
    curves = [Curve(steps, np.sin(steps) + number) for number in range(3)]
    figure = draw_curves(
        [("train/loss", curves), ("val/dice/mean", curves[:3])], runs=["a", "b", "c"], share=0.1, about="small print"
    )
    assert [axes.get_title() for axes in figure.axes] == ["Training, with the method's extra terms", "Validation"]
    assert [axes.get_ylabel().split(",")[0] for axes in figure.axes] == ["total loss", "Dice"]
    lines = figure.axes[1].get_lines()
    assert len(lines) == 6
    for number in range(3):
        raw, smoothed = lines[2 * number], lines[2 * number + 1]
        np.testing.assert_array_equal(raw.get_ydata(), curves[number].values)
        np.testing.assert_array_equal(smoothed.get_ydata(), smooth(curves[number].values, share=0.1))
        assert raw.get_color() == smoothed.get_color()
        assert raw.get_alpha() < 0.5
    assert len({line.get_color() for line in lines}) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]


def test_a_log_of_before_and_its_resumed_part_are_one_curve(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("loss: {pixel: {_target_: x, dice_weight: 2.0, ce_weight: 0.5, log: true}}")
    before = {"step": 1, "train/loss": 9.0, "train/dice": 1.0, "train/ce": 4.0, "train/lr": 0.1, "train/budget": 5.0}
    after = {"step": 2, "train/loss": 8.0, "train/loss_pixel": 3.0, "train/loss_dice": 0.5, "train/lr": 0.2}
    run = log(tmp_path, [before, after])
    expected = {
        "train/loss_pixel": [4.0, 3.0],
        "train/loss_dice": [1.0, 0.5],
        "train/loss": [9.0, 8.0],
        "train/lr": [0.1, 0.2],
        "train/loss_budget": [5.0],
    }
    assert {name: read_curve(run, name).values.tolist() for name in expected} == expected
