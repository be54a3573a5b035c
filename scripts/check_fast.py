"""Whether inferer=fast gives the labels of the reference, MONAI's sliding window, and skips nothing that matters.

    python scripts/check_fast.py ckpt=RUN          # test cases; settings as for sct.eval with inferer=fast
    python scripts/check_fast.py ckpt=RUN split=val inferer.overlap=0.5 speed=fast --agreement 0.9999

Both predict the same windows in the same precision, on the preprocessed grid. For each case: windows; how many are
skipped; how many of the skipped hold a foreground voxel of the truth or of the reference's prediction; the share of
voxels with the same label. Ends with status 1 where a skipped window holds one, or a case agrees on less than
--agreement.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from omegaconf import OmegaConf
from torch import Tensor

from sct.cli import CONFIG_ERRORS, compose_config, explain, open_overrides
from sct.data.cases import Case, window_shape
from sct.data.module import SegmentationData
from sct.distributed import pick_device
from sct.errors import UserError
from sct.factory import build_inferer, load_trained
from sct.inference import FastSlidingWindow, SlidingWindow
from sct.inference.stitch import box_at
from sct.inference.tiling import pad_to_window, window_starts
from sct.memory import tune_allocator
from sct.models.segmenter import Segmenter
from sct.precision import autocast
from sct.speed import inference_dtype

HEADER = ("case", "windows", "skipped", "of them with truth", "with prediction", "same labels %")


@dataclass(frozen=True)
class Outcome:
    """What was seen of one case; `with_truth` and `with_prediction` count skipped windows that hold foreground."""

    case: str
    windows: int
    skipped: int
    with_truth: int
    with_prediction: int
    agreement: float

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
    with autocast(device, dtype):
        wanted, found = (
            inferer.labels(segmenter, volume.image, roi_size=data.roi_size, outputs=data.outputs, device=device)
            for inferer in (reference, fast)
        )
    window = window_shape(data.roi_size, num_dims=volume.image.ndim - 1)
    starts = window_starts(pad_to_window(volume.image, window)[0].shape[1:], window, overlap=fast.overlap)
    places = fast.occupied_places(volume.image, starts=starts, window=window)
    skipped = [place for place, is_predicted in places.items() if not is_predicted]
    return Outcome(
        case=case.id,
        windows=len(places),
        skipped=len(skipped),
        with_truth=foreground_in(volume.label, skipped, window=window),
        with_prediction=foreground_in(wanted, skipped, window=window),
        agreement=(wanted == found).double().mean().item(),
    )


def table(outcomes: Sequence[Outcome]) -> str:
    lines = [f"| {' | '.join(HEADER)} |", "|---|" + "---|" * (len(HEADER) - 1)]
    for one in outcomes:
        counts = (one.windows, one.skipped, one.with_truth, one.with_prediction)
        lines.append(f"| {one.case} | {' | '.join(map(str, counts))} | {100 * one.agreement:.5f} |")
    return "\n".join(lines)


def check(settings: Sequence[str]) -> list[Outcome]:
    """What is seen of every case of a split."""
    overrides = open_overrides(["inferer=fast", *settings], groups=["data", "inferer"])
    cfg = compose_config("eval", overrides=overrides)
    device = pick_device(cfg.device)
    changes = {key: OmegaConf.to_container(cfg[key]) for key in ("data", "inferer")}
    run_cfg, data, segmenter = load_trained(cfg.ckpt, weights=cfg.weights, changes=changes, device=device)
    fast = build_inferer(run_cfg)
    if not isinstance(fast, FastSlidingWindow):
        raise UserError(
            "inferer=NAME: it is inferer=fast that is checked; change its settings alone (inferer.overlap=0.5)."
        )
    dtype = inference_dtype(cfg, run_cfg, network=segmenter, device=device)
    data.prepare()
    return [
        check_case(case, data=data, segmenter=segmenter, fast=fast, device=device, dtype=dtype)
        for case in data.cases(cfg.split)
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
