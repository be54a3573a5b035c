"""Accuracy against cost, with one point for each setting of a report.

Letters: P points.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from sct.errors import UserError
from sct.plots.style import FAINT, LINE_COLORS, MARK, Color, caption, new_figure, styled
from sct.reports.collect import Setting, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^v"
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Cost:
    """A cost in profile.json: its keys there, the divisor `unit`, the label of its axis, and a note for the caption."""

    keys: tuple[str, ...]
    unit: float
    label: str
    about: str


COSTS: Mapping[str, Cost] = {
    "macs": Cost(("macs", "total"), 1e9, "MACs (G)", "MACs of one window, fewer is better."),
    "inference": Cost(
        ("throughput", "inference"),
        1.0,
        "throughput in inference (images/s)",
        "Speeds for one window, faster is better; compare speeds only if they were measured side by side.",
    ),
}


@dataclass(frozen=True)
class Point:
    """A setting: mean Dice over runs, its standard deviation (None for a single run), and cost."""

    label: str
    dice: float
    std: float | None
    cost: float
    is_baseline: bool = False


@dataclass(frozen=True)
class Line:
    """Points of one sweep, sorted by the number in which their labels differ.

    name: the common label with … instead of the number; points: the number as text, and the point.
    """

    name: str
    points: list[tuple[str, Point]]


def find_cost(name: str) -> Cost:
    """A cost by its name in `cost=`; UserError for an unknown one."""
    if name not in COSTS:
        raise UserError(f"cost={name} is unknown: choose one of {', '.join(COSTS)}.")
    return COSTS[name]


def tradeoff_points(settings: Sequence[Setting], *, cost: Cost, baseline: Setting | None) -> list[Point]:
    """One point for each setting with a Dice and this cost; UserError if no setting has both."""
    points = []
    for setting in settings:
        dice, value = setting.scores("dice").get("mean"), setting.cost(*cost.keys)
        if dice and value is not None:
            points.append(Point(setting.label, fmean(dice), spread(dice), value / cost.unit, setting is baseline))
    if not points:
        raise UserError(
            f"plot=true: no run has {'.'.join(cost.keys)} in its profile.json. Run  python -m sct.profile ckpt=RUN  "
            "for each, or choose another cost=."
        )
    return points


def sweep_lines(points: Sequence[Point]) -> tuple[list[Line], list[Point]]:
    """Lines of points whose labels differ in one number, and the single points without a line.

    A label with several numbers may belong to several sweeps: it goes to the sweep with the most points, or to the
    first of equal ones.
    """
    groups: dict[str, list[tuple[str, Point]]] = {}
    for point in points:
        for match in NUMBER.finditer(point.label):
            name = f"{point.label[: match.start()]}…{point.label[match.end() :]}"
            groups.setdefault(name, []).append((match.group(), point))
    lines: list[Line] = []
    taken: set[str] = set()
    for name, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        free = [(number, point) for number, point in members if point.label not in taken]
        if len(free) > 1:
            lines.append(Line(name, sorted(free, key=lambda member: float(member[0]))))
            taken |= {point.label for _, point in free}
    return lines, [point for point in points if point.label not in taken]


@styled
def draw_tradeoff(points: Sequence[Point], *, cost: Cost, about: str) -> "Figure":
    """Draws Dice over cost: lines join the points of a sweep, labelled with their numbers; the baseline is a star."""
    lines, single = sweep_lines(points)
    figure = new_figure(3.6 + 0.16 * (len(lines) + len(single)))
    axes = figure.subplots()
    entries = [*lines, *(Line(point.label, [("", point)]) for point in single if not point.is_baseline)]
    for number, entry in enumerate(entries):
        color = LINE_COLORS[number % len(LINE_COLORS)]
        marker = MARKERS[number // len(LINE_COLORS) % len(MARKERS)]
        places = [(point.cost, point.dice) for _, point in entry.points]
        joined = "-" if len(places) > 1 else "none"
        axes.plot(*zip(*places, strict=True), color=color, marker=marker, linestyle=joined, label=entry.name)
        for value, point in entry.points:
            bar(axes, point, color=color)
            axes.annotate(
                value, (point.cost, point.dice), xytext=(5, 4), textcoords="offset points", fontsize=7,
                bbox={"facecolor": "#ffffff", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
            )  # fmt: skip
    for point in points:
        if point.is_baseline:
            bar(axes, point, color=MARK)
            axes.axhline(point.dice, color=MARK, linestyle="--", linewidth=0.8, zorder=1.5)
            name = f"baseline: {point.label}"
            axes.plot(point.cost, point.dice, "*", color=MARK, markersize=11, zorder=4, label=name)
    costs = [point.cost for point in points]
    if max(costs) > 10 * min(costs):
        axes.set_xscale("log")
    axes.set_xlabel(cost.label)
    axes.set_ylabel("Dice")
    axes.grid()
    axes.tick_params(color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    for entry_text in figure.legend(loc="outside upper left", fontsize=7).get_texts():
        entry_text.set_text(textwrap.fill(entry_text.get_text(), 110))
    caption(figure, f"{cost.about} {about}")
    return figure


def bar(axes: "Axes", point: Point, *, color: str | Color) -> None:
    """Draws the standard deviation of a point as a bar, if it has one."""
    if point.std is not None:
        axes.errorbar(point.cost, point.dice, yerr=point.std, fmt="none", ecolor=color, elinewidth=0.9, capsize=2.5)
