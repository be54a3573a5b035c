"""Label maps of many images: what is predicted, and the loop that reads, computes and writes."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from sct.data.cases import Case, Volume
from sct.data.formats.base import FileFormat
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.inference.base import Inferer, Model
from sct.inference.postprocess import Postprocessing
from sct.inference.volume import MemoryNotice, predict_volume
from sct.runtime.overlap import overlapped
from sct.runtime.precision import autocast
from sct.runtime.progress import Pace

logger = logging.getLogger(__name__)

# windows (B, C, *S) -> logits (B, Q, *S), and the type of its mixed precision
Loader = Callable[[], tuple[Model, torch.dtype]]


def predict_cases(
    cases: Sequence[Case],
    *,
    data: SegmentationData,
    load: Loader,
    inferer: Inferer,
    device: torch.device,
    output: Path,
    postprocessing: Postprocessing | None = None,
) -> list[Path]:
    """Writes a label map of every case into a folder, never over an image; reads and writes while it computes.

    `load` gives the network and the type of its mixed precision; asked for when the first case is read.
    """
    check_output(cases, output=output, file_format=data.format)
    written = []
    pace, notice = Pace(len(cases), unit="case"), MemoryNotice()

    def compute(volume: Volume) -> np.ndarray:
        model, dtype = load()
        with autocast(device, dtype):
            return predict_volume(
                model,
                volume,
                inferer,
                roi_size=data.roi_size,
                outputs=data.outputs,
                device=device,
                notice=notice,
                postprocessing=postprocessing,
            )

    def write(case: Case, labels: np.ndarray) -> None:
        written.append(data.format.save_labels(output / case.name, labels, like=case.image))
        pace.advance()
        logger.info("%s  %s -> %s  %s", pace.place(), case.image, written[-1], pace.text())

    overlapped(cases, read=data.load_case, compute=compute, write=write)
    return written


def find_inputs(path: Path, *, file_format: FileFormat) -> list[Case]:
    """The file, or all of a folder that are of this format, as cases without label.

    A folder that is itself one image (the slices of a DICOM series) is one case.
    """
    name, suffixes = file_format.name, " or ".join(file_format.suffixes)
    if not path.exists():
        raise UserError(f"input={path} does not exist. Give a {name} file or a folder of them.")
    listed = [] if path.is_file() else [file for file in sorted(path.iterdir()) if file_format.is_image(file)]
    # an image of several files is listed once
    within = list(dict.fromkeys(map(file_format.image_of, listed)))
    if file_format.is_image(path):
        if within:
            raise UserError(
                f"input={path} is one image of several files, and holds other images such as {within[0].name}. Give "
                "each a folder of its own."
            )
        within = [file_format.image_of(path)]
    if not within:
        raise UserError(f"input={path} holds no {name} file ({suffixes}).")
    by_id: dict[str, Path] = {}
    for file in within:
        other = by_id.setdefault(file_format.stem(file), file)
        if other != file:
            raise UserError(f"input={path} holds both {other.name} and {file.name}; remove one of them.")
    return [Case(id=stem, image=file, label=None) for stem, file in by_id.items()]


def check_output(cases: Sequence[Case], *, output: Path, file_format: FileFormat) -> None:
    """UserError where the label map of a case would be written over an image."""
    targets = {file_format.label_path(output / case.name, like=case.image).resolve() for case in cases}
    places = {*targets, output.resolve()}
    files = [file for case in cases for file in (case.image, *file_format.files(case.image))]
    taken = [file for file in files if file.resolve() in places]
    if taken:
        raise UserError(f"output={output} would overwrite the input {taken[0]}, or lie in it; give another folder.")
