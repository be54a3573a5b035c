"""Common style of all figures: width, fonts, colours, captions, PNG and PDF. Only this file imports matplotlib.

Figures are made without pyplot, so no global state is set and no display is needed.
"""

import logging
import math
import textwrap
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sct.errors import UserError
from sct.evaluation.pictures import PALETTE, shade_of
from sct.runtime.extras import install_command
from sct.runtime.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")
Color = tuple[float, float, float]

WIDTH = 7.2  # inches: a page of two columns
INK, FAINT = "#191919", "#6e6e6e"
TRUTH, MARK = "#ffffff", "#d81b60"  # outline of the truth over an image; marks that must be easy to see
REMOVED = "#d9d9d9"  # pruned entries and patches
COLORS = "viridis"  # colormap of values: lightness increases, readable with all kinds of colour vision


def class_color(value: int) -> Color:
    """Colour of a class, as in the figures of an evaluation."""
    red, green, blue = (PALETTE[(value - 1) % len(PALETTE)] / 255).tolist()
    return red, green, blue


# colours of lines on white: the palette's dark colours; when all are used, the next dash pattern
LINE_COLORS = tuple(class_color(value) for value in (5, 7, 3, 6, 1, 2, 10))
DASHES = ("-", "--", ":")

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "figure.titlesize": 9,
    "legend.fontsize": 8,
    "legend.title_fontsize": 9,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # text in the PDF stays text
}


def depth_colors(num_stages: int) -> Any:
    """Colormap of pruning depths 1 to num_stages, as in the figures of an evaluation: darker means kept longer."""
    shades = [shade_of(stage, num_stages=num_stages) / 255 for stage in range(1, num_stages + 1)]
    return matplotlib().colors.ListedColormap(shades)


def is_installed() -> bool:
    """Whether the package matplotlib is installed."""
    return find_spec("matplotlib") is not None


def matplotlib() -> ModuleType:
    """Imports matplotlib; UserError with the install command if it is missing."""
    try:
        import matplotlib.colors
        import matplotlib.figure
        import matplotlib.text
        import matplotlib.ticker
    except ImportError as error:
        raise UserError(
            "Figures need the package matplotlib, which is not installed. Install it with: "
            + install_command("figures")
        ) from error
    return matplotlib


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Makes `draw` use this style instead of the user's matplotlib settings."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        package = matplotlib()
        with package.rc_context():
            package.rcdefaults()
            package.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return wrapper


def new_figure(height: float, *, width: float = WIDTH) -> "Figure":
    """An empty figure of this size in inches, with automatic layout."""
    return matplotlib().figure.Figure(figsize=(width, height), layout="constrained")


def caption(figure: "Figure", text: str) -> None:
    """Writes a caption in small letters below a figure."""
    wrapped = textwrap.fill(" ".join(text.split()), int(20 * figure.get_figwidth()))
    figure.supxlabel(wrapped, x=0.008, ha="left", fontsize=7, color=FAINT, linespacing=1.3)


def decade(low: float, high: float) -> tuple[float, float]:
    """Ends of a logarithmic axis around low and high, at least a factor 10 apart, so that the axis has ticks."""
    wider = max(1.0, math.sqrt(10 * low / high))
    return low / wider, high * wider


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between low and high; only the powers of ten if these are more than seven."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates = [[factor * 10.0**e for e in exponents for factor in factors] for factors in ((1, 2, 5), (1,))]
    inside = [[value for value in values if low <= value <= high] for values in candidates]
    return inside[0] if len(inside[0]) <= 7 else inside[1]


def show_as_written(figure: "Figure") -> None:
    """Makes all texts of a figure plain: a name with dollar signs is no formula, which may be one that can't be drawn.

    Only the powers of ten beside a logarithmic axis are formulas.
    """
    package = matplotlib()
    powers: set[Any] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # makes them, where they are not yet made
            if isinstance(axis.get_major_formatter(), package.ticker.LogFormatter):
                powers.update(axis.findobj(package.text.Text))
                powers.discard(axis.label)
    for text in set(figure.findobj(package.text.Text)) - powers:
        text.set_parse_math(False)


@styled
def save(figure: "Figure", stem: Path) -> list[Path]:
    """Writes stem.png and stem.pdf; equal figures give equal bytes."""
    show_as_written(figure)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every table of every font in a PDF
    written = []
    for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        path = stem.with_name(f"{stem.name}.{kind}")
        with atomic(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        written.append(path)
    return written
