"""Checks that inferer=fast gives the labels of the reference (MONAI's sliding window) and skips no foreground.

    python scripts/check_fast.py ckpt=RUN          # test cases; settings as for sct.eval with inferer=fast
    python scripts/check_fast.py ckpt=RUN split=val inferer.overlap=0.5 precision=auto --agreement 0.9999

Both predict the same windows in the same precision, on the preprocessed grid. MONAI has no even windows, so
inferer.even=false. With inferer.stitch=features, the grid is padded at its ends to a multiple of the features' stride.
The exit status is 1 if a skipped window has foreground, or if a case agrees on less than --agreement of all voxels.

column                  value for a case
windows, skipped        number of windows, and of skipped ones
with truth              skipped windows with a foreground voxel of the truth
with prediction         skipped windows with a foreground voxel of the reference's prediction
same labels             share of voxels with the same label
of foreground           the same share among voxels that are foreground in one of the two predictions
Dice                    mean Dice with the truth, of the reference and of the fast inferer
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sct.config.command import CONFIG_ERRORS, compose_config, explain, open_overrides
from sct.data.cases import Case, window_shape
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.evaluation.metrics import quick_dice
from sct.inference import FastSlidingWindow, Request, SlidingWindow
from sct.inference.stitch import box_at
from sct.inference.tiling import pad_to_window, padded_shape
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
    """The result of one case.

    with_truth, with_prediction: number of skipped windows with foreground; agreement: share of all voxels with the same
    label; of_foreground: the same share among voxels that are foreground in one of the predictions; dice: mean over the
    classes in truth or prediction, of the reference and of the fast inferer
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
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="settings of sct.eval")
    parser.add_argument("--agreement", type=float, default=0.999, help="share of voxels that must have the same label")
    return parser.parse_args(argv)


def foreground_in(labels: Tensor, places: Sequence[tuple[int, ...]], *, window: Sequence[int]) -> int:
    """Number of windows at `places` with a foreground voxel in labels (*S)."""
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
    request = Request(data.roi_size, data.outputs.background, device)
    stages = fast.stages(segmenter, request, num_dims=len(window))
    stride = stages.stride
    check_steps(fast.overlap, shape=volume.image.shape[1:], window=window, stride=stride)
    image, truth = (to_full_size(part, stride=stride) for part in (volume.image, volume.label.unsqueeze(0)))
    with autocast(device, dtype):
        expected, predicted = (
            inferer.labels(segmenter, image, roi_size=data.roi_size, outputs=data.outputs, device=device)
            for inferer in (reference, fast)
        )
    padded = padded_shape(image.shape[1:], window, multiple=stride)
    places = fast.starts(image.shape[1:], window, stages=stages)
    predicted_windows = fast.occupied_places(image, starts=places, window=window, padded=padded)
    skipped = sorted(set(places) - set(predicted_windows))
    foreground, same = (expected > 0) | (predicted > 0), expected == predicted
    return Outcome(
        case=case.name,
        windows=len(places),
        skipped=len(skipped),
        with_truth=foreground_in(truth[0], skipped, window=window),
        with_prediction=foreground_in(expected, skipped, window=window),
        agreement=same.double().mean().item(),
        of_foreground=same[foreground].double().mean().item() if foreground.any() else 1.0,
        dice=tuple(
            float(np.nanmean(quick_dice(labels, truth[0], outputs=data.outputs))) for labels in (expected, predicted)
        ),
    )


def check_steps(overlap: float, *, shape: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> None:
    """UserError if the reference's step is no multiple of the stride: the fast inferer's windows would then differ."""
    for size, edge, unit in zip(shape, window, stride, strict=True):
        if size > edge and (step := int(edge * (1 - overlap))) % unit:
            raise UserError(
                f"inferer.overlap={overlap}: MONAI's windows of {edge} are {step} voxels apart, but windows with "
                f"inferer.stitch=features need a multiple of {unit}. Choose an overlap that gives one."
            )


def to_full_size(image: Tensor, *, stride: Sequence[int]) -> Tensor:
    """An image (C, *S) padded with zeros at its ends to a multiple of the stride."""
    missing = [-size % unit for size, unit in zip(image.shape[1:], stride, strict=True)]
    return F.pad(image, [pad for voxels in reversed(missing) for pad in (0, voxels)])


def table(outcomes: Sequence[Outcome]) -> str:
    lines = [f"| {' | '.join(HEADER)} |", "|---|" + "---|" * (len(HEADER) - 1)]
    for one in outcomes:
        counts = (one.windows, one.skipped, one.with_truth, one.with_prediction)
        shares = (100 * one.agreement, 100 * one.of_foreground)
        cells = [*map(str, counts), *(f"{share:.5f}" for share in shares), *(f"{dice:.4f}" for dice in one.dice)]
        lines.append(f"| {one.case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def check(settings: Sequence[str]) -> list[Outcome]:
    """The results of all cases of a split."""
    overrides = open_overrides(["inferer=fast", *settings], groups=["data", "inferer"])
    cfg = compose_config("eval", overrides=overrides)
    changes = {"data": cfg.data, "inferer": cfg.inferer}
    run = open_run(cfg.ckpt, weights=cfg.weights, device=cfg.device, precision=cfg.precision, changes=changes)
    fast = run.inferer
    if not isinstance(fast, FastSlidingWindow):
        raise UserError(
            "inferer=NAME: only inferer=fast can be checked; change single settings of it (inferer.overlap=0.5)."
        )
    return [
        check_case(
            case,
            data=run.data,
            segmenter=run.network,
            fast=replace(fast, even=False),  # MONAI has no even windows
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
            f"Different from the reference in {', '.join(missed)}: a skipped window has foreground, or fewer than "
            f"{options.agreement:.2%} of the labels agree."
        )


if __name__ == "__main__":
    main()
