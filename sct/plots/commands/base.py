"""Common parts of the figures of `sct-plot`: options, messages for mistakes of the user, and writing the files."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sct.config.trust import check_plugins
from sct.errors import UserError
from sct.plots import style
from sct.runs.links import check_links
from sct.runtime.files import write_text
from sct.runtime.logs import LogFormatter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


class Drawn(NamedTuple):
    """A figure, the default path of its files without suffix, and its numbers as csv (empty: no csv is written)."""

    figure: "Figure"
    stem: Path
    table: str = ""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option `--output`, which all figures have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, metavar="STEM", help="write STEM.png and STEM.pdf (default: a name from figure and case)"
    )
    return parser


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for loading trained networks."""
    parser.add_argument("--weights", choices=("best", "last"), default="best")
    parser.add_argument("--root", help="data.root, if it differs from the training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--plugins", type=package_names, default=(), metavar="PACKAGE,...",
        help="your own packages whose code the run may use",
    )  # fmt: skip


def package_names(text: str) -> tuple[str, ...]:
    """The packages of a comma-separated list."""
    try:
        check_plugins(names := tuple(text.split(",")))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return names


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Adds the option for several runs, each with its name in the figure."""
    parser.add_argument(
        "--run", dest="runs", type=named_run, action="append", required=True, metavar="NAME=RUN",
        help="a run folder and its name in the figure; repeat it for each run",
    )  # fmt: skip


def named_run(text: str) -> tuple[str, str]:
    """NAME=RUN as a pair."""
    name, separator, run = text.partition("=")
    if not (name and separator and run):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=RUN, such as APFormer=outputs/isic_apformer/RUN")
    return name, run


def execute(parser: argparse.ArgumentParser, draw: Callable[[argparse.Namespace], Drawn], argv: Sequence[str]) -> None:
    """Parses the options, draws the figure and writes it; a UserError ends the command with its message."""
    options = parser.parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("sct").setLevel(logging.INFO)  # not for all packages: those that write PDF log too much
    try:
        style.matplotlib()  # a missing package is an error here, before the networks are loaded
        drawn = draw(options)
        stem = options.output or drawn.stem
        run = stem.parent.parent
        if options.output is None and (run / "config.yaml").exists():  # figures of several runs have another place
            check_links(run)
        written = style.save(drawn.figure, stem)
        if drawn.table:
            written.append(stem.with_name(f"{stem.name}.csv"))
            write_text(written[-1], drawn.table)
        for path in written:
            logger.info("%s", path)
    except UserError as error:
        sys.exit(f"Error: {error}")


def add_query_options(parser: argparse.ArgumentParser) -> None:
    """Adds the block, the head and the patch whose attention is drawn."""
    parser.add_argument("--layer", type=int, default=1, help="number of the block, from 1 (default: 1)")
    parser.add_argument("--head", type=int, default=1, help="number of the head, from 1 (default: 1)")
    parser.add_argument(
        "--query", type=int, nargs="+", metavar="INDEX", help="row and column of a patch; 3 numbers in 3-D"
    )


def check_query(query: tuple[int, ...], *, grid: tuple[int, ...]) -> None:
    """UserError unless `query` is a patch of the grid."""
    if len(query) != len(grid) or any(not 0 <= place < size for place, size in zip(query, grid, strict=True)):
        raise UserError(f"--query {query}: give a patch of the grid {grid}, counted from 0.")
