"""From the preprocessed image of a volume to its label map, and the memory that this takes.

Legend: C channels, Q channels of the logits, S the preprocessed grid.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sct.data.cases import Volume
from sct.data.outputs import Outputs
from sct.inference.base import Chunk, Inferer, Model, Request
from sct.inference.look import View
from sct.inference.postprocess import Postprocessing
from sct.inference.regrid import SourceGrid

logger = logging.getLogger(__name__)

# the memory is logged again for a volume that takes this many times as much as logged last
MUCH_MORE = 1.25


class MemoryNotice:
    """Logs the memory that a volume takes: for the first volume, and for later ones that take much more."""

    def __init__(self) -> None:
        self.last_size = 0.0

    def tell(self, memory: dict[str, int]) -> None:
        """Logs `memory`, bytes by purpose, if it is due."""
        size = sum(memory.values())
        if size > MUCH_MORE * self.last_size:
            logger.info("memory in addition to the network: about %s: %s", in_mib(size), parts(memory))
            self.last_size = size


def predict_volume(
    model: Model,
    volume: Volume,
    inferer: Inferer,
    *,
    roi_size: Sequence[int],
    outputs: Outputs,
    device: torch.device,
    notice: MemoryNotice | None = None,
    postprocessing: Postprocessing | None = None,
    view: View | None = None,
) -> np.ndarray:
    """Label map of a preprocessed volume on the grid of its source file.

    notice: shared by all volumes of a command, so that the memory is logged once; view: what a first look has chosen of
    the volume, None: all of it.
    """
    labels = source_grid(volume, outputs=outputs).labels
    parts = [(volume, None)] if view is None else [(volume.part(part.box), part.wanted) for part in view.parts]
    for part, wanted in parts:
        grid = source_grid(part, outputs=outputs, labels=labels)
        # the generator is not stored in a variable: after an exception it then ends at once, with its threads
        for chunk in logits_for(
            grid,
            model,
            part.image,
            inferer,
            Request(roi_size, outputs.background, device, wanted),
            notice=notice,
        ):
            grid.add(chunk)
            del chunk  # frees memory before the next chunk is computed
    return labels if postprocessing is None else postprocessing.apply(labels, affine=volume.source_affine)


def source_grid(volume: Volume, *, outputs: Outputs, labels: np.ndarray | None = None) -> SourceGrid:
    """A label map on the grid of a volume's source file: an empty one, or `labels`, to be filled in further."""
    return SourceGrid(
        outputs=outputs,
        shape=volume.image.shape[1:],
        affine=volume.affine,
        source_shape=volume.source_shape,
        source_affine=volume.source_affine,
        labels=labels,
    )


def logits_for(
    grid: SourceGrid,
    model: Model,
    image: Tensor,
    inferer: Inferer,
    request: Request,
    *,
    notice: MemoryNotice | None = None,
) -> Iterator[Chunk]:
    """Yields the logits of an image (C, *S) in chunks that suit `grid`; logs the needed memory first.

    notice: shared by all volumes of a command, so that the memory is logged once
    """
    memory = inferer.memory(model, image.shape[1:], request, in_channels=len(image))
    if not grid.streams:
        size = 4 * request.num_channels * image[0].numel()
        memory |= {"logits of all voxels": size}
        logger.warning(
            "the file's axes are oblique to the network's axes: the logits of all voxels are kept in memory, %s",
            in_mib(size),
        )
    memory |= grid.memory
    (notice or MemoryNotice()).tell(memory)
    if grid.streams:
        yield from inferer.chunks(model, image, request)
    else:
        yield Chunk(0, inferer(model, image, request))


def parts(memory: dict[str, int]) -> str:
    return ", ".join(f"{name} {in_mib(size)}" for name, size in memory.items())


def in_mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
