"""Accuracy against cost: which points there are, which are joined, and what is drawn."""

from pathlib import Path
from statistics import stdev

import pytest

from sct.errors import UserError
from sct.plots.tradeoff import COSTS, Point, draw_tradeoff, find_cost, sweep_lines, tradeoff_points
from sct.reports.collect import EvaluatedRun, Setting


def setting(label: str, *dice: float, macs: float | None, speed: float = 2.0) -> Setting:
    profile = None if macs is None else {"macs": {"total": macs}, "throughput": {"inference": speed}}
    summary = [{"dice": {"mean": value, "per_class": {}, "groups": {}}} for value in dice]
    return Setting(label, [EvaluatedRun(Path("f"), {"name": label}, [], part, [], profile, None) for part in summary])


def test_points_are_means_with_their_spread_and_costs() -> None:
    dense, half = setting("dense", 0.8, 0.9, macs=4e9), setting("half", 0.7, macs=2e9, speed=3.0)
    points = tradeoff_points([dense, half, setting("new", 0.5, macs=None)], cost=COSTS["macs"], baseline=dense)
    assert points == [
        Point("dense", pytest.approx(0.85), pytest.approx(stdev((0.8, 0.9))), 4.0, is_baseline=True),
        Point("half", 0.7, None, 2.0),
    ]
    assert [p.cost for p in tradeoff_points([dense, half], cost=COSTS["inference"], baseline=None)] == [2.0, 3.0]


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="cost=mac is unknown: choose one of macs, inference"):
        find_cost("mac")
    with pytest.raises(UserError, match=r"no run has macs\.total"):
        tradeoff_points([setting("new", 0.5, macs=None)], cost=COSTS["macs"], baseline=None)


def point(label: str, cost: float = 1.0) -> Point:
    return Point(label, 0.5, None, cost)


def test_labels_that_differ_in_one_number_are_a_line_in_its_order() -> None:
    names = ("dense", "stp ratio=0.9", "stp ratio=0.25", "evit ratio=0.5", "stp ratio=1e-3")
    lines, single = sweep_lines([point(label) for label in names])
    assert [line.name for line in lines] == ["stp ratio=…"]
    assert [number for number, _ in lines[0].points] == ["1e-3", "0.25", "0.9"]
    assert [p.label for p in single] == ["dense", "evit ratio=0.5"]


def test_of_a_grid_of_two_numbers_every_point_is_in_one_line() -> None:
    points = [point(f"r={ratio} t={tau}") for ratio in ("0.1", "0.2", "0.3") for tau in ("1", "2")]
    lines, single = sweep_lines(points)
    assert single == []
    assert [(line.name, [number for number, _ in line.points]) for line in lines] == [
        ("r=… t=1", ["0.1", "0.2", "0.3"]),
        ("r=… t=2", ["0.1", "0.2", "0.3"]),
    ]


def test_what_is_drawn() -> None:
    points = [
        Point("stp r=0.5", 0.8, 0.01, 3.0),
        Point("stp r=0.9", 0.7, 0.02, 2.0),
        Point("dense", 0.75, 0.03, 4.0, is_baseline=True),
    ]
    figure = draw_tradeoff(points, cost=COSTS["macs"], about="a")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert (list(lines["stp r=…"].get_xdata()), list(lines["stp r=…"].get_ydata())) == ([3.0, 2.0], [0.8, 0.7])
    assert lines["baseline: dense"].get_xdata() == [4.0]
    assert [text.get_text() for text in axes.texts] == ["0.5", "0.9"]
    bars = sorted(path.vertices[:, 1].tolist() for group in axes.collections for path in group.get_paths())
    assert bars == [pytest.approx(ends) for ends in ([0.68, 0.72], [0.72, 0.78], [0.79, 0.81])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["stp r=…", "baseline: dense"]
    assert axes.get_xlabel() == "MACs (G)"
