"""Validation during training: Dice of the validation cases, and an overlay picture.

Letters: B batch, R scored classes or regions, S spatial size, C channels.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from sct.data.cases import Case
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.evaluation.metrics import quick_dice
from sct.evaluation.pictures import figure
from sct.inference import Inferer
from sct.models.grid import pruning_depth
from sct.models.segmenter import Segmenter
from sct.runtime.distributed import Processes
from sct.runtime.precision import autocast, warn_once
from sct.runtime.signals import Ending, Interrupted

MEAN = "val/dice/mean"


@torch.no_grad()
def validate(
    segmenter: Segmenter,
    *,
    data: SegmentationData,
    inferer: Inferer,
    processes: Processes,
    dtype: torch.dtype,
    ending: Ending | None = None,
) -> dict[str, float]:
    """Dice of every class or region over the validation cases: fast, to choose the best weights.

    It is computed on the preprocessed grid. The cases are distributed over the processes; results are exchanged after
    the last case. Interrupted in all of them if a signal comes to `ending` in one.
    """
    segmenter.eval()

    def dice(case: Case) -> np.ndarray:
        volume = data.load_case(case)
        assert volume.label is not None
        with autocast(processes.device, dtype):
            labels = inferer.labels(
                segmenter, volume.image, roi_size=data.roi_size, outputs=data.outputs, device=processes.device
            )
        return quick_dice(labels, volume.label, outputs=data.outputs)

    rows = over_cases(dice, data, processes, ending)
    return dice_row(np.stack([rows[case] for case in sorted(rows)]), names=data.outputs.names)


def over_cases(
    judge: Callable[[Case], np.ndarray], data: SegmentationData, processes: Processes, ending: Ending | None
) -> dict[str, np.ndarray]:
    """What `judge` gives for every validation case, by the name of the case; `validate` says how it is shared."""
    rows: dict[str, np.ndarray] = {}
    received = 0
    try:
        with ending.open() if ending is not None else nullcontext():
            for case in processes.share(data.cases("val")):
                rows[case.name] = judge(case)
    except Interrupted as interrupted:
        received = interrupted.number
    if received := processes.largest(received):
        raise Interrupted(received)
    return {case: row for part in processes.gather(rows) for case, row in part.items()}


def is_better(row: Mapping[str, float], best: Mapping[str, float], *, metric: str) -> bool:
    """Whether the weights of a validation row are better than the best so far.

    If no validation case has any class and no class is predicted, there is no score: the newest weights count as the
    best until weights have a score. UserError if `metric` is the Dice of a class that no validation case has.
    """
    if metric not in row and metric != MEAN:
        raise UserError(f"trainer.best_metric={metric}: no validation case has this class; choose {MEAN}.")
    if metric not in row:
        warn_once("no validation case has any class, and none is predicted: the best weights can't be chosen by Dice")
        return metric not in best
    return metric not in best or row[metric] > best[metric]


def dice_row(table: np.ndarray, *, names: tuple[str, ...]) -> dict[str, float]:
    """Means of Dice (cases, R) as named numbers: over cases for each of R names, and then over the names.

    nan: the class or region is absent in this case. Empty if all values are nan.
    """
    present = ~np.isnan(table).all(axis=0)
    if not present.any():
        return {}
    means = np.nanmean(table[:, present], axis=0)
    row = {f"val/dice/{name}": float(mean) for name, mean in zip(np.array(names)[present], means, strict=True)}
    return {MEAN: float(means.mean()), **row}


@torch.no_grad()
def sample_overlay(segmenter: Segmenter, *, data: SegmentationData, device: torch.device) -> np.ndarray:
    """Picture (H, W, 3) of one window of the first validation case: image, truth, prediction, pruning depth."""
    segmenter.eval()
    volume = data.load_case(data.cases("val")[0])
    assert volume.label is not None
    truth = data.outputs.label_map.cleared(volume.label)
    image, label = foreground_window(volume.image, truth, size=data.roi_size)
    prediction = segmenter.predict(image.unsqueeze(0).to(device))
    num_stages = prediction.encoded.num_depths
    depth = pruning_depth(prediction.encoded)[0].cpu().numpy() if num_stages else None
    labels = data.outputs.labels(prediction.logits[0]).cpu().numpy()
    picture = figure(
        image.numpy(),
        label.numpy(),
        labels,
        depth,
        names=data.outputs.legend,
        num_stages=num_stages,
        spacing=volume.spacing[-data.spatial_dims :],
    )
    return np.asarray(picture)


def foreground_window(image: Tensor, label: Tensor, *, size: list[int]) -> tuple[Tensor, Tensor]:
    """The window of image (C, *S) and label (*S) around the centre of the foreground.

    A 2-D window of a volume shows the slice (along the first axis) with most foreground.
    """
    if label.ndim > len(size):
        fullest = int((label > 0).flatten(1).sum(dim=1).argmax())
        image, label = image[:, fullest], label[fullest]
    foreground = (label > 0).nonzero().float()
    centre = foreground.mean(dim=0) if len(foreground) else torch.tensor(label.shape).float() / 2
    window = []
    for middle, length, extent in zip(centre.tolist(), size, label.shape, strict=True):
        start = min(max(0, round(middle) - length // 2), max(0, extent - length))
        window.append(slice(start, start + length))
    return image[(slice(None), *window)], label[tuple(window)]
