"""Data sets: readers, preprocessing, caches and the repeatable training loader."""

from sct.data.cases import Batch, Case, LabelMap, Volume
from sct.data.module import SegmentationData

__all__ = ["Batch", "Case", "LabelMap", "SegmentationData", "Volume"]
