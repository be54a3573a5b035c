"""Sliding windows with MONAI's inferer: the reference method, which keeps the logits of the whole image.

Legend: B windows of a batch, C channels, Q channels of the logits (classes or regions), S the preprocessed grid
(2 or 3 dims).
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sct.data.cases import whole_box
from sct.errors import UserError
from sct.inference.base import Chunk, Inferer, Model, Request, chunk_bounds, mirrored_mean, rows_of_a_chunk
from sct.inference.stitch import fill
from sct.runtime.imports import IMPORTING

logger = logging.getLogger(__name__)

# Share of the free memory for stitched logits; the forward pass needs the rest.
STITCH_SHARE = 0.5


@dataclass(kw_only=True)
class SlidingWindow(Inferer):
    """Predicts overlapping windows of an image and blends them, with MONAI's inferer.

    stitch_device: device that stores the logits of the whole image: cpu, cuda, or auto (the network's device if they
        fit there, else cpu)
    """

    stitch_device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stitch_device not in ("auto", "cpu", "cuda"):
            raise UserError(f"inferer.stitch_device={self.stitch_device}: choose auto, cpu or cuda")

    @torch.no_grad()
    def __call__(self, model: Model, image: Tensor, request: Request) -> Tensor:
        # the import takes seconds, and the fast inferer does without
        with IMPORTING:
            from monai.inferers.utils import sliding_window_inference

        self.check_axes(roi_size := request.roi_size)
        window = request.window(num_dims=image.ndim - 1)
        stitch_device = self.plan(
            image.shape[1:], roi_size=window, num_classes=request.num_channels, device=request.device
        )

        def predictor(windows: Tensor) -> Tensor:
            logits = mirrored_mean(model, windows.reshape(*windows.shape[:2], *roi_size), axes=self.mirror_axes)
            # half precision would round the blending
            return logits.float().reshape(*logits.shape[:2], *window)

        logits = sliding_window_inference(
            image[None].to(stitch_device, torch.float32),
            roi_size=window,
            sw_batch_size=self.windows_at_once(roi_size, device=request.device),
            predictor=predictor,
            overlap=self.overlap,
            mode=self.blending,
            sw_device=request.device,
            device=stitch_device,
        )
        assert isinstance(logits, Tensor)
        if request.wanted is None:
            return logits[0]
        inside = request.wanted.voxels(whole_box(image.shape[1:])).to(stitch_device)
        return fill(logits[0], where=~inside, values=request.background)

    def chunks(self, model: Model, image: Tensor, request: Request) -> Iterator[Chunk]:
        yield from chunks_of(self(model, image, request))

    def memory(self, model: Model, shape: Sequence[int], request: Request, *, in_channels: int) -> dict[str, int]:
        window = request.window(num_dims=len(shape))
        padded = [max(size, edge) for size, edge in zip(shape, window, strict=True)]
        copied = 0 if padded == list(shape) else math.prod(padded)
        return {
            "image": 4 * in_channels * (math.prod(shape) + copied),
            # with their weights
            "logits": 4 * math.prod(padded) * (request.num_channels + 1),
            "batch": self.batch_bytes(request, in_channels=in_channels),
        }

    def plan(
        self, shape: Sequence[int], *, roi_size: Sequence[int], num_classes: int, device: torch.device
    ) -> torch.device:
        """Chooses the device for the logits of an image of `shape` (*S); a warning if they do not fit on `device`."""
        cpu = torch.device("cpu")
        if self.stitch_device == "cuda" and device.type != "cuda":
            logger.warning("inferer.stitch_device=cuda is ignored: the model is on %s; stitching there", device)
        if self.stitch_device == "cpu" or device.type == "cpu":
            return cpu
        needed = stitch_bytes(shape, roi_size=roi_size, num_classes=num_classes)
        free = free_memory(device)
        if needed <= STITCH_SHARE * free:
            return device
        logger.warning(
            "stitching on the CPU: the logits of %s x %d classes take %.2f GiB, %s has %.2f GiB free, and at most "
            "%.0f %% of it is used for logits; slower, same result (inferer.stitch_device=cpu silences this)",
            "x".join(map(str, shape)), num_classes, needed / 2**30, device, free / 2**30, 100 * STITCH_SHARE,
        )  # fmt: skip
        return cpu


def chunks_of(logits: Tensor) -> Iterator[Chunk]:
    """Logits (Q, *S) of a whole image as chunks."""
    shape = logits.shape[1:]
    for start, stop in chunk_bounds(0, shape[0], rows=rows_of_a_chunk(shape, num_channels=len(logits))):
        yield Chunk(start, logits[:, start:stop])


def stitch_bytes(shape: Sequence[int], *, roi_size: Sequence[int], num_classes: int) -> int:
    """Bytes of the stitched logits, the map of their weights, and the image (float32)."""
    voxels = math.prod(max(size, roi) for size, roi in zip(shape, roi_size, strict=True))
    return 4 * voxels * (num_classes + 2)


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate on a CUDA device, PyTorch's unused cache included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
