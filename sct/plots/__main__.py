"""`sct-plot FIGURE ...` or `python -m sct.plots FIGURE ...`: figures of the papers, drawn for trained runs."""

import sys
from collections.abc import Sequence
from importlib import import_module

from sct.config.check import nearest
from sct.plots.commands import base

# each figure has a module of its name in sct.plots.commands; it is imported when it is needed: torch takes seconds
FIGURES = {
    "attention": "attention matrices of one block and head, before and after APFormer's pruning",
    "gate": "the foreground probability of APFormer's gate, and the patches that stay queries",
    "panels": "predictions of several runs beside the image and the truth",
    "curves": "pixel loss and validation Dice of several runs over the training",
    "depth": "how long each patch of a case is kept, and the patches that remain after each stage",
    "stages": "tokens that exit early (DToP), and the prediction after each stage",
    "heads": "how important each head of attention is for each token, as AS-ViT weights them",
    "positions": "APFormer's relative positions (GRPE) as heat maps, of all places and of one query",
    "kept": "how many tokens each image keeps, with easy, normal and hard cases",
    "sparsity": "sparsity of each class and its gain in Dice over a baseline",
}


def page() -> str:
    """The text of `sct-plot --help`."""
    width = max(map(len, FIGURES)) + 2
    figures = "\n".join(f"  {name:{width}}{meaning}" for name, meaning in FIGURES.items())
    return (
        "usage: sct-plot FIGURE [OPTIONS]     (or: python -m sct.plots FIGURE [OPTIONS])\n\n"
        f"Draws a figure of trained runs as PNG and PDF. Figures:\n{figures}\n\n"
        "sct-plot FIGURE --help lists the options of a figure. Example:\n"
        "  sct-plot curves --run demo=outputs/demo/make\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(page())
        return
    if name not in FIGURES:
        sys.exit(f"Error: there is no figure {name!r}. {nearest(name, FIGURES)} sct-plot --help describes them.")
    module = import_module(f"sct.plots.commands.{name}")
    parser = module.parser()
    parser.prog = f"sct-plot {name}"
    base.execute(parser, module.draw, arguments)


if __name__ == "__main__":
    main()
