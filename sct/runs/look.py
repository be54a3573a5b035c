"""The first look of a run: calibrated on its validation cases, kept beside it, used wherever it predicts."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sct.data.cases import Volume, window_shape
from sct.data.outputs import Outputs
from sct.errors import UserError
from sct.inference.look import Look, left_out, look_at, miss_bound, safe_threshold
from sct.models.look import FirstLook
from sct.models.worth import class_counts
from sct.runs import card
from sct.runtime.files import write_text
from sct.runtime.plain import read_json
from sct.runtime.progress import Pace

if TYPE_CHECKING:  # `Run` calibrates by this module
    from sct.runs.run import Run

logger = logging.getLogger(__name__)

FORMAT = 1
FILE = "look.json"
# another machine may round a logit to another side of the threshold, which is a logit of a validation case
ROUNDING = 0.01


def read_look(folder: Path, *, weights: Mapping[str, Tensor], has_look: bool) -> Look | None:
    """What was calibrated for a run in its folder; None, and the log says so, where nothing is for these weights."""
    path = folder / FILE
    command = f"python -m sct.eval ckpt={folder} first_look=calibrate"
    if not path.exists():
        if has_look:
            logger.info("the first look is not used: it is not calibrated. Do so with  %s", command)
        return None
    content = read_json(path, remedy="Remove it, or use first_look=none.")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is no first look of format {FORMAT}. Remove it, or use first_look=none.")
    threshold, margin = content.get("threshold"), content.get("margin")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise UserError(f"{path}: threshold={threshold!r} must be a number. Correct it, or use first_look=none.")
    if isinstance(margin, bool) or not isinstance(margin, int) or margin < 0:
        raise UserError(
            f"{path}: margin={margin!r} must be a number of patches from 0 on. Correct it, or use first_look=none."
        )
    if not has_look:
        raise UserError(f"{path}: this run has no first look. Remove the file, or use first_look=none.")
    digest = content.get("weights")
    if digest is not None and digest != card.weights_digest(weights):
        logger.warning("%s is for other weights of this run and is not used. Calibrate again with  %s", path, command)
        return None
    return Look(float(threshold), margin)


def write_look(folder: Path, content: Mapping[str, Any]) -> None:
    """content: a look's `settings`, and what it was calibrated by; without `weights` it is for any weights."""
    write_text(folder / FILE, json.dumps({"format": FORMAT, **content}, indent=1) + "\n")


def calibrate(run: Run, *, keep: float, margin: int) -> Look:
    """The highest threshold that keeps `keep` of each organ's voxels in each validation case, written to the folder.

    UserError for a run without a first look, and where no validation case has an organ.
    """
    check_settings(keep=keep, margin=margin)
    first, data = run.network.look, run.data
    if first is None:
        raise UserError(
            f"first_look=calibrate: {run.source} has no first look. Train one with  look=first  (it trains beside the "
            "network), or skip windows of air with  inferer=fast inferer.skip_below=VALUE."
        )
    look = Look(math.nan, margin)
    cases, names = data.cases("val"), list(data.outputs.scored)
    pace, seen = Pace(len(cases), unit="case"), []
    for case in cases:
        volume = data.load_case(case)
        logits = look.near(first.scan(volume.image, device=run.device)).flatten()
        seen.append((logits, organ_counts(volume, first=first, outputs=data.outputs)))
        pace.advance()
        logger.info("%s  %s  to calibrate the first look  %s", pace.place(), case.name, pace.text())
    thresholds = torch.stack([safe_threshold(logits, counts, keep=keep) for logits, counts in seen])
    if thresholds.isnan().all():
        raise UserError("first_look=calibrate: no validation case has any organ, so nothing says what may be left out.")
    threshold = float(thresholds.nan_to_num(torch.inf).min()) - ROUNDING
    missed = torch.stack([left_out(logits, counts, threshold=threshold) for logits, counts in seen])
    look = replace(look, threshold=threshold)
    organs = bounds(missed, names=names)
    windows = [0, 0]
    for case in cases:
        view = look_at(run.network, data.load_case(case).image, look, inferer=run.inferer, data=data, device=run.device)
        assert view is not None
        windows = [windows[0] + view.windows, windows[1] + view.all_windows]
    content = {**look.settings(), "weights": card.weights_digest(run.network.state_dict()), "keep": keep}
    content |= {"cases": [case.name for case in cases], "windows": windows, "organs": organs}
    write_look(run.folder, content)
    logger.info("%s\nWritten to %s", bound_table(organs, windows=windows, keep=keep), run.folder / FILE)
    return look


def check_settings(*, keep: float, margin: int) -> None:
    """UserError for settings that no look can have."""
    if not 0 < keep <= 1:
        raise UserError(f"first_look_keep={keep} must be a share of the voxels, above 0 and up to 1.")
    if margin < 0:
        raise UserError(f"first_look_margin={margin} must be a number of patches from 0 on.")


def organ_counts(volume: Volume, *, first: FirstLook, outputs: Outputs) -> Tensor:
    """Voxels of each scored class or region in each patch of a volume: (P, Q)."""
    assert volume.label is not None
    patch = window_shape(first.patch_size, num_dims=volume.label.ndim)
    counts = class_counts(volume.label.unsqueeze(0), patch_size=patch, num_values=len(outputs.label_map))[0]
    return torch.stack([counts[:, list(values)].sum(dim=1) for values in outputs.scored.values()], dim=1)


def bounds(missed: Tensor, *, names: list[str]) -> dict[str, dict[str, float]]:
    """For each organ, of the shares left out (cases, Q): number, mean and largest one, and a bound for new cases."""
    rows = {}
    for name, column in zip(names, missed.unbind(1), strict=True):
        present = column[~column.isnan()]
        if len(present):
            rows[name] = {
                "cases": len(present),
                "left_out": present.mean().item(),
                "left_out_most": present.max().item(),
                "bound": miss_bound(len(present)),
            }
    return rows


def bound_table(organs: Mapping[str, Mapping[str, float]], *, windows: list[int], keep: float) -> str:
    """What the look leaves out of the validation cases, and what that says of new cases, as a markdown table."""
    lines = [
        f"With the first look, {windows[0]} of {windows[1]} windows of the validation cases are predicted.",
        "",
        "| organ | cases | voxels left out, mean | most | new cases that lose more than "
        f"{1 - keep:.2g}: at most (95 % sure) |",
        "|---|---|---|---|---|",
    ]
    for name, row in organs.items():
        shares = f"{row['left_out']:.5f} | {row['left_out_most']:.5f} | {row['bound']:.0%}"
        lines.append(f"| {name} | {row['cases']} | {shares} |")
    return "\n".join(lines)
