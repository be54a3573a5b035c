"""Data sets: readers, preprocessing, caches and the repeatable training loader."""

from sct.data.cases import Batch, Case, LabelMap, Volume
from sct.data.module import SegmentationData
from sct.data.outputs import Classes, Outputs, Regions

__all__ = ["Batch", "Case", "Classes", "LabelMap", "Outputs", "Regions", "SegmentationData", "Volume"]
