"""Lesions: the connected parts of a class, counted as found, missed and false.

Voxels belong to the same lesion where they share a face, an edge or a corner (8 neighbours in 2-D, 26 in 3-D). A true
lesion is found where at least one of its voxels is predicted as the class, else missed. A predicted part is false where
none of its voxels is of the class in the truth.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from sct.evaluation.markup import plain_markdown

RULE = (
    "A lesion is a connected part of a class (voxels that share a face, an edge or a corner). A true lesion is found "
    "where at least one of its voxels is predicted; a predicted part is false where it has no voxel of a true lesion. "
    "The counts are over all cases: sensitivity = found / (found + missed), precision = found / (found + false), "
    "F1 = 2 found / (2 found + missed + false)."
)


@dataclass(frozen=True)
class Lesions:
    """How many lesions of a class are found, missed and false."""

    found: int
    missed: int
    false: int

    @property
    def sensitivity(self) -> float:
        """found / (found + missed); nan without lesions, 0 where there are false ones alone."""
        return self._share(self.found + self.missed)

    @property
    def precision(self) -> float:
        """found / (found + false); nan without lesions, 0 where all are missed."""
        return self._share(self.found + self.false)

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + false); nan without lesions."""
        return self._share(self.found + (self.missed + self.false) / 2)

    def _share(self, of: float) -> float:
        if self.found:
            return self.found / of
        return 0.0 if self.missed + self.false else math.nan


def count_lesions(pred: np.ndarray, truth: np.ndarray) -> Lesions:
    """Lesions in two masks (*S), each of which may be empty."""
    connected = np.ones((3,) * pred.ndim, dtype=bool)
    predicted, num_predicted = ndimage.label(pred, structure=connected)
    true, num_true = ndimage.label(truth, structure=connected)
    both = pred & truth
    found = len(np.unique(true[both]))
    return Lesions(found, num_true - found, num_predicted - len(np.unique(predicted[both])))


def pooled(lesions: Iterable[Lesions]) -> dict[str, Any]:
    """Counts over cases, and the shares of the sums; a share of nothing is None."""
    own = list(lesions)
    total = Lesions(sum(of.found for of in own), sum(of.missed for of in own), sum(of.false for of in own))
    shares = {name: getattr(total, name) for name in ("sensitivity", "precision", "f1")}
    known = {name: None if math.isnan(share) else share for name, share in shares.items()}
    return {"found": total.found, "missed": total.missed, "false": total.false, **known}


def lesion_table(by_class: Mapping[str, Mapping[str, Any]]) -> str:
    """The counts as a markdown table, a line for each class."""
    heads = ("class", "true lesions", "found", "missed", "false", "sensitivity", "precision", "F1")
    lines = []
    for name, own in by_class.items():
        shares = ("-" if own[key] is None else f"{own[key]:.4f}" for key in ("sensitivity", "precision", "f1"))
        counts = (own["found"] + own["missed"], own["found"], own["missed"], own["false"])
        lines.append((name, *map(str, counts), *shares))
    return aligned([heads, *lines])


def aligned(lines: list[tuple[str, ...]]) -> str:
    """A markdown table of a line of heads and others: the first column to the left, the rest to the right."""
    lines = [tuple(map(plain_markdown, line)) for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ("-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:]))
    return "".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |\n"
        for line in (lines[0], rule, *lines[1:])
    )
