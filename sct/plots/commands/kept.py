"""Distribution of the number of kept tokens, with easy, normal and hard cases (figures 5, 6, 7 of the AS-ViT paper).

    sct-plot kept RUN
    sct-plot kept RUN --split val --plane coronal --output figure5

RUN is a run folder or checkpoint of a network that prunes tokens. The histograms count all sliding windows of the
split's cases. Below are the cases with the fewest, the median and the most kept tokens, each in the window around its
foreground, with the Dice of the whole case. Dice is computed from the predictions that sct.eval wrote; if there are
none, or with --fresh, the case is predicted now.
"""

import argparse
import logging

import numpy as np

from sct.data.cases import Case
from sct.data.splits import SPLITS
from sct.evaluation.metrics import quick_dice
from sct.plots.commands import base
from sct.plots.depth import depths_of
from sct.plots.kept import Example, all_alike, draw_kept, examples, window_counts
from sct.plots.panels import prediction_of
from sct.plots.planes import PLANES, view
from sct.plots.runs import Run, load_window, open_run

logger = logging.getLogger("sct.plots.kept")


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    made.add_argument("run", metavar="RUN")
    made.add_argument("--split", choices=SPLITS, default="test")
    made.add_argument("--plane", choices=tuple(PLANES), default="axial", help="plane of volumes to draw")
    made.add_argument("--fresh", action="store_true", help="predict again, also if sct.eval wrote predictions")
    base.add_network_options(made)
    return made


def counts_of(run: Run, case: Case) -> np.ndarray:
    inferer = run.inferer
    return window_counts(
        run.network.encoder,
        run.data.load_case(case).image,
        size=run.data.roi_size,
        overlap=inferer.overlap,
        batch_size=inferer.windows_at_once(run.data.roi_size, device=run.device),
        device=run.device,
    )


def example(run: Run, case: Case, *, counts: np.ndarray, options: argparse.Namespace) -> Example:
    assert case.label is not None
    window = load_window(run, case)
    truth = window.label.numpy()
    labels = prediction_of(run, case, fresh=options.fresh)
    dice = quick_dice(labels.astype(int), run.data.format.read_label(case.label)[0], outputs=run.data.outputs)
    return Example(
        name=case.name,
        where=view(window.image.numpy(), truth, spacing=window.spacing, plane=options.plane),
        truth=truth,
        depth=depths_of(run.network.encoder, window.image.unsqueeze(0).to(run.device))[0],
        dice=float(np.nanmean(dice)),
        counts=counts.mean(axis=0),
    )


def draw(options: argparse.Namespace) -> base.Drawn:
    run = open_run(options.run, options=options)
    cases = {case.name: case for case in run.data.cases(options.split)}
    counts = {name: counts_of(run, case) for name, case in cases.items()}
    windows = np.concatenate(list(counts.values()))
    num_tokens = run.network.encoder.spec.num_tokens
    title = f"{run.config.name}, {options.split}: tokens kept in {len(windows)} windows of {len(cases)} cases"
    about = (
        "Cases are sorted by the number of kept tokens, mean over windows and stages: easy (E) has the fewest, normal "
        "(N) the median, hard (H) the most. Arrow: mean over the case's windows; dotted line: median of all windows. "
        "Below: the window around the foreground with the truth outlined."
    )
    shown = []
    if all_alike(counts):
        same = ", ".join(map(str, windows[0].astype(int)))
        about = (
            f"All windows keep the same number of tokens after the stages: {same} of {num_tokens}, so no image is "
            "easier or harder than another."
        )
        logger.info("%s", about)
    else:
        shown = [example(run, cases[name], counts=counts[name], options=options) for name in examples(counts)]
    figure = draw_kept(counts, shown, num_tokens=num_tokens, title=title, about=about)
    return base.Drawn(figure, run.folder / "figures" / f"kept_{options.split}")
