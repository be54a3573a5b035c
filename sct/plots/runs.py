"""Input of the figures: a trained run, one of its cases, and the window of the case that the network gets."""

import difflib
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sct.config.trust import Trust
from sct.data.cases import Case
from sct.data.splits import SPLITS
from sct.errors import UserError
from sct.runs.run import Run
from sct.runs.run import open_run as open_trained
from sct.runtime import checkpoint
from sct.training.validation import foreground_window


@dataclass(frozen=True)
class Window:
    """image (C, *S) on the network's grid, label (*S), spacing: size of a voxel along each axis."""

    image: Tensor
    label: Tensor
    spacing: list[float]


def open_run(run: str, *, options: Namespace, encoder: Mapping[str, Any] | None = None, with_data: bool = True) -> Run:
    """A run by its folder or checkpoint, with the weights, data root, device and trusted packages of `options`.

    encoder: settings of the pruning method that are changed after training, as {"reducer": {"p0": 0.8}}
    with_data: whether the data set is prepared, which figures of the weights alone do not need
    """
    checkpoint.find(run, weights=options.weights, key="run")
    changes: dict[str, Any] = {"data": {"root": options.root}} if options.root else {}
    if encoder:
        changes["encoder"] = encoder
    trust = Trust(options.plugins, option="--plugins {}")
    opened = open_trained(
        run, weights=options.weights, device=options.device, precision="fp32", changes=changes, trust=trust
    )
    if with_data:
        opened.data.prepare()
    return opened


def find_case(run: Run, case_id: str) -> tuple[Case, str]:
    """A case of the run's data set by its id, and its split; UserError that names the nearest ids."""
    known = {case.name: (case, split) for split in reversed(SPLITS) for case in run.data.cases(split)}
    if case_id not in known:
        close = difflib.get_close_matches(case_id, known, n=3, cutoff=0.5) or [
            c.name for c in run.data.cases("test")[:3]
        ]
        raise UserError(f"{run.source} has no case {case_id} in {run.data.root}. Give another, as {', '.join(close)}.")
    return known[case_id]


def load_window(run: Run, case: Case) -> Window:
    """The window of a case around its foreground; the complete case if it is not larger than data.roi_size."""
    volume = run.data.load_case(case)
    assert volume.label is not None
    truth = run.data.outputs.label_map.cleared(volume.label)
    image, label = foreground_window(volume.image, truth, size=run.data.roi_size)
    return Window(image, label, volume.spacing[-run.data.spatial_dims :])
