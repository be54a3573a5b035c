"""Whole-volume inference: predicts windows of a preprocessed image and makes labels on the grid of the file."""

from sct.inference.base import Chunk, Inferer, Model, Request
from sct.inference.fast import FastSlidingWindow
from sct.inference.regrid import SourceGrid, to_source_grid
from sct.inference.sliding import SlidingWindow
from sct.inference.volume import MemoryNotice, logits_for, predict_volume, source_grid

__all__ = [
    "Chunk",
    "FastSlidingWindow",
    "Inferer",
    "MemoryNotice",
    "Model",
    "Request",
    "SlidingWindow",
    "SourceGrid",
    "logits_for",
    "predict_volume",
    "source_grid",
    "to_source_grid",
]
