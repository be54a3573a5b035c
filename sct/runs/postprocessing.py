"""The post-processing of a run: chosen on its validation cases, kept beside it, used wherever it predicts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sct.data.outputs import Outputs
from sct.errors import UserError
from sct.inference.look import look_at
from sct.inference.postprocess import Postprocessing, class_values, from_settings
from sct.inference.volume import MemoryNotice, predict_volume
from sct.runs import card
from sct.runtime.files import write_text
from sct.runtime.plain import read_json
from sct.runtime.precision import autocast
from sct.runtime.progress import Pace

if TYPE_CHECKING:  # `Run` chooses by this module
    from sct.runs.run import Run

logger = logging.getLogger(__name__)

FORMAT = 1
FILE = "postprocessing.json"


def read_choice(folder: Path, *, weights: Mapping[str, Tensor], outputs: Outputs) -> Postprocessing:
    """What was chosen for a run in its folder; nothing where no file says so, or, with a warning, for other weights."""
    path = folder / FILE
    if not path.exists():
        return Postprocessing()
    content = read_json(path, remedy="Remove it, or use postprocess=none.")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is no post-processing of format {FORMAT}. Remove it, or use postprocess=none.")
    chosen = from_settings(content.get("steps"), outputs=outputs, source=str(path))
    digest = content.get("weights")
    if chosen and digest is not None and digest != card.weights_digest(weights):
        logger.warning(
            "%s was chosen for other weights of this run and is not used. Choose again with  python -m sct.eval "
            "ckpt=%s postprocess=choose",
            path,
            folder,
        )
        return Postprocessing()
    return chosen


def write_choice(folder: Path, content: Mapping[str, Any]) -> None:
    """content: `steps` by class, and what they were chosen by; without `weights` they are for any weights."""
    write_text(folder / FILE, json.dumps({"format": FORMAT, **content}, indent=1) + "\n")


def choose(run: Run) -> Postprocessing:
    """The steps that raise the mean Dice of the run's validation cases, written into its folder."""
    from sct.evaluation.choice import Trial, choice_table  # scores take time to import, and a prediction needs none

    data, outputs, network = run.data, run.data.outputs, run.network
    class_values(outputs)  # regions are refused before anything is predicted
    trial = Trial(outputs)
    cases = data.cases("val")
    pace, notice = Pace(len(cases), unit="case"), MemoryNotice()
    for case in cases:
        volume = data.load_case(case)
        view = look_at(network, volume.image, run.look, inferer=run.inferer, data=data, device=run.device)
        with torch.no_grad(), autocast(run.device, run.number_format.dtype):
            labels = predict_volume(
                network,
                volume,
                run.inferer,
                roi_size=data.roi_size,
                outputs=outputs,
                device=run.device,
                notice=notice,
                view=view,
            )
        assert case.label is not None
        truth, _ = data.format.read_label(case.label)
        trial.add(labels, truth, affine=volume.source_affine)
        pace.advance()
        logger.info("%s  %s  to choose the post-processing  %s", pace.place(), case.name, pace.text())
    chosen, gains = trial.choose()
    steps = chosen.settings(outputs)
    write_choice(
        run.folder,
        {
            "steps": steps,
            "weights": card.weights_digest(network.state_dict()),
            "cases": [case.name for case in cases],
            "dice": gains,
        },
    )
    logger.info("%s\nWritten to %s", choice_table(gains, steps), run.folder / FILE)
    return chosen
