"""A volume from its preprocessed image to its label map, and how much memory that takes.

Legend: C channels, Q channels of the logits, S the preprocessed grid.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sct.data.cases import Volume
from sct.data.outputs import Outputs
from sct.inference.base import Chunk, Inferer, Model
from sct.inference.regrid import SourceGrid

logger = logging.getLogger(__name__)

# a volume that takes so many times what was said last is worth another line
MUCH_MORE = 1.25


class MemoryNotice:
    """Says how much memory volumes take: of the first one, and of a later one that takes much more."""

    def __init__(self) -> None:
        self.last_size = 0.0

    def tell(self, memory: dict[str, int]) -> None:
        """memory: bytes by what they are for."""
        size = sum(memory.values())
        if size > MUCH_MORE * self.last_size:
            logger.info("memory beside the network's at most %s: %s", in_mib(size), parts(memory))
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
) -> np.ndarray:
    """Label map of a preprocessed volume on the grid of its source file; `notice`: of a command with several."""
    grid = source_grid(volume, outputs=outputs)
    # without a name: what it has begun ends with an exception, not with the last that knows of it
    for chunk in logits_for(
        grid,
        model,
        volume.image,
        inferer,
        roi_size=roi_size,
        background=outputs.background,
        device=device,
        notice=notice,
    ):
        grid.add(chunk)
        del chunk  # the next need not be computed beside it
    return grid.labels


def source_grid(volume: Volume, *, outputs: Outputs) -> SourceGrid:
    """An empty label map on the grid of the file that a volume comes from."""
    return SourceGrid(
        outputs=outputs,
        shape=volume.image.shape[1:],
        affine=volume.affine,
        source_shape=volume.source_shape,
        source_affine=volume.source_affine,
    )


def logits_for(
    grid: SourceGrid,
    model: Model,
    image: Tensor,
    inferer: Inferer,
    *,
    roi_size: Sequence[int],
    background: Tensor,
    device: torch.device,
    notice: MemoryNotice | None = None,
) -> Iterator[Chunk]:
    """Chunks of logits of an image (C, *S) as `grid` can take them; says before how much memory they take.

    notice: one for all volumes of a command, which says it once.
    """
    memory = inferer.memory(
        model,
        image.shape[1:],
        roi_size=roi_size,
        in_channels=len(image),
        num_channels=len(background),
        device=device,
    )
    if not grid.streams:
        whole = 4 * len(background) * image[0].numel()
        memory |= {"logits, whole": whole}
        logger.warning(
            "the file's axes are oblique to the network's: the logits of all voxels are kept, %s", in_mib(whole)
        )
    memory |= grid.memory
    (notice or MemoryNotice()).tell(memory)
    if grid.streams:
        yield from inferer.chunks(model, image, roi_size=roi_size, background=background, device=device)
    else:
        yield Chunk(0, inferer(model, image, roi_size=roi_size, background=background, device=device))


def parts(memory: dict[str, int]) -> str:
    return ", ".join(f"{name} {in_mib(size)}" for name, size in memory.items())


def in_mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
