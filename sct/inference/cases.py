"""Label maps of many images: the loop that reads, computes and writes."""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from sct.data.cases import Case, Volume
from sct.data.check import load_new
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.inference.base import Inferer, Model
from sct.inference.look import Look, View, look_at
from sct.inference.postprocess import Postprocessing
from sct.inference.volume import MemoryNotice, predict_volume
from sct.runtime.ledger import Claim
from sct.runtime.overlap import overlapped
from sct.runtime.precision import autocast
from sct.runtime.progress import Pace

logger = logging.getLogger(__name__)

# windows (B, C, *S) -> logits (B, Q, *S), and the type of its mixed precision
Loader = Callable[[], tuple[Model, torch.dtype]]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Turn:
    """A case whose turn has come, and where its label map goes.

    claim: keeps other processes from the case, and records how it ended; None where no other process is at work, and
    the first case that fails ends all.
    """

    case: Case
    path: Path
    claim: Claim | None = None

    def attempt(self, step: Callable[[], T]) -> T | None:
        """What a step gives; None where it fails and that is recorded."""
        if self.claim is None:
            return step()
        try:
            return step()
        except UserError as error:
            message = str(error)
        except Exception as error:  # whatever one image causes must not end the others
            logger.exception("%s: failed", self.case.name)
            message = f"{self.case.image}: {type(error).__name__}: {error}"
        logger.error("%s failed: %s", self.case.name, message)
        self.claim.fail(message)
        return None


def predict_cases(
    turns: Iterable[Turn],
    *,
    total: int,
    data: SegmentationData,
    load: Loader,
    inferer: Inferer,
    device: torch.device,
    postprocessing: Postprocessing | None = None,
    look: Look | None = None,
    ended: Callable[[], int] | None = None,
) -> list[Path]:
    """Writes the label map of every case whose turn comes; reads and writes while it computes.

    total: number of cases, with those that get no turn here; ended: how many of them have ended, whether here or not
    `load` gives the network and the type of its mixed precision; asked for when the first case is read. What a first
    look has left out of a case is on the record of its claim.
    """
    written: list[Path] = []
    pace, notice = Pace(total, unit="case"), MemoryNotice()

    def read(turn: Turn) -> tuple[Turn, Volume | None]:
        return turn, turn.attempt(lambda: read_volume(turn, data=data))

    def compute(entry: tuple[Turn, Volume | None]) -> tuple[np.ndarray, View | None] | None:
        turn, volume = entry
        if volume is None:
            return None
        model, dtype = load()

        def predict() -> tuple[np.ndarray, View | None]:
            view = look_at(model, volume.image, look, inferer=inferer, data=data, device=device)
            with autocast(device, dtype):
                labels = predict_volume(
                    model,
                    volume,
                    inferer,
                    roi_size=data.roi_size,
                    outputs=data.outputs,
                    device=device,
                    notice=notice,
                    postprocessing=postprocessing,
                    view=view,
                )
            return labels, view

        return turn.attempt(predict)

    def write(turn: Turn, result: tuple[np.ndarray, View | None] | None) -> None:
        if result is None:
            return
        labels, view = result
        if turn.claim is None:
            data.format.write_labels(turn.path, labels, like=turn.case.image)
        else:
            place = turn.claim.place(turn.path.name)
            data.format.write_labels(place, labels, like=turn.case.image)
            turn.claim.finish(None if view is None else {"look": view.record()}, written=place)
        data.format.write_beside(turn.path, labels, like=turn.case.image)
        written.append(turn.path)
        pace.advance()
        pace.done = len(written) if ended is None else ended()
        logger.info("%s  %s -> %s  %s", pace.place(), turn.case.image, turn.path, pace.text())

    overlapped(turns, read=read, compute=compute, write=write)
    return written


def read_volume(turn: Turn, *, data: SegmentationData) -> Volume:
    """The image of a case; UserError where something is wrong with it, or its label map would be written over it."""
    case = turn.case
    if turn.path.exists() and case.image.exists() and os.path.samefile(turn.path, case.image):
        raise UserError(f"{case.image}: its label map would be written over it. Give another output.")
    volume = load_new(case, data=data)
    if turn.claim is None and (remark := data.format.remark(case.image)) is not None:
        logger.info("%s: %s", case.image, remark)
    return volume
