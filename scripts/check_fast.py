"""Whether inferer=fast gives the labels of the reference, MONAI's sliding window, and skips nothing that matters.

    python scripts/check_fast.py ckpt=RUN          # test cases; settings as for sct.eval with inferer=fast
    python scripts/check_fast.py ckpt=RUN split=val inferer.overlap=0.5 precision=auto --agreement 0.9999

Both predict the same windows in the same precision, on the preprocessed grid, padded at its ends to whole features
where those are stitched (inferer.stitch=features). For each case: windows; how many are skipped; how many of the
skipped hold a foreground voxel of the truth or of the reference's prediction; the share of voxels with the same label,
and of voxels that are foreground to one of the two; mean Dice of either with the truth. Ends with status 1 where a
skipped window holds foreground, or a case agrees on less than --agreement of all voxels.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sct.config.command import CONFIG_ERRORS, compose_config, explain, open_overrides
from sct.data.cases import Case, window_shape
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.evaluation.metrics import quick_dice
from sct.inference import FastSlidingWindow, SlidingWindow
from sct.inference.stitch import box_at
from sct.inference.tiling import pad_to_window, padded_shape, window_starts
from sct.models.segmenter import Segmenter
from sct.runs.run import open_run
from sct.runtime.memory import tune_allocator
from sct.runtime.precision import autocast

HEADER = (
    "case", "windows", "skipped", "of them with truth", "with prediction",
    "same labels %", "of foreground %", "Dice of the reference", "Dice",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What was seen of one case; `with_truth` and `with_prediction` count skipped windows that hold foreground.

    agreement, of_foreground: shares of all voxels, and of those that are foreground to one of the two; dice: mean over
    what the truth or the labels have, of the reference and of the fast inferer
    """

    case: str
    windows: int
    skipped: int
    with_truth: int
    with_prediction: int
    agreement: float
    of_foreground: float
    dice: tuple[float, ...]

    def passes(self, agreement: float) -> bool:
        return self.agreement >= agreement and not self.with_truth and not self.with_prediction


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="of sct.eval")
    parser.add_argument("--agreement", type=float, default=0.999, help="share of voxels that must have the same label")
    return parser.parse_args(argv)


def foreground_in(labels: Tensor, places: Sequence[tuple[int, ...]], *, window: Sequence[int]) -> int:
    """How many windows at `places` hold a voxel of labels (*S) that is not background."""
    padded = pad_to_window((labels > 0).unsqueeze(0), window)[0][0]
    return sum(bool(padded[box_at(place, window)].any()) for place in places)


@torch.no_grad()
def check_case(
    case: Case,
    *,
    data: SegmentationData,
    segmenter: Segmenter,
    fast: FastSlidingWindow,
    device: torch.device,
    dtype: torch.dtype,
) -> Outcome:
    volume = data.load_case(case)
    assert volume.label is not None
    reference = SlidingWindow(
        overlap=fast.overlap, blending=fast.blending, mirror_axes=fast.mirror_axes, batch_size=fast.batch_size
    )
    window = window_shape(data.roi_size, num_dims=volume.image.ndim - 1)
    stride = fast.stages(
        segmenter, num_channels=data.outputs.num_channels, roi_size=data.roi_size, num_dims=len(window)
    ).stride
    check_steps(fast.overlap, shape=volume.image.shape[1:], window=window, stride=stride)
    image, truth = (to_full_size(part, stride=stride) for part in (volume.image, volume.label.unsqueeze(0)))
    with autocast(device, dtype):
        wanted, found = (
            inferer.labels(segmenter, image, roi_size=data.roi_size, outputs=data.outputs, device=device)
            for inferer in (reference, fast)
        )
    padded = padded_shape(image.shape[1:], window, multiple=stride)
    starts = window_starts(padded, window, overlap=fast.overlap, multiple=stride)
    places = fast.occupied_places(image, starts=starts, window=window, padded=padded)
    skipped = [place for place, is_predicted in places.items() if not is_predicted]
    foreground, same = (wanted > 0) | (found > 0), wanted == found
    return Outcome(
        case=case.name,
        windows=len(places),
        skipped=len(skipped),
        with_truth=foreground_in(truth[0], skipped, window=window),
        with_prediction=foreground_in(wanted, skipped, window=window),
        agreement=same.double().mean().item(),
        of_foreground=same[foreground].double().mean().item() if foreground.any() else 1.0,
        dice=tuple(float(np.nanmean(quick_dice(own, truth[0], outputs=data.outputs))) for own in (wanted, found)),
    )


def check_steps(overlap: float, *, shape: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> None:
    """UserError where the reference's windows do not start on whole features, so that the fast ones lie elsewhere."""
    for size, edge, whole in zip(shape, window, stride, strict=True):
        if size > edge and (step := int(edge * (1 - overlap))) % whole:
            raise UserError(
                f"inferer.overlap={overlap}: MONAI's windows of {edge} are {step} voxels apart, those of "
                f"inferer.stitch=features a multiple of {whole}. Choose an overlap that gives one."
            )


def to_full_size(image: Tensor, *, stride: Sequence[int]) -> Tensor:
    """An image (C, *S) padded with zeros at its ends to a multiple of the stride."""
    lack = [-size % whole for size, whole in zip(image.shape[1:], stride, strict=True)]
    return F.pad(image, [pad for missing in reversed(lack) for pad in (0, missing)])


def table(outcomes: Sequence[Outcome]) -> str:
    lines = [f"| {' | '.join(HEADER)} |", "|---|" + "---|" * (len(HEADER) - 1)]
    for one in outcomes:
        counts = (one.windows, one.skipped, one.with_truth, one.with_prediction)
        shares = (100 * one.agreement, 100 * one.of_foreground)
        cells = [*map(str, counts), *(f"{share:.5f}" for share in shares), *(f"{dice:.4f}" for dice in one.dice)]
        lines.append(f"| {one.case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def check(settings: Sequence[str]) -> list[Outcome]:
    """What is seen of every case of a split."""
    overrides = open_overrides(["inferer=fast", *settings], groups=["data", "inferer"])
    cfg = compose_config("eval", overrides=overrides)
    changes = {"data": cfg.data, "inferer": cfg.inferer}
    run = open_run(cfg.ckpt, weights=cfg.weights, device=cfg.device, precision=cfg.precision, changes=changes)
    fast = run.inferer
    if not isinstance(fast, FastSlidingWindow):
        raise UserError(
            "inferer=NAME: it is inferer=fast that is checked; change its settings alone (inferer.overlap=0.5)."
        )
    return [
        check_case(
            case,
            data=run.data,
            segmenter=run.network,
            fast=fast,
            device=run.device,
            dtype=run.number_format.dtype,
        )
        for case in run.data.cases(cfg.split)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tune_allocator()  # as the commands do
    options = parse(argv)
    try:
        outcomes = check(options.settings)
    except CONFIG_ERRORS as error:
        raise SystemExit(f"error: {explain(error, config_name='eval')}") from None
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    print(table(outcomes))
    if missed := [one.case for one in outcomes if not one.passes(options.agreement)]:
        raise SystemExit(
            f"Not as the reference in {', '.join(missed)}: a skipped window holds foreground, or fewer than "
            f"{options.agreement:.2%} of the labels agree."
        )


if __name__ == "__main__":
    main()
