"""How much windows have to overlap: Dice and time of a trained run for several overlaps, on the same cases in turn.

    python scripts/check_windows.py ckpt=RUN                                   # test cases; settings as for sct.eval
    python scripts/check_windows.py ckpt=RUN split=val --overlaps 0.125 0.25   # with inferer=fast

column          mean over the cases, on the preprocessed grid
overlap, even   inferer.overlap and inferer.even
windows         windows of an image that are predicted
Dice            mean over the classes that an image has
worst class     class whose mean Dice is furthest below that of the first row with the largest overlap, and by how much
seconds         of prediction, from the preprocessed image to its labels
"""

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sct.config.command import CONFIG_ERRORS, compose_config, explain, open_overrides
from sct.errors import UserError
from sct.evaluation.metrics import quick_dice
from sct.inference import FastSlidingWindow, Request
from sct.runs.run import Run, open_run
from sct.runtime.memory import tune_allocator
from sct.runtime.precision import autocast

HEADER = ("overlap", "even", "windows", "Dice", "worst class", "", "seconds")


@dataclass(frozen=True)
class Row:
    """The results of one setting, of all cases: windows (n), dice (n, classes; NaN: absent), seconds (n)."""

    overlap: float
    even: bool
    windows: np.ndarray
    dice: np.ndarray
    seconds: np.ndarray

    @property
    def mean(self) -> float:
        return float(np.nanmean(self.dice, axis=1).mean())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="settings of sct.eval")
    parser.add_argument("--overlaps", nargs="+", type=float, default=[0, 0.0625, 0.125, 0.25, 0.5])
    parser.add_argument("--cases", type=int, default=0, help="number of cases, 0 for all")
    return parser.parse_args(argv)


def opened(settings: Sequence[str]) -> tuple[Run, str]:
    """The run with `inferer=fast`, and the split. UserError where the settings name another inferer."""
    cfg = compose_config("eval", overrides=open_overrides(["inferer=fast", *settings], groups=["data", "inferer"]))
    changes = {"data": cfg.data, "inferer": cfg.inferer}
    run = open_run(cfg.ckpt, weights=cfg.weights, device=cfg.device, precision=cfg.precision, changes=changes)
    if not isinstance(run.inferer, FastSlidingWindow):
        raise UserError("inferer=NAME: only inferer=fast has these settings; leave it out.")
    return run, cfg.split


@torch.no_grad()
def measure(run: Run, *, split: str, overlaps: Sequence[float], count: int | None) -> list[Row]:
    """A row for each overlap and kind of spacing; for each case the settings take turns."""
    inferer, data = run.inferer, run.data
    assert isinstance(inferer, FastSlidingWindow)
    inferers = [replace(inferer, overlap=overlap, even=even) for overlap in overlaps for even in (False, True)]
    windows: list[list[int]] = [[] for _ in inferers]
    dice: list[list[np.ndarray]] = [[] for _ in inferers]
    seconds: list[list[float]] = [[] for _ in inferers]
    for number, case in enumerate(data.cases(split)[:count]):
        volume = data.load_case(case)
        assert volume.label is not None, "cases of a split have labels"
        image, shape = volume.image, volume.image.shape[1:]
        if number == 0:  # warms up
            labels_of(run, inferers[0], image)
        for index, each in enumerate(inferers):
            start = time.perf_counter()
            labels = labels_of(run, each, image)
            seconds[index].append(time.perf_counter() - start)
            dice[index].append(quick_dice(labels, volume.label, outputs=data.outputs))
            request = Request(data.roi_size, data.outputs.background, run.device)
            windows[index].append(each.num_windows(run.network, shape, request))
    return [
        Row(each.overlap, each.even, *(np.array(values[index]) for values in (windows, dice, seconds)))
        for index, each in enumerate(inferers)
    ]


def labels_of(run: Run, inferer: FastSlidingWindow, image: torch.Tensor) -> torch.Tensor:
    with autocast(run.device, run.number_format.dtype):
        return inferer.labels(
            run.network, image, roi_size=run.data.roi_size, outputs=run.data.outputs, device=run.device
        )


def table(rows: Sequence[Row], *, classes: Sequence[str]) -> str:
    reference = max(rows, key=lambda row: row.overlap)
    lines = [f"| {' | '.join(HEADER)} |", "|---:|---|---:|---:|---|---:|---:|"]
    for row in rows:
        change = np.nanmean(row.dice, axis=0) - np.nanmean(reference.dice, axis=0)
        worst = int(np.nanargmin(change))
        cells = (
            f"{row.overlap:g}", "yes" if row.even else "no", f"{row.windows.mean():.1f}", f"{row.mean:.4f}",
            classes[worst], f"{change[worst]:+.4f}", f"{row.seconds.mean():.2f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.WARNING)
    tune_allocator()  # as the commands do
    options = parse(argv)
    try:
        run, split = opened(options.settings)
        rows = measure(run, split=split, overlaps=options.overlaps, count=options.cases or None)
    except CONFIG_ERRORS as error:
        raise SystemExit(f"error: {explain(error, config_name='eval')}") from None
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    print(table(rows, classes=run.data.outputs.names))


if __name__ == "__main__":
    main()
